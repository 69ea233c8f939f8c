"""Divergence: exact ways against autodiff, unbiased estimates with a calibrated standard error."""

import pytest
import torch
from scipy.stats import t as student
from torch.func import grad, jacrev, vmap

from bijectory.errors import ConfigError
from bijectory.nets import Field, TimeMLP
from bijectory.nets.field import SLOPES
from bijectory.ops.divergence import MODES, exact, hutchinson, hutchpp, probes
from bijectory.ops.estimates import mean_and_error
from bijectory.testing import randomize

forward_mode = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # raised inside torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trace(v, z):
    return vmap(lambda u: jacrev(v)(u).diagonal().sum())(z)


def points(*shape):
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("hidden", [(), (6,), (5, 6), (5, 6, 7), (4, 5, 6, 7)], ids=len)
def test_closed_form_of_perceptrons(hidden, activation):
    field = randomize(TimeMLP(3, 2, hidden, activation), scale=0.7).double()
    z, c, t = points(7, 3), points(2), torch.tensor(0.3, dtype=torch.float64)
    v, got = field.with_divergence(t, z, c)
    assert torch.equal(v, field(t, z, c))
    assert torch.allclose(got, trace(lambda u: field(t, u, c), z), rtol=0, atol=1e-12)
    assert torch.allclose(Field.with_divergence(field, t, z, c)[1], got, rtol=0, atol=1e-12)


def test_time_of_each_row():
    field, z, t = randomize(TimeMLP(2, hidden=(5,))).double(), points(4, 2), points(4)
    v, divergence = field.with_divergence(t, z)
    for k in range(4):
        row = field.with_divergence(t[k], z[k])
        assert torch.allclose(row[0], v[k])
        assert torch.allclose(row[1], divergence[k])


@forward_mode
@pytest.mark.parametrize("mode", MODES)
def test_exact_for_events_of_any_shape(mode):
    w = points(6, 6)
    v = lambda z: torch.sin(z.flatten(-2) @ w).unflatten(-1, (2, 3))
    z = points(4, 5, 2, 3)
    value, got = exact(v, z, 2, mode)
    assert torch.equal(value, v(z))
    want = trace(lambda u: torch.sin(u @ w), z.reshape(20, 6)).reshape(4, 5)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    assert exact(v, z[:0], 2, mode)[1].shape == (0, 5)


def rough(d=6):
    """A field with a Jacobian of full rank, far from symmetric, and its divergence at some points."""
    w, z = points(d, d), points(3, d)
    v = lambda u: torch.sin(u @ w) @ w.flip(0) / d
    return v, z, trace(v, z)


FOUR = probes((4, 6), generator=generator()).double()
ESTIMATES = {
    "exact, batched": lambda v, z: exact(v, z, mode="batched")[1],
    "exact, forward": lambda v, z: exact(v, z, mode="forward")[1],
    "hutchinson": lambda v, z: hutchinson(v, z, FOUR)[1].mean(0),
    "hutch++": lambda v, z: hutchpp(v, z, FOUR)[1].mean(0),
}


@forward_mode
@pytest.mark.parametrize("kind", ESTIMATES)
def test_maps_captures_and_has_two_derivatives(kind):
    v, z, _ = rough()
    call = lambda u: ESTIMATES[kind](v, u)
    assert torch.allclose(vmap(call)(z), call(z), rtol=0, atol=1e-12)
    torch._dynamo.reset()
    captured = torch.compile(call, backend="eager", fullgraph=True)(z)
    assert torch.allclose(captured, call(z), rtol=0, atol=1e-12)
    leaf = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(call(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    slope = lambda u: grad(lambda w: call(w).sum())(u)
    assert torch.allclose(slope(z), first, rtol=0, atol=1e-12)
    assert torch.allclose(grad(lambda u: slope(u).square().sum())(z), second, rtol=0, atol=1e-10)


@forward_mode
def test_two_derivatives_of_the_exact_modes_agree():
    v, z, _ = rough()
    found = [jacrev(jacrev(lambda u, m=m: exact(v, u, mode=m)[1].sum()))(z[:1]) for m in MODES]
    assert torch.allclose(found[1], found[0], rtol=0, atol=1e-10)
    assert torch.allclose(found[2], found[0], rtol=0, atol=1e-10)


def test_hutchpp_is_exact_on_the_span_of_its_sketch():
    """On a Jacobian of rank 2 a sketch of 2 leaves nothing; one of 1 leaves something."""
    a, b, z = points(6, 2), points(2, 6), points(3, 6)
    v = lambda u: torch.tanh(u @ a) @ b
    e = probes((5, 6), generator=generator()).double()
    want, got = trace(v, z), hutchpp(v, z, e)[1]
    assert got.shape == (3, 3)
    assert (got - want).abs().max() < 1e-12
    assert (hutchpp(v, z, e[:3])[1] - want).abs().max() > 1e-3
    lattice = hutchpp(
        lambda u: v(u.flatten(-2)).unflatten(-1, (2, 3)), z.unflatten(-1, (2, 3)), e.unflatten(-1, (2, 3)), 2
    )
    assert (lattice[1] - want).abs().max() < 1e-12
    still = lambda u: torch.tanh(u @ a) @ (0 * b)  # a zero last layer: the derivative of a basis would be NaN
    slope = grad(lambda b: hutchpp(lambda u: torch.tanh(u @ a) @ b, z, e)[1].sum())(0 * b)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0
    assert not hutchpp(still, z, e)[1].any()


def test_hutchpp_has_less_noise_for_the_same_passes_and_unbiased_gradients():
    v, z, _ = rough()
    many = z[:1].expand(4000, 6)
    e = lambda k: probes((k, 4000, 6), generator=generator(2)).double()
    ours, plain = hutchpp(v, many, e(6))[1].mean(0), hutchinson(v, many, e(9))[1].mean(0)
    assert ours.std() < 0.5 * plain.std()
    slopes = grad(lambda u: hutchpp(v, u, e(4))[1].mean(0).sum())(many)
    mean, error = mean_and_error(slopes)
    score = grad(lambda u: exact(v, u)[1].sum())(z[:1])[0]
    assert ((mean - score) / error).abs().max() < 4


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_estimates_are_unbiased_and_their_error_is_calibrated(noise):
    field = randomize(TimeMLP(5, hidden=(8,)), scale=0.8).double()
    v, z = (lambda u: field(torch.tensor(0.5, dtype=torch.float64), u)), points(1, 5)
    want = trace(v, z)
    mean, error = mean_and_error(hutchinson(v, z, probes((10_000, 5), noise, generator=generator()).double())[1])
    assert ((mean - want) / error).abs() < 3.5
    many = z.expand(1000, 5)  # a thousand intervals of 50 probes each
    e = probes((50, 1000, 5), noise, generator=generator(1)).double()
    mean, error = mean_and_error(hutchinson(v, many, e)[1])
    assert 0.9 < ((mean - want).abs() < 1.96 * error).double().mean() < 0.99


@pytest.mark.parametrize("k", [2, 4, 7])
def test_hutchpp_is_unbiased_and_its_error_is_calibrated(k):
    v, z, want = rough()
    estimates = hutchpp(v, z.expand(10_000, 3, 6), probes((k, 10_000, 3, 6), generator=generator()).double())[1]
    mean, error = mean_and_error(estimates.mean(0))
    assert ((mean - want) / error).abs().max() < 3.5
    if k > 2:
        mean, error = mean_and_error(estimates)
        inside = (mean - want).abs() < student.ppf(0.975, len(estimates) - 1) * error
        assert 0.9 < inside.double().mean() < 0.99


def test_probes_and_refusals():
    signs = probes((1000,), generator=generator())
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1
    assert torch.equal(signs, probes((1000,), generator=generator()))
    assert abs(probes((1000,), "gaussian", generator=generator()).var() - 1) < 0.15
    with pytest.raises(ConfigError, match="noise"):
        probes((3,), "uniform", generator=generator())
    assert mean_and_error(torch.ones(1, 4))[1].isnan().all()
    with pytest.raises(ConfigError, match="at least 2"):
        hutchpp(torch.sin, torch.zeros(3), torch.ones(1, 3))
    with pytest.raises(ConfigError, match="mode"):
        exact(torch.sin, torch.zeros(3), mode="backward")


def test_refused_fields():
    with pytest.raises(ConfigError, match="smooth"):
        TimeMLP(2, activation="relu")
    with pytest.raises(ConfigError, match="features"):
        TimeMLP(0)

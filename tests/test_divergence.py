"""Divergence: three ways against autodiff, an unbiased estimate with a calibrated standard error."""

import pytest
import torch
from torch.func import jacrev, vmap

from bijectory.errors import ConfigError
from bijectory.nets import Field, TimeMLP
from bijectory.nets.field import SLOPES
from bijectory.ops.divergence import exact, hutchinson, mean_and_error, probes
from bijectory.testing import randomize


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


def test_exact_for_events_of_any_shape():
    w = points(6, 6)
    v = lambda z: torch.sin(z.flatten(-2) @ w).unflatten(-1, (2, 3))
    z = points(4, 5, 2, 3)
    got = exact(v, z, 2)[1]
    want = trace(lambda u: torch.sin(u @ w), z.reshape(20, 6)).reshape(4, 5)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    assert exact(v, z[:0], 2)[1].shape == (0, 5)


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


def test_probes_and_refusals():
    signs = probes((1000,), generator=generator())
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1
    assert torch.equal(signs, probes((1000,), generator=generator()))
    assert abs(probes((1000,), "gaussian", generator=generator()).var() - 1) < 0.15
    with pytest.raises(ConfigError, match="noise"):
        probes((3,), "uniform", generator=generator())
    assert mean_and_error(torch.ones(1, 4))[1].isnan().all()


def test_refused_fields():
    with pytest.raises(ConfigError, match="smooth"):
        TimeMLP(2, activation="relu")
    with pytest.raises(ConfigError, match="features"):
        TimeMLP(0)

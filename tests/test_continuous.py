"""Continuous flows: closed forms, SciPy as oracle, every gradient, adaptive rows, estimates with their error."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.func import jacrev

import bijectory as bj
from bijectory.nets import Field, TimeMLP
from bijectory.testing import randomize


def points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(features=2, context=0, hidden=(8,), scale=0.5, **keywords):
    """A layer with weights of some size, and the frequencies of the default."""
    return randomize(bj.Continuous(TimeMLP(features, context, hidden), **keywords), scale=scale).double()


class Sheet(Field):
    """A field of events (2, 2) without a closed form of its own."""

    event_shape = (2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(4) + 0.3)

    def forward(self, t, z, c=None):
        t = t.reshape((*t.shape, *(1,) * (z.dim() - 2 - t.dim()), 1))
        return (torch.tanh(z.flatten(-2) @ self.weight) * (1 + t)).unflatten(-1, (2, 2))


@pytest.mark.parametrize("features", [1, 2, 6, 64])
def test_linear_field_in_closed_form_with_default_settings(features):
    """z(1) = exp(A) x, log|det| = tr A, for a matrix of norm 1."""
    a = points(features, features)
    a = a / torch.linalg.matrix_norm(a, 2)
    field = TimeMLP(features, hidden=()).double()
    with torch.no_grad():
        field.net.head.weight.copy_(a)
        field.net.head.bias.zero_()
        field.time_weight.zero_()
    flow = bj.Flow(bj.Continuous(field), bj.StandardNormal(features))
    x = points(5, features)
    z, ladj = flow.to_latent(x)
    assert (z - x @ torch.matrix_exp(a).mT).abs().max() < 1e-6
    assert (ladj - a.trace()).abs().max() < 1e-12
    shape = torch.matrix_exp(a)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(features, dtype=x.dtype), precision_matrix=shape.mT @ shape
    )
    assert (flow.log_prob(x) - exact.log_prob(x)).abs().max() < 1e-6
    assert (flow.to_data(z)[0] - x).abs().max() < 1e-6


@pytest.mark.parametrize("steps", [16, None])
def test_against_scipy(steps):
    layer, x = trained(hidden=(8, 8), steps=steps, rtol=1e-8, atol=1e-8), points(4, 2)

    def slope(t, y):
        v, trace = layer.field.with_divergence(torch.tensor(t, dtype=x.dtype), torch.tensor(y[:2]))
        return np.array([*v.tolist(), trace.item()])

    z, ladj = layer(x)
    for k in range(4):
        y = solve_ivp(slope, (0, 1), [*x[k].tolist(), 0.0], method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
        assert [*z[k].tolist(), ladj[k].item()] == pytest.approx(y, abs=1e-6)


@pytest.mark.parametrize("settings", [{"steps": 16}, {"steps": None}], ids=["fixed", "adaptive"])
def test_log_determinant_against_autodiff(settings):
    """Exact trace at a tolerance of 1e-6: within 1e-5."""
    layer, x = trained(context=2, **settings), points(3, 2)
    c = points(3, 2, seed=1)
    for call in (layer.forward, layer.inverse):
        _, ladj = call(x, c)
        for k in range(3):
            jacobian = jacrev(lambda v, call=call, k=k: call(v, c[k])[0])(x[k])
            assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-5)


def test_error_falls_with_the_order_of_the_method():
    x = points(8, 2)
    error = []
    for steps in (4, 8):
        layer = trained(method="rk4", steps=steps)
        error.append((layer.inverse(layer(x)[0])[0] - x).norm())
    assert 2**3 < error[0] / error[1] < 2**6


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_three_gradients_agree(trace):
    x, c, grads = points(4, 2), points(4, 3, seed=1), {}
    for gradient in ("solver", "checkpoint", "adjoint"):
        layer = trained(2, 3, gradient=gradient, steps=24, trace=trace)
        leaves = [x.clone().requires_grad_(), c.clone().requires_grad_(), *layer.parameters()]
        z, ladj = layer(*leaves[:2])
        first = torch.autograd.grad(z.sin().sum() + ladj.sin().sum(), leaves, create_graph=True)
        score = sum(g.square().sum() for g in first)
        grads[gradient] = *first, *torch.autograd.grad(score, leaves)
    for other in ("checkpoint", "adjoint"):
        for a, b in zip(grads["solver"], grads[other], strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-6 * (1 + a.abs().max().item()))


def test_adaptive_rows_do_not_depend_on_their_batch():
    layer, x, c = trained(2, 3, scale=1.0, steps=None), points(6, 2), points(6, 3, seed=1)
    whole = layer(x, c)
    for a, b in zip(layer(x.flip(0), c.flip(0)), whole, strict=True):
        assert torch.allclose(a.flip(0), b, rtol=0, atol=1e-13)
    x[0] = torch.nan
    beside = layer(x, c)
    assert beside[0][0].isnan().all()
    assert torch.allclose(beside[0][1:], whole[0][1:], rtol=0, atol=1e-13)
    empty = layer(x[:0], c[:0])
    assert empty[0].shape == (0, 2)
    assert empty[1].shape == (0,)
    broadcast = layer(x[1], c)
    assert broadcast[0].shape == (6, 2)
    capped = trained(scale=3.0, steps=None, max_steps=1, rtol=1e-10, atol=1e-10)
    with pytest.raises(bj.errors.ConvergenceError, match="max_steps=1"):
        capped(x[1:])


@pytest.mark.parametrize("steps", [16, None])
def test_events_of_any_shape_without_a_closed_form(steps):
    layer = bj.Continuous(Sheet(), steps=steps, rtol=1e-8, atol=1e-8).double()
    x = points(3, 2, 2)
    z, ladj = layer(x)
    for k in range(3):
        jacobian = jacrev(lambda v: layer(v)[0].flatten())(x[k]).flatten(1)
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-6)
    assert (layer.inverse(z)[0] - x).abs().max() < 1e-6
    torch._dynamo.reset()
    if steps:
        captured = torch.compile(layer.forward, backend="eager", fullgraph=True)(x)
        assert torch.allclose(captured[1], ladj, rtol=0, atol=1e-12)


def test_estimates_come_with_a_standard_error_that_covers():
    exact = trained(4, hidden=(8, 8), scale=1.0)
    layer = trained(4, hidden=(8, 8), scale=1.0, trace="hutchinson")
    assert exact.exact
    assert not layer.exact
    assert not bj.Flow(layer, bj.StandardNormal(4)).exact
    x = points(1, 4).expand(1000, 4)
    want = exact(x[:1])[1]
    estimate, error = layer.log_det(x, samples=20)
    assert torch.equal(layer.log_det(x, samples=20)[0], estimate), "a private generator repeats itself"
    assert 0.9 < ((estimate - want).abs() < 2 * error).double().mean() < 0.99
    assert (estimate.mean() - want).abs() < 4 * estimate.std() / 1000**0.5
    same, none = exact.log_det(x[:2])
    assert torch.allclose(same, want)
    assert (none == 0).all()


def test_probes_are_fixed_until_they_are_redrawn():
    layer, x = trained(4, trace="hutchinson", probes=2), points(3, 4)
    first = layer(x)[1]
    assert torch.equal(layer(x)[1], first)
    layer.redraw(torch.Generator().manual_seed(5))
    assert not torch.equal(layer(x)[1], first)
    assert torch.allclose(layer.inverse(layer(x)[0])[1], -layer(x)[1], atol=1e-5)


def test_hybrid_with_discrete_layers_is_saved_and_loaded(tmp_path):
    coupling = bj.Coupling(bj.Affine(), (True, False), 3, hidden=(8,))
    layers = (coupling, bj.Continuous(TimeMLP(2, 3, (8,))), bj.Inverse(bj.Continuous(TimeMLP(2, 0, (8,)), "rk4")))
    flow = randomize(bj.Flow(bj.Chain(*layers), bj.StandardNormal(2)))
    x, c = points(5, 2).float(), points(5, 3).float()
    bj.save(flow, tmp_path / "hybrid")
    assert torch.equal(bj.load(tmp_path / "hybrid").log_prob(x, c), flow.log_prob(x, c))
    assert (flow.to_data(*(flow.to_latent(x, c)[0], c))[0] - x).abs().max() < 1e-4


@pytest.mark.parametrize(
    "keywords",
    [
        {"steps": 0},
        {"trace": "none"},
        {"probes": 0},
        {"gradient": "magic"},
        {"method": "rk5"},
        {"method": "rk4", "steps": None},
        {"gradient": "adjoint", "steps": None},
    ],
)
def test_refused_settings(keywords):
    with pytest.raises(bj.errors.ConfigError):
        bj.Continuous(TimeMLP(2), **keywords)

"""Monotone integrals: against an adaptive rule, normalised, invertible with steep integrands, gradients both ways."""

import pytest
import scipy.integrate
import torch

import bijectory as bj
from bijectory.testing import randomize

F64 = torch.float64


def layer(features=2, context=0, scale=0.3, **keywords):
    torch.manual_seed(0)
    return randomize(bj.MonotoneIntegral(features, context, (16,), **keywords), 0, scale).double()


@pytest.mark.parametrize("rule", ["gauss-legendre", "clenshaw-curtis"])
def test_against_an_adaptive_rule(rule):
    built = layer(1, rule=rule, nodes=40)
    for x in (-7.0, -2.0, 0.7, 4.9, 9.0):
        density = lambda t: built(torch.tensor([t], dtype=F64))[1].exp().item()
        want = scipy.integrate.quad(density, 0, x, points=[-5, 5], epsabs=1e-11, epsrel=1e-11)[0]
        got = built(torch.tensor([x], dtype=F64))[0] - built(torch.zeros(1, dtype=F64))[0]
        assert got.item() == pytest.approx(want, abs=1e-8)


def test_starts_near_the_identity_with_every_weight_learning():
    torch.manual_seed(0)
    built = bj.MonotoneIntegral(3)
    x = torch.randn(256, 3)
    z, ladj = built(x)
    assert (z - x).abs().max() < 1.0
    assert ladj.abs().max() < 0.5
    ((z**2).sum(-1) / 2 - ladj).mean().backward()
    assert all((p.grad != 0).any() for p in built.parameters())


def test_the_offset_moves_the_latent():
    built, x = layer(), torch.randn(5, 2, dtype=F64)
    before = built(x)[0]
    with torch.no_grad():
        built.net.head.bias[:2] += torch.tensor([1.0, -2.0])
    assert torch.allclose(built(x)[0] - before, torch.tensor([1.0, -2.0], dtype=F64))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_steep_integrands_come_back(scale):
    built = layer(scale=scale)
    z = torch.randn(200, 2, dtype=F64) * 2
    with torch.no_grad():
        x, ladj = built.inverse(z)
        again, back = built(x)
    assert torch.allclose(again, z, atol=1e-10)
    assert torch.allclose(ladj, -back, atol=1e-10)


def test_outliers_see_straight_lines():
    built = layer()
    x = torch.tensor([[1e6, -1e6]], dtype=F64)
    (z, ladj), (_, near) = built(x), built(x / 1e3)
    assert torch.allclose(ladj[:1], built(torch.tensor([[1e6, -5.0]], dtype=F64))[1])
    assert near.isfinite().all()
    with torch.no_grad():
        assert torch.allclose(built.inverse(z)[0], x, rtol=1e-12)


def test_gradients_through_the_inverse_reach_the_integrand():
    built = layer(nodes=12)
    z = torch.randn(2, 2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: built.inverse(z), z)
    p = built.integrand.layers[0].weight

    def score():
        return built.inverse(z)[0].sin().sum()

    (g,) = torch.autograd.grad(score(), p)
    step = torch.zeros_like(p)
    step[0] = 1e-5
    with torch.no_grad():
        p += step
        up = score()
        p -= 2 * step
        down = score()
    assert (up - down).item() / 2e-5 == pytest.approx(g[0].sum().item(), rel=1e-5)


def test_incremental_inverse_is_the_inverse_in_any_order():
    built = layer(3, 2, order=(2, 0, 1), nodes=12)
    x, c = torch.randn(5, 3, dtype=F64), torch.randn(5, 2, dtype=F64)
    with torch.no_grad():
        assert torch.allclose(built.inverse(built(x, c)[0], c)[0], x, atol=1e-10)
    j = torch.func.jacrev(lambda v: built(v, c[0])[0])(x[0])[[2, 0, 1]][:, [2, 0, 1]]
    assert torch.allclose(j.triu(1), torch.zeros(3, 3, dtype=F64))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"embedding": 0}, "embedding"),
        ({"nodes": 1}, "nodes"),
        ({"bound": -1.0}, "bound"),
        ({"min_slope": 0.0}, "min_slope"),
        ({"rule": "simpson"}, "rule"),
        ({"integrand": bj.nets.MLP(1, 1, (4,), 3)}, "integrand has"),
        ({"net": bj.nets.MaskedMLP(2, 3)}, "net has"),
        ({"net": bj.nets.MaskedMLP(2, 17), "order": (1, 0)}, "another order"),
    ],
)
def test_arguments_are_checked(bad, match):
    with pytest.raises(bj.errors.ConfigError, match=match):
        bj.MonotoneIntegral(2, **bad)


def test_stored_and_rebuilt():
    built = layer(2, 1, nodes=9, rule="clenshaw-curtis", bound=3.0)
    again = bj.spec.from_spec(bj.spec.to_spec(built)).double()
    again.load_state_dict(built.state_dict())
    x, c = torch.randn(4, 2, dtype=F64), torch.randn(4, 1, dtype=F64)
    assert torch.equal(again(x, c)[0], built(x, c)[0])

"""Planar and radial layers beyond the laws: the paper's formulas, and parameters far from the start."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from laws.cases import randomize

F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("layer", [bj.Planar(3), bj.Radial(3)], ids=lambda v: type(v).__name__)
def test_starts_at_the_identity(layer):
    x = noise(7, 3).float()
    for way in (layer.forward, layer.inverse):
        z, ladj = way(x)
        torch.testing.assert_close(z, x)
        torch.testing.assert_close(ladj, torch.zeros(7))


def test_radial_is_the_map_of_the_paper():
    layer, x = randomize(bj.Radial(3), scale=1.0).double(), noise(50, 3)
    centre, a, b = layer.phi.split((3, 1, 1))
    alpha, beta = a.exp().log1p(), b.exp().log1p() - a.exp().log1p()
    r = (x - centre).norm(dim=-1, keepdim=True)
    h, dh = 1 / (alpha + r), -1 / (alpha + r) ** 2
    z, ladj = layer(x)
    torch.testing.assert_close(z, x + beta * h * (x - centre))
    torch.testing.assert_close(ladj, (2 * (1 + beta * h).log() + (1 + beta * h + beta * dh * r).log())[:, 0])


def test_planar_is_a_ridge_and_keeps_the_constraint():
    layer, x = randomize(bj.Planar(3), scale=2.0).double(), noise(50, 3)
    u, w, b = layer.phi.split((3, 3, 1))
    u_hat = layer._unpack(None)[0]
    assert w @ u_hat > -1
    h = torch.tanh(x @ w + b)
    z, ladj = layer(x)
    torch.testing.assert_close(z, x + h[:, None] * u_hat)
    torch.testing.assert_close(ladj, (1 + (1 - h**2) * (w @ u_hat)).log())
    across = u_hat - u  # only the part along w is changed
    torch.testing.assert_close(across, (across @ w) / (w @ w) * w)


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("kind", [bj.Planar, bj.Radial])
def test_round_trips_at_large_parameters(kind, scale):
    x = noise(2000, 3)
    for seed in range(5):
        layer = randomize(kind(3), seed, scale).double()
        z, ladj = layer(x)
        back, back_ladj = layer.inverse(z)
        slope = (-ladj).exp().clamp(min=1)[:, None]  # how far a rounding of z moves x
        assert ((back - x).abs() <= 1e-10 * slope * (1 + z.abs())).all()
        keep = slope[:, 0] < 1e3
        torch.testing.assert_close(back_ladj[keep], -ladj[keep], rtol=1e-7, atol=1e-7)


def test_the_centre_and_a_vanished_direction_are_fine():
    radial, planar = bj.Radial(2), bj.Planar(2)
    x = radial.phi.detach()[:2].clone()
    with torch.no_grad():
        radial.phi[2] = 1.0
        planar.phi.zero_()
    for layer in (radial, planar):
        for way in (layer.forward, layer.inverse):
            leaf = x.clone().requires_grad_()
            z, ladj = way(leaf)
            (z.sum() + ladj).backward()
            torch.testing.assert_close(z, x)
            assert leaf.grad.isfinite().all()


def test_hyper_parameters_are_checked():
    for kind in (bj.Planar, bj.Radial):
        with pytest.raises(ConfigError, match="features"):
            kind(0)

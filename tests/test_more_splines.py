"""Linear, quadratic, cubic and linear-rational splines: formulas, extremes, derivatives, shapes."""

import math

import numpy as np
import pytest
import scipy.interpolate
import torch

import bijectory as bj
from bijectory.errors import ConfigError

F64 = torch.float64
FAMILIES = (bj.LinearSpline, bj.QuadraticSpline, bj.CubicSpline, bj.LinearRational)
TAILS = ("identity", "linear", "circular")
B = 5.0
N = 4_000

everywhere = pytest.mark.parametrize("tails", TAILS)
families = pytest.mark.parametrize("family", FAMILIES)


def draw(spline, *shape, scale=1.5, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g, dtype=dtype) * spline.bound * 0.8
    return x, torch.randn(spline.n_params, *shape, generator=g, dtype=dtype) * scale


def extreme(spline, scale):
    """Uniform points of the box with its edges, their neighbours and the centre, each with a spline of its own."""
    g = torch.Generator().manual_seed(scale)
    phi = torch.randn(spline.n_params, N, generator=g) * scale
    x = (torch.rand(N, generator=g) * 2 - 1) * B
    edge = torch.tensor([B, -B])
    x[:5] = torch.cat((edge, torch.nextafter(edge, torch.zeros(2)), torch.zeros(1)))
    return x, phi


@everywhere
@families
@pytest.mark.parametrize("scale", [1, 5, 20, 100, 1000])
def test_extreme_logits_stay_finite_and_in_the_box(family, tails, scale):
    spline = family(8, B, tails)
    for f in (spline.forward, spline.inverse):
        x, phi = (v.requires_grad_() for v in extreme(spline, scale))
        y, ladj = f(x, phi)
        assert y.dtype == ladj.dtype == torch.float32
        for value in (y, ladj, *torch.autograd.grad(y.sum() + ladj.sum(), (x, phi))):
            assert torch.isfinite(value).all()
        assert y.abs().max() <= B


@everywhere
@families
@pytest.mark.parametrize("scale", [1, 20, 1000])
def test_round_trip_at_extreme_logits_in_float64(family, tails, scale):
    """The error ``|f(f^-1(y)) - y|`` is that of rounding ``x``, and the slopes of both ways are reciprocal."""
    spline = family(8, B, tails)
    y, phi = (v.double() for v in extreme(spline, scale))
    x, ladj = spline.inverse(y, phi)
    again, back = spline.forward(x, phi)
    assert ((again - y).abs() <= 4e-15 * (1 + (-ladj).exp())).all()
    ordinary = ladj.abs() < 5
    assert (ladj + back)[ordinary].abs().max() <= 1e-6


@everywhere
@families
@pytest.mark.parametrize("scale", [1, 20, 1000])
def test_monotone_and_the_ends_fixed(family, tails, scale):
    spline = family(8, B, tails)
    phi = extreme(spline, scale)[1][:, :100].double()
    x = torch.linspace(-B * 1.01, B * 1.01, 1000, dtype=F64).unsqueeze(-1).expand(1000, 100)
    for f in (spline.forward, spline.inverse):
        y, _ = f(x, phi.unsqueeze(1))
        assert (y.diff(dim=0) > 0).all()
        single, _ = f(x.float(), phi.float().unsqueeze(1))
        assert (single.diff(dim=0) >= -(2.0**-20)).all()  # four last places of 5
        ends, _ = f(torch.tensor([[-B], [B]], dtype=F64).expand(2, 100), phi.unsqueeze(1))
        assert torch.allclose(ends, torch.tensor([[-B], [B]], dtype=F64), atol=1e-12, rtol=0)


@everywhere
@families
def test_derivatives_against_differences(family, tails):
    spline = family(3, 2.0, tails)
    x, phi = (v.requires_grad_() for v in draw(spline, 6))
    for f in (spline.forward, spline.inverse):
        assert torch.autograd.gradcheck(f, (x, phi))
        assert torch.autograd.gradgradcheck(f, (x, phi), fast_mode=True)  # all entries at once, in one direction


@families
def test_nan_touches_nobody_else_and_infinity_is_outside(family):
    spline = family(4, B)
    x, phi = draw(spline, 30)
    x = x.clamp(-4, 4)
    clean = spline.forward(x, phi)[0]
    x[7], phi[0, 9], x[11] = torch.nan, torch.nan, torch.inf
    for f in (spline.forward, spline.inverse):
        y, ladj = f(x, phi)
        assert y.isnan().nonzero().flatten().tolist() == [7, 9]
        assert y[11] == torch.inf
        assert ladj[11] == 0
    keep = torch.tensor([i for i in range(30) if i not in (7, 9, 11)])
    assert torch.equal(spline.forward(x, phi)[0][keep], clean[keep])


@families
def test_circular_is_periodic(family):
    spline = family(5, B, "circular")
    phi = draw(spline, 1)[1]
    x = torch.linspace(-4.9, 4.9, 50, dtype=F64)
    y, ladj = spline.forward(x, phi)
    turned, same = spline.forward(x - 4 * B, phi)
    assert torch.allclose(turned, y - 4 * B, atol=1e-12)
    assert torch.allclose(same, ladj, atol=1e-9)
    if family is not bj.LinearSpline:  # a histogram jumps, at the seam too
        slopes = spline.forward(torch.tensor([-B, B - 1e-11], dtype=F64), phi)[1]
        assert torch.allclose(slopes[0], slopes[1], atol=1e-7)


@families
def test_linear_tails_go_on_with_the_slope_at_the_end(family):
    spline = family(5, B, "linear")
    phi = draw(spline, 1)[1]
    x = torch.tensor([B - 1e-9, B + 1.0, B + 2.0, -B - 1.0, -B - 2.0], dtype=F64)
    y, ladj = spline.forward(x, phi)
    assert torch.allclose(ladj[1:3], ladj[:1].expand(2), atol=1e-6)
    assert (y[2] - y[1]).item() == pytest.approx(ladj[1].exp().item())
    assert (y[3] - y[4]).item() == pytest.approx(ladj[3].exp().item())


@pytest.mark.parametrize("family", [bj.QuadraticSpline, bj.LinearRational])
def test_identity_tails_are_joined_smoothly(family):
    spline = family(5, B)
    x = torch.tensor([-B + 1e-12, B - 1e-12], dtype=F64)
    assert spline.forward(x, draw(spline, 1)[1])[1].abs().max() < 1e-7


def test_linear_spline_is_the_histogram():
    spline = bj.LinearSpline(5, 1.0)
    x, phi = draw(spline, 50)
    x = x.clamp(-0.99, 0.99)
    for k in range(50):
        heights = 1e-3 + (1 - 5e-3) * torch.softmax(phi[:, k], 0).numpy()
        knots = np.concatenate(([0.0], heights.cumsum()))
        want = 2 * np.interp((x[k].item() + 1) / 2, np.linspace(0, 1, 6), knots) - 1
        assert spline.forward(x[k], phi[:, k])[0].item() == pytest.approx(want, abs=1e-12)


def test_quadratic_spline_has_a_piecewise_linear_density_of_mass_one():
    spline = bj.QuadraticSpline(4, 1.0, "linear")
    _, phi = draw(spline, 1)
    widths = 1e-3 + (1 - 4e-3) * torch.softmax(phi[:4, 0], 0).numpy()
    knots = np.concatenate(([0.0], widths.cumsum()))
    p = np.exp(phi[4:, 0].numpy())
    p = 1e-3 + (1 - 1e-3) * p / np.trapezoid(p, knots)
    u = np.linspace(0.001, 0.999, 200)
    y, ladj = spline.forward(torch.tensor(2 * u - 1), phi)
    np.testing.assert_allclose(ladj.exp().numpy(), np.interp(u, knots, p), rtol=1e-10)
    fine = np.linspace(0, u[-1], 400_001)
    assert (y[-1].item() + 1) / 2 == pytest.approx(np.trapezoid(np.interp(fine, knots, p), fine), abs=1e-8)


@pytest.mark.parametrize("tails", ["linear", "circular"])
def test_cubic_spline_is_the_hermite_interpolant_with_the_slopes_of_steffen(tails):
    spline = bj.CubicSpline(5, 1.0, tails)
    _, phi = draw(spline, 1)
    w, h = (1e-3 + (1 - 5e-3) * torch.softmax(v[:, 0], 0).numpy() for v in (phi[:5], phi[5:10]))
    s = h / w
    left, right = (np.roll(s, 1), s), (np.roll(w, 1), w)
    p = (left[0] * right[1] + left[1] * right[0]) / (right[0] + right[1])
    d = np.minimum(np.minimum(2 * left[0], 2 * left[1]), p)
    d = np.append(d, d[0])
    if tails == "linear":
        d[[0, -1]] = s[[0, -1]] * (1e-3 + (3 - 1e-3) / (1 + np.exp(-phi[10:, 0].numpy()) * 2 / (1 - 1e-3)))
    knots, values = (np.concatenate(([0.0], v.cumsum())) for v in (w, h))
    u = np.linspace(0.001, 0.999, 300)
    want = scipy.interpolate.CubicHermiteSpline(knots, values, d)
    y, ladj = spline.forward(torch.tensor(2 * u - 1), phi)
    np.testing.assert_allclose((y.numpy() + 1) / 2, want(u), atol=1e-12)
    np.testing.assert_allclose(ladj.exp().numpy(), want.derivative()(u), rtol=1e-8)


def test_root_of_every_cubic_of_a_bin():
    """All pairs of slopes that occur, their extremes and beyond included, give back the point that they were made from."""
    from bijectory.ops.spline_cubic import _solve, _theta

    levels = torch.tensor([1e-10, 1e-8, 1e-6, 1e-3, 0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], dtype=F64)
    small = torch.tensor([0.0, 1e-13, 1e-9, 1e-6, 1e-5, 9e-5, 2e-4, 1e-3], dtype=F64)
    t = torch.cat((small, torch.linspace(0.01, 1, 300, dtype=F64)))
    alpha, beta, t = torch.meshgrid(levels, levels, t, indexing="ij")
    sound = alpha + beta <= 5.0  # two ends of one box never belong to one bin
    theta = _theta(t, 1 - t, alpha, beta)
    use = sound & (theta <= 0.5)
    torch.testing.assert_close(_solve(theta[use], alpha[use], beta[use]), t[use], rtol=1e-8, atol=1e-14)


def test_linear_rational_pieces_meet_with_one_slope_and_are_fractional_linear():
    spline = bj.LinearRational(3, 1.5, "linear")  # the unit box is three wide: bins of width one at raw zero
    phi = torch.zeros(spline.n_params, 1, dtype=F64)
    phi[6:9, 0] = torch.tensor([-1.0, 0.4, 2.0])
    phi[9:, 0] = torch.tensor([1.0, -0.5, 0.3, 2.0])
    lam = 0.025 + 0.95 * torch.sigmoid(phi[7, 0]).item()
    x = torch.linspace(-0.499999, 0.499999, 4001, dtype=F64)  # the middle bin
    y, ladj = spline.forward(x, phi)
    first = (x + 0.5) < lam
    for part in (first, ~first):
        # A fractional linear map has 1 / sqrt(slope) linear in x.
        straight = (-0.5 * ladj[part]).exp()
        assert np.abs(np.polyval(np.polyfit(x[part], straight, 1), x[part]) - straight.numpy()).max() < 1e-10
    assert ladj.diff().abs().max() < 0.01
    assert y.diff().abs().max() < 0.01
    at_knots = spline.forward(torch.tensor([-0.5, 0.5], dtype=F64), phi)[1].exp()
    slopes = 1e-3 + torch.nn.functional.softplus(phi[10:12, 0] + math.log(math.expm1(1 - 1e-3)))
    torch.testing.assert_close(at_knots, slopes)


def test_float32_inverse_of_the_cubic_is_as_good_as_its_input():
    """The exact spline maps it back to ``y``, up to a few last places of ``y`` and of ``x``."""
    spline = bj.CubicSpline(8, B)
    y, phi = extreme(spline, 5)
    again, ladj = spline.forward(spline.inverse(y, phi)[0].double(), phi.double())
    assert ((again - y).abs() <= 4e-6 * (1 + ladj.exp())).all()


@families
def test_hyper_parameters_are_checked(family):
    for arguments in ({"bins": 1}, {"bound": -1.0}, {"tails": "free"}, {"min_bin": 0.5}):
        with pytest.raises(ConfigError):
            family(**arguments)

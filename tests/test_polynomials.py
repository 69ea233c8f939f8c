"""Sum-of-squares and Bernstein polynomials against NumPy's and SciPy's; quadrature; the inverse of a box with lines."""

import math

import numpy as np
import pytest
import scipy.interpolate
import torch

import bijectory as bj
from bijectory.ops.monotone import box_inverse
from bijectory.ops.quadrature import integrate, quadrature

F64 = torch.float64
FAMILIES = [bj.SumOfSquares(), bj.SumOfSquares(1, 2, 3.0), bj.Bernstein(), bj.Bernstein(7, 2.0, "box")]


def draw(family, n=200, scale=1.0):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, generator=g, dtype=F64) * 3
    return x, torch.randn(family.n_params, n, 1, generator=g, dtype=F64) * scale


# -- quadrature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8, 33])
@pytest.mark.parametrize(
    ("name", "degree"), [("gauss-legendre", lambda n: 2 * n - 1), ("clenshaw-curtis", lambda n: n - 1)]
)
def test_exact_for_polynomials_up_to_the_degree(name, degree, n):
    tau, weight = (torch.tensor(v, dtype=F64) for v in quadrature(name, n))
    assert (weight > 0).all()
    for power in (0, 1, degree(n)):
        exact = integrate(lambda t, power=power: t**power, torch.tensor([0.9, -1.1], dtype=F64), tau, weight)
        want = torch.tensor([0.9, -1.1], dtype=F64) ** (power + 1) / (power + 1)
        assert torch.allclose(exact, want, rtol=1e-12)
    beyond = degree(n) + 1 + (degree(n) + 1) % 2  # odd rules are exact for one odd degree more
    off = integrate(lambda t: t**beyond, torch.tensor(1.0, dtype=F64), tau, weight) - 1 / (beyond + 1)
    assert n > 8 or abs(off) > 1e-12


def test_rules_converge_geometrically():
    x = torch.tensor(3.0, dtype=F64)
    for name in ("gauss-legendre", "clenshaw-curtis"):
        rule = [torch.tensor(v, dtype=F64) for v in quadrature(name, 32)]
        assert integrate(torch.tanh, x, *rule).item() == pytest.approx(math.log(math.cosh(3)), abs=1e-11)


# -- against other libraries ------------------------------------------------------------------------------------------


def test_sum_of_squares_against_numpy():
    family = bj.SumOfSquares(2, 3, bound=5.0, min_slope=1e-6)
    x, phi = draw(family)
    y, ladj = family.forward(x.clamp(-5, 5), phi)
    for i in range(20):
        a = phi[:-1, i, 0].view(4, 2).numpy().copy()
        a[-2:] += np.array([[-0.5, 0.5], [1.0, 1.0]]) / 2**0.5
        total = sum(np.poly1d(a[:, k]) ** 2 for k in range(2)) * (1 - 1e-6) + 1e-6  # in powers of t / 5
        u = x[i, 0].clamp(-5, 5).item() / 5
        assert y[i, 0].item() == pytest.approx(5 * np.polyint(total)(u) + phi[-1, i, 0].item(), rel=1e-10)
        assert ladj[i, 0].item() == pytest.approx(math.log(total(u)), abs=1e-10)


def test_bernstein_against_scipy():
    family = bj.Bernstein(9, 2.0, "box", min_slope=1e-6)
    x, phi = draw(family)
    inner = x.clamp(-2, 2)
    y, ladj = family.forward(inner, phi)
    for i in range(20):
        increments = 4 * (1e-6 / 9 + (1 - 1e-6) * phi[:, i, 0].softmax(0).numpy())
        theta = np.concatenate(([-2.0], -2 + np.cumsum(increments)))
        poly = scipy.interpolate.BPoly(theta[:, None], [-2, 2])
        at = inner[i, 0].item()
        assert y[i, 0].item() == pytest.approx(float(poly(at)), abs=1e-12)
        assert ladj[i, 0].item() == pytest.approx(math.log(poly.derivative()(at)), abs=1e-10)


def test_the_box_of_bernstein_goes_to_itself():
    family = bj.Bernstein(7, 2.0, "box")
    _, phi = draw(family, scale=3.0)
    edge = torch.tensor([-2.0, 2.0], dtype=F64)
    assert torch.allclose(family.forward(edge, phi)[0], edge.expand(200, 2), atol=1e-12)


# -- whatever the parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_continuously_differentiable_at_the_box(family):
    _, phi = draw(family)
    b = torch.tensor([-family.bound, family.bound], dtype=F64)
    for here, there in ((b * (1 - 1e-9), b * (1 + 1e-9)),):
        (y0, l0), (y1, l1) = family.forward(here, phi), family.forward(there, phi)
        assert torch.allclose(y0, y1, atol=1e-5)
        assert torch.allclose(l0, l1, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 10, 100])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_inverse_hits_the_target(family, scale):
    y, phi = draw(family, scale=scale)
    for target in (y, 1e4 * y):
        x, ladj = family.inverse(target, phi)
        again, back = family.forward(x, phi)
        assert ((again - target).abs() <= 1e-11 * (1 + target.abs() + phi[-1].abs() + (1 + x.abs()) * back.exp())).all()
        assert torch.allclose(ladj, -back, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_gradients_through_the_inverse(family):
    y, phi = (v.requires_grad_() for v in draw(family, n=4))
    assert torch.autograd.gradcheck(family.inverse, (y, phi), fast_mode=True)  # all entries at once, in one direction


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_every_parameter_learns_from_the_start(family):
    phi = torch.zeros(family.n_params, 1, 1, dtype=F64, requires_grad=True)
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.3
    y, ladj = family.forward(x, phi)
    (g,) = torch.autograd.grad((y.square() / 2 - ladj).mean(), phi)
    assert (g.abs() > 1e-9).all()
    assert (g.flatten().sort().values.diff() > 1e-12).all(), "no two parameters learn the same"


def test_parameters_of_a_larger_batch_than_x():
    for family in FAMILIES:
        x, phi = draw(family, n=6)
        y, _ = family.forward(x[0], phi)
        assert torch.allclose(y, family.forward(x[:1].expand(6, 1), phi)[0])
        assert torch.allclose(family.inverse(y[0], phi)[0][0], x[0], atol=1e-9)


def test_box_inverse_on_the_lines_needs_no_search():
    def f(x, k):
        inner = x.clamp(-1, 1)
        return k * (inner.sinh() + (x - inner) * inner.cosh()), k.log() + inner.cosh().log()

    edge = 2 * math.sinh(1)
    y = torch.tensor([-1e6, -5.0, -edge - 1e-6, -edge, 0.1, edge, edge + 1e-6, 5.0, 1e6], dtype=F64)
    x, ladj = box_inverse(f, y, (torch.tensor(2.0, dtype=F64),), 1.0, iterations=8)
    assert torch.allclose(f(x, torch.tensor(2.0, dtype=F64))[0], y, rtol=1e-12)
    assert torch.allclose(ladj[[0, -1]], -torch.tensor(2 * math.cosh(1), dtype=F64).log())


@pytest.mark.parametrize(
    ("family", "bad"),
    [
        (bj.SumOfSquares, {"polynomials": 0}),
        (bj.SumOfSquares, {"degree": 1.5}),
        (bj.SumOfSquares, {"bound": 0.0}),
        (bj.SumOfSquares, {"min_slope": 0.0}),
        (bj.Bernstein, {"degree": 1}),
        (bj.Bernstein, {"bound": math.inf}),
        (bj.Bernstein, {"range": "unit"}),
        (bj.Bernstein, {"min_slope": 1.0}),
    ],
)
def test_hyper_parameters_are_checked(family, bad):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(bad))):
        family(**bad)


def test_stored_and_rebuilt():
    for family in FAMILIES:
        assert bj.spec.from_spec(bj.spec.to_spec(family)) == family

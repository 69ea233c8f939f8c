"""Scalar families: both directions, log-derivatives, textbook values, extremes, domains."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import bijectory as bj
from bijectory.errors import ConfigError

REAL = (-math.inf, math.inf)
POSITIVE = (0.0, math.inf)
# bijection, (domain, range) of forward
CASES = [
    (bj.Exp(), REAL, POSITIVE),
    (bj.LeakyReLU(), REAL, REAL),
    (bj.Log(), POSITIVE, REAL),
    (bj.Logit(), (0.0, 1.0), REAL),
    (bj.Logit(-3.0, 0.0), (-3.0, 0.0), REAL),
    (bj.Sigmoid(), REAL, (0.0, 1.0)),
    (bj.Sigmoid(2.0, 2.5), REAL, (2.0, 2.5)),
    (bj.SinhArcsinh(), REAL, REAL),
    (bj.Softplus(), REAL, POSITIVE),
    (bj.Tanh(), REAL, (-1.0, 1.0)),
    (bj.YeoJohnson(), REAL, REAL),
    (bj.YeoJohnson(0.5), REAL, REAL),
]
ids = lambda case: repr(case) if isinstance(case, bj.Bijection) else ""
F64 = torch.float64


def grid(interval, n=201, dtype=F64):
    """Points across an interval, dense at finite ends, zero among them where it is inside."""
    t = torch.linspace(-6, 6, n, dtype=dtype)
    low, high = interval
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * t.sigmoid()
    return t.exp() if math.isfinite(low) else t


def planes(bijection, n, seed=0, scale=1.5, dtype=F64):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(bijection.n_params, n, generator=g, dtype=dtype)


@pytest.mark.parametrize(("bijection", "domain", "range_"), CASES, ids=ids)
def test_round_trips_and_log_derivatives(bijection, domain, range_):
    for interval, go, back in (
        (domain, bijection.forward, bijection.inverse),
        (range_, bijection.inverse, bijection.forward),
    ):
        x = grid(interval).requires_grad_()
        phi = planes(bijection, len(x))
        y, ladj = go(x, phi)
        x2, ladj2 = back(y, phi)
        slope = torch.autograd.grad(y.sum(), x)[0]
        torch.testing.assert_close(x2, x, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ladj, slope.log(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ladj2, -ladj, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("bijection", "domain", "range_"), CASES, ids=ids)
def test_second_derivatives(bijection, domain, range_):
    for interval, go in ((domain, bijection.forward), (range_, bijection.inverse)):
        x = grid(interval, 21).requires_grad_()
        if isinstance(bijection, (bj.LeakyReLU, bj.YeoJohnson)):
            x = x[x.abs() > 1e-3].detach().requires_grad_()  # a kink in the map or in its second derivative
        phi = planes(bijection, len(x)).requires_grad_()
        assert torch.autograd.gradcheck(go, (x, phi), atol=1e-6, rtol=1e-4)
        assert torch.autograd.gradgradcheck(go, (x, phi), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("bijection", "domain", "range_"), CASES, ids=ids)
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_float32_against_float64(bijection, domain, range_, scale):
    for interval, go in ((domain, bijection.forward), (range_, bijection.inverse)):
        x = grid(interval, dtype=torch.float32)
        phi = planes(bijection, len(x), scale=scale, dtype=torch.float32)
        small, exact = go(x, phi), go(x.double(), phi.double())
        for a, b in zip(small, exact, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a.double(), b, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("bijection", [bj.LeakyReLU(), bj.SinhArcsinh(), bj.YeoJohnson()], ids=repr)
def test_extremes_of_the_real_line(bijection, scale, dtype):
    size = torch.logspace(-30, 6, 73, dtype=torch.float64).to(dtype)
    x = torch.cat((-size, torch.zeros(1, dtype=dtype), size))
    phi = planes(bijection, len(x), scale=scale, dtype=dtype)
    y, ladj = bijection.forward(x, phi)
    x2, ladj2 = bijection.inverse(y, phi)
    assert all(v.isfinite().all() for v in (y, ladj, x2, ladj2))
    eps = torch.finfo(dtype).eps
    # Of a point next to a skewed origin only the distance in units of the slope survives.
    torch.testing.assert_close(x2, x, rtol=3000 * eps, atol=3000 * eps)
    back, backladj = bijection.inverse(x, phi)
    assert backladj.isfinite().all()
    assert not back.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bijection", [bj.Exp(), bj.Sigmoid(-1.0, 2.0), bj.Softplus(), bj.Tanh()], ids=repr)
def test_log_derivative_stays_finite_where_the_value_saturates(bijection, dtype):
    x = torch.tensor([-1e6, -1e4, -200.0, -1e-30, 0.0, 1e-30, 200.0, 1e4, 1e6], dtype=dtype)
    y, ladj = bijection.forward(x, x.new_zeros(0, 1))
    assert ladj.isfinite().all()
    assert not y.isnan().any()
    assert (y[1:] >= y[:-1]).all()
    expected = {
        bj.Exp: x.double(),
        bj.Sigmoid: math.log(3) - x.double().abs() - 2 * torch.exp(-x.double().abs()).log1p(),
        bj.Softplus: torch.from_numpy(scipy.special.log_expit(x.double().numpy())),
        bj.Tanh: math.log(4) - 2 * x.double().abs() - 2 * torch.exp(-2 * x.double().abs()).log1p(),
    }[type(bijection)]
    torch.testing.assert_close(ladj.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


def test_tiny_and_huge_positive_values():
    for dtype, tiny in ((torch.float32, 1e-37), (torch.float64, 1e-300)):
        y = torch.tensor([tiny, 1e-20, 1.0, 1e6, 1e30], dtype=dtype)
        for bijection in (bj.Exp(), bj.Softplus()):
            x, ladj = bijection.inverse(y, y.new_zeros(0, 1))
            assert x.isfinite().all()
            assert ladj.isfinite().all()
            expected = y.double() + torch.log(-torch.expm1(-y.double())) if bijection == bj.Softplus() else y.log()
            torch.testing.assert_close(x.double(), expected.double(), rtol=4 * torch.finfo(dtype).eps, atol=0)
    y = torch.tensor([40.0], dtype=F64)  # torch's own softplus is cut at 20
    assert bj.Softplus().inverse(y, y)[1].item() == pytest.approx(math.exp(-40), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_intervals_have_finite_monotone_edges(dtype):
    for low, high in ((0.0, 1.0), (-1.0, 0.0), (0.1, 0.3), (-1e6, 1e-6), (1e4, 1e4 + 1)):
        a, b = (torch.tensor(v, dtype=dtype) for v in (low, high))
        near_a, near_b = torch.nextafter(a, b), torch.nextafter(b, a)
        x = torch.stack((a, near_a, (a + b) / 2, near_b, b))
        y, ladj = bj.Logit(low, high).forward(x, x.new_zeros(0, 1))
        assert y.isfinite().all()
        assert ladj.isfinite().all()
        assert (y.diff() >= 0).all()
        assert y[1] < y[2] < y[3]
        back, back_ladj = bj.Logit(low, high).inverse(y, x)
        assert ((back >= a) & (back <= b)).all()
        rounding = 4 * torch.finfo(dtype).eps * max(abs(low), abs(high)) / (high - low)  # of the bounds themselves
        torch.testing.assert_close(back_ladj, -ladj, rtol=1e-5, atol=1e-5 + rounding)
    x = torch.tensor([-1.0, 1.0], dtype=dtype)
    y, ladj = bj.Tanh().inverse(x, x.new_zeros(0, 1))
    assert y.isfinite().all()
    assert ladj.isfinite().all()


def test_edge_is_a_strip_of_fixed_relative_width():
    x = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.5, 4.0], dtype=F64)
    y, ladj = bj.Logit(0.0, 4.0, edge=0.25).forward(x, x.new_zeros(0, 1))
    assert y.tolist() == pytest.approx([-math.log(3)] * 3 + [0.0] + [math.log(3)] * 2)
    assert ladj.isfinite().all()


@pytest.mark.parametrize(
    ("go", "values"),
    [
        (bj.Log().forward, [0.0, -1.0, -1e30, math.nan]),
        (bj.Exp().inverse, [0.0, -1.0, -math.inf, math.nan]),
        (bj.Softplus().inverse, [0.0, -1.0, -1e30, math.nan]),
        (bj.Logit(-1.0, 2.0).forward, [-1.001, 2.001, math.inf, math.nan]),
        (bj.Sigmoid().inverse, [-1e-30, 1.0000002, math.nan]),
        (bj.Tanh().inverse, [-1.0000002, 1e9, math.nan]),
    ],
)
def test_outside_the_domain_is_nan(go, values):
    x = torch.tensor(values)
    y, ladj = go(x, x.new_zeros(0, 1))
    assert y.isnan().all()
    assert ladj.isnan().all()


def test_nan_outside_does_not_poison_the_gradients_inside():
    x = torch.tensor([-1.0, 0.0, 0.5], requires_grad=True)
    for go in (bj.Log().forward, bj.Softplus().inverse, bj.Logit().forward, bj.Tanh().inverse):
        y, ladj = go(x, x.new_zeros(0, 1))
        (grad,) = torch.autograd.grad((2 * y + ladj)[2], x)
        assert grad.isfinite().all()
        assert grad[2] != 0


def test_textbook_values():
    x = torch.linspace(-5, 5, 41, dtype=F64)
    for lmbda in (0.0, 0.3, 1.0, 1.7, 2.0):
        raw = torch.full((1, 41), math.atanh(lmbda - 1) if 0 < lmbda < 2 else (lmbda - 1) * 50, dtype=F64)
        y, _ = bj.YeoJohnson().forward(x, raw)
        np.testing.assert_allclose(y.numpy(), scipy.stats.yeojohnson(x.numpy(), lmbda), rtol=1e-12)
    eps, delta = 0.7, 0.6
    phi = torch.tensor([5 * math.atanh(eps / 5), 1.5 * math.atanh(math.log(delta) / 1.5)], dtype=F64)[:, None]
    y, ladj = bj.SinhArcsinh().forward(x, phi)
    # Jones & Pewsey: f(x) = {2 pi (1 + x^2)}^(-1/2) delta C(x) exp(-S(x)^2 / 2), C = (1 + S^2)^(1/2)
    s = np.sinh(delta * np.arcsinh(x.numpy()) - eps)
    density = delta * np.sqrt(1 + s**2) * np.exp(-(s**2) / 2) / np.sqrt(2 * np.pi * (1 + x.numpy() ** 2))
    ours = (-0.5 * y.square() - 0.5 * math.log(2 * math.pi) + ladj).exp()
    np.testing.assert_allclose(ours.numpy(), density, rtol=1e-12)
    u = x.sigmoid()
    np.testing.assert_allclose(bj.Logit().forward(u, u)[0].numpy(), scipy.special.logit(u.numpy()), rtol=1e-12)
    y, ladj = bj.LeakyReLU().forward(x, torch.full((1, 41), -1.0, dtype=F64))
    slope = math.exp(-3 * math.tanh(1 / 3))
    np.testing.assert_allclose(y.numpy(), np.where(x < 0, slope * x, x), rtol=1e-12)


@pytest.mark.parametrize("bijection", [bj.LeakyReLU(), bj.SinhArcsinh(), bj.YeoJohnson()], ids=repr)
def test_zero_parameters_are_the_identity(bijection):
    x = torch.linspace(-50, 50, 101, dtype=F64)
    for go in (bijection.forward, bijection.inverse):
        y, ladj = go(x, torch.zeros(bijection.n_params, 101, dtype=F64))
        torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-14)
        assert ladj.abs().max() < 1e-13


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("batch", [(), (7,), (5, 7), (0,)])
def test_families_without_parameters_in_elementwise(context, batch):
    layer = bj.Elementwise(bj.Sigmoid(-1.0, 2.0), 4, context)
    assert list(layer.parameters()) == []
    x = torch.randn(*batch, 4)
    c = torch.randn(*batch, context) if context else None
    z, ladj = layer.forward(x, c)
    assert z.shape == (*batch, 4)
    assert ladj.shape == batch
    torch.testing.assert_close(layer.inverse(z, c)[0], x, rtol=1e-4, atol=1e-5)
    if context and batch == (7,):
        assert layer.forward(x, torch.randn(5, 1, context))[0].shape == (5, 7, 4)


@pytest.mark.parametrize(("bijection", "domain", "range_"), CASES, ids=ids)
def test_captured_whole_and_mapped(bijection, domain, range_):
    for interval, go in ((domain, bijection.forward), (range_, bijection.inverse)):
        x = grid(interval, 9)
        phi = planes(bijection, 9)
        eager = go(x, phi)
        captured = torch.compile(go, backend="eager", fullgraph=True)(x, phi)
        mapped = torch.func.vmap(go, (0, 1))(x, phi)
        for a, b, m in zip(eager, captured, mapped, strict=True):
            torch.testing.assert_close(b, a)
            torch.testing.assert_close(m, a)


def test_hyper_parameters_are_checked():
    for build in (
        lambda: bj.Logit(1.0, 0.0),
        lambda: bj.Sigmoid(0.0, math.inf),
        lambda: bj.Logit(edge=0.5),
        lambda: bj.LeakyReLU(0.0),
        lambda: bj.SinhArcsinh(max_skew=-1.0),
        lambda: bj.YeoJohnson(1.5),
    ):
        with pytest.raises(ConfigError, match="got"):
            build()


def test_a_bijection_is_a_value():
    assert bj.Logit(0, 1) == bj.Logit(0.0, 1.0)
    assert hash(bj.SinhArcsinh()) == hash(bj.SinhArcsinh())
    assert repr(bj.YeoJohnson()) == "YeoJohnson(max_shift=1.0)"

"""What the test suites of others ask of their bijectors and distributions, as black-box tests over our cases.

The laws of ``tests/laws`` hold most of it already: round trips, log-determinants against autodiff, batches, copies, storage.
Here is what they do not ask: TensorFlow Probability's scalar congruency, distrax's boundary slopes, SciPy's distribution
checks, the checks of ``torch.distributions``.
"""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import distributions as D

import bijectory as bj
import measures
from bijectory.errors import ConfigError
from bijectory.testing.subject import unchanged
from laws.cases import BIJECTIONS, RECIPES

F64 = torch.float64
N = 20_001


def line(case, phi, reach=3.0):
    """A fine grid in the domain of a bijection between the images of ``-reach`` and ``reach``, and one row of parameters."""
    x = case.domain(torch.linspace(-reach, reach, N, dtype=F64).unsqueeze(-1)).contiguous()
    return x, phi.double().unsqueeze(1)


# -- TensorFlow Probability ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BIJECTIONS, ids=str)
def test_scalar_congruency(case):
    """Monotone, and both log-derivatives integrate: of ``exp(ladj)`` to the image, of the inverse's back to the domain."""
    b = case.build(0)
    phi = torch.randn(b.n_params, 1, generator=torch.Generator().manual_seed(3)) * 0.7
    x, phi = line(case, phi)
    y, ladj = b.forward(x, phi)
    back, ladj_back = b.inverse(y, phi)
    assert (y.diff(dim=0) > 0).all()
    assert (back.diff(dim=0) > 0).all()
    image, domain = (y[-1] - y[0]).item(), (x[-1] - x[0]).item()
    assert torch.trapezoid(ladj.exp(), x, dim=0).item() == pytest.approx(image, rel=1e-4)
    assert torch.trapezoid(ladj_back.exp(), y, dim=0).item() == pytest.approx(domain, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("case", BIJECTIONS, ids=str)
def test_bijective_and_finite_up_to_the_edge(case, dtype):
    """Both directions finite at points close to the ends of the domain, and each the inverse of the other there."""
    b = case.build(0)
    phi = (torch.randn(b.n_params, 1, generator=torch.Generator().manual_seed(3)) * 0.7).to(dtype)
    reach = 1e4 if case.domain is unchanged and not case.saturates else 8.0
    noise = torch.tensor([-1.0, -0.5, -1e-3, -1e-30, 0.0, 1e-30, 1e-3, 0.5, 1.0], dtype=F64) * reach
    x = case.domain(noise).to(dtype)
    y, ladj = b.forward(x, phi)
    back, ladj_back = b.inverse(y, phi)
    for value in (y, ladj, back, ladj_back):
        assert value.isfinite().all()
    # A rounding of y moves x by this much, and no inverse can know better.
    slack = torch.finfo(dtype).eps * (1 + x.abs() + y.abs() / ladj.exp() + 1 / ladj.exp())
    assert ((back - x).abs() <= 200 * slack).all()


# -- distrax: boundary slopes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.0, 3.0])
@pytest.mark.parametrize("tails", ["identity", "linear", "circular"])
@pytest.mark.parametrize("family", [bj.RationalQuadratic, bj.LinearRational, bj.CubicSpline, bj.QuadraticSpline])
def test_boundary_slopes(family, tails, bound):
    """Slope 1 outside (identity), the slope of the end (linear), or equal slopes at the two ends (circular)."""
    b = family(5, bound, tails)
    phi = torch.randn(b.n_params, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    step = 1e-9
    x = torch.tensor([-bound - step, -bound + step, bound - step, bound + step], dtype=F64, requires_grad=True)
    y, ladj = b.forward(x, phi)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(slope.log(), ladj, atol=1e-6)
    left_out, left_in, right_in, right_out = slope.tolist()
    if tails == "identity":
        assert left_out == right_out == 1.0
    elif tails == "linear":
        assert left_out == pytest.approx(left_in, rel=1e-6)
        assert right_out == pytest.approx(right_in, rel=1e-6)
    else:
        assert left_in == pytest.approx(right_in, rel=1e-6)
        assert (left_out, right_out) == pytest.approx((right_in, left_in), rel=1e-6)


@pytest.mark.parametrize(
    "family", [bj.RationalQuadratic, bj.LinearRational, bj.CubicSpline, bj.QuadraticSpline, bj.LinearSpline]
)
@pytest.mark.parametrize(
    "arguments",
    [
        {"bins": 0},
        {"bins": -3},
        {"bins": 1.5},
        {"bound": 0.0},
        {"bound": math.nan},
        {"bound": "wide"},
        {"tails": "unbounded"},
        {"bins": 10, "min_bin": 0.1},
        {"min_bin": -1e-3},
    ],
    ids=str,
)
def test_spline_arguments(family, arguments):
    with pytest.raises(ConfigError) as info:
        family(**arguments)
    assert any(str(v) in str(info.value) for v in arguments.values())


# -- SciPy -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in measures.NAMES if n not in ("ttf", "umnn")])  # whose inverses are searches
def test_scipy_distribution_checks(name):
    """cdf by quadrature, ppf by the latents, pdf, draws: each agrees with the others, and a pickle with all of them."""
    flow = measures.flow_of(name, 1)
    cdf = measures.distribution_function(flow)
    q = np.linspace(0.001, 0.999, 499)
    z = torch.special.ndtri(torch.from_numpy(q)).unsqueeze(-1)
    with torch.no_grad():
        if isinstance(flow.base, bj.DiagonalNormal):
            z = flow.base.loc + flow.base.log_scale.exp() * z
        x = flow.to_data(z)[0].numpy()
        x = x if x[-1] > x[0] else x[::-1].copy()  # a decreasing map: quantiles in the opposite order
        assert (np.diff(x[:, 0]) > 0).all()
        assert np.abs(cdf(x[:, 0]) - q).max() < 1e-4  # cdf(ppf(q)) = q
        ends = cdf(x[[0, -1], 0] + np.array([-20, 20]) * np.ptp(x))
        assert ends == pytest.approx([0, 1], abs=1e-3)
        h = 1e-4 * np.ptp(x) / 100
        slope = (cdf(x[5:-5, 0] + h) - cdf(x[5:-5, 0] - h)) / (2 * h)
        assert np.allclose(slope, measures.density(flow, x[5:-5]), rtol=0.05, atol=1e-3)  # the grid is coarse
        rows, again = torch.from_numpy(x), pickle.loads(pickle.dumps(flow))
        assert torch.equal(again.log_prob(rows), flow.log_prob(rows))


# -- torch.distributions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in RECIPES if isinstance(c.features, int)], ids=str)
def test_torch_distribution_checks(case):
    """Shapes, gradients of draws, expansion and log-densities of every recipe as a ``Distribution``."""
    s = case.subject(max(case.contexts), torch.float32)
    flow = s.trained()
    p = flow.at(s.side(3))
    batch = (3,) if s.context else ()
    assert (p.batch_shape, p.event_shape) == (batch, s.event_shape)
    assert p.has_rsample
    torch.manual_seed(0)
    x = p.sample((4,))
    assert x.shape == (4, *batch, *s.event_shape)
    assert not x.requires_grad
    assert p.log_prob(x).shape == (4, *batch)
    if s.reparameterised and any(q.requires_grad for q in flow.parameters()):
        assert p.rsample().requires_grad
    wider = p.expand((2, *batch))
    assert wider.sample().shape == (2, *batch, *s.event_shape)
    one = x[0]
    assert torch.allclose(wider.log_prob(one), p.log_prob(one).expand(2, *batch), atol=1e-5)
    assert isinstance(p, D.Distribution)

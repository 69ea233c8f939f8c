"""Targets: log Z against quadrature, densities against scipy, exact draws."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import dblquad, quad
from sklearn.datasets import make_moons

import bijectory as bj
from bijectory.errors import ConfigError

F64 = torch.float64
PLANE = [
    *(bj.RezendeMohamed(k) for k in (1, 2, 3, 4)),
    bj.RezendeMohamed(3, wall=1.5),
    bj.Funnel(2, 1.0),
    bj.Banana(),
    bj.GaussianRing(),
    bj.GaussianGrid(3, scale=0.3),
    bj.TwoMoons(),
    bj.Rings((0.0, 1.0, 2.5), 0.2),
    bj.Checkerboard(),
    bj.Checkerboard(3, 1.0),
]
named = lambda p: f"{type(p).__name__}{getattr(p, 'number', '')}"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def evaluate(f, *coordinates):
    return f(torch.tensor(np.stack(np.broadcast_arrays(*coordinates), -1), dtype=F64)).numpy()


def table_1(number, x, y):
    """The energies as printed in the paper."""
    w1, w2 = math.sin(2 * math.pi * x / 4), 3 * math.exp(-0.5 * ((x - 1) / 0.6) ** 2)
    w3 = 3 / (1 + math.exp(-(x - 1) / 0.3))
    ln, e, r = math.log, math.exp, math.hypot(x, y)
    return {
        1: 0.5 * ((r - 2) / 0.4) ** 2 - ln(e(-0.5 * ((x - 2) / 0.6) ** 2) + e(-0.5 * ((x + 2) / 0.6) ** 2)),
        2: 0.5 * ((y - w1) / 0.4) ** 2,
        3: -ln(e(-0.5 * ((y - w1) / 0.35) ** 2) + e(-0.5 * ((y - w1 + w2) / 0.35) ** 2)),
        4: -ln(e(-0.5 * ((y - w1) / 0.4) ** 2) + e(-0.5 * ((y - w1 + w3) / 0.35) ** 2)),
    }[number]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_energies_are_those_of_the_paper(number):
    points = 4 * torch.rand(50, 2, generator=seeded(), dtype=F64) - 2
    got = bj.RezendeMohamed(number).log_unnormalized(points)
    want = [-table_1(number, *point) for point in points.tolist()]
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-10)


def test_log_z_of_the_first_energy_by_quadrature():
    p = bj.RezendeMohamed(1)
    quarter, _ = dblquad(lambda y, x: math.exp(-table_1(1, x, y)), 0, 5, 0, 5, epsabs=1e-9)
    assert math.log(4 * quarter) == pytest.approx(p.log_z, abs=1e-8)


@pytest.mark.parametrize("p", PLANE, ids=named)
def test_mass_is_one(p):
    # Midpoints a fraction of the smallest scale apart are exact to rounding on smooth, decaying integrands.
    wide, tall, n = {
        "Banana": (14.0, 90.0, 700),
        "Checkerboard": (4.0, 4.0, 600),
        "Funnel": (7.0, 60.0, 1500),
        "TwoMoons": (3.0, 3.0, 200),
    }.get(type(p).__name__, (14.0, 6.0, 800))
    a, b = ((np.arange(n) + 0.5) / n * 2 * half - half for half in (wide, tall))
    mass = np.exp(evaluate(p.log_prob, a[:, None], b[None])).sum() * (a[1] - a[0]) * (b[1] - b[0])
    assert mass == pytest.approx(1, abs=2e-3 if isinstance(p, bj.Funnel) else 1e-6)
    assert p.log_z != 0 or torch.equal(p.log_prob(torch.zeros(2)), p.log_unnormalized(torch.zeros(2)))


@pytest.mark.parametrize("p", PLANE, ids=named)
def test_draws_have_the_density(p):
    """Counts of draws in 12 x 12 cells against the integral of the density over each cell."""
    n, k, fine = 20_000, 12, 8 if isinstance(p, bj.TwoMoons) else 24
    x = p.sample(n, generator=seeded(3)).double().numpy()
    low, high = (np.quantile(x, q, axis=0) for q in (0.002, 0.998))
    edges = [np.linspace(a, b, k + 1) for a, b in zip(low, high, strict=True)]
    counts = np.histogram2d(*x.T, bins=edges)[0]
    mids = [(np.arange(k * fine) + 0.5) / (k * fine) * (b - a) + a for a, b in zip(low, high, strict=True)]
    density = np.exp(evaluate(p.log_prob, mids[0][:, None], mids[1][None]))
    area = math.prod((m[1] - m[0]) for m in mids)
    expected = n * area * density.reshape(k, fine, k, fine).sum((1, 3))
    keep = expected > 8
    assert expected[keep].sum() > 0.9 * n
    # 5 % of the expected count is the error of the midpoint rule on the sharp edges of a board.
    slack = 0.05 * expected[keep] if isinstance(p, bj.Checkerboard) else 0.0
    z = np.maximum(np.abs(counts[keep] - expected[keep]) - slack, 0) / np.sqrt(expected[keep])
    assert z.max() < 5
    assert (z**2).sum() < keep.sum() + 5 * math.sqrt(2 * keep.sum())


@pytest.mark.parametrize("p", PLANE, ids=named)
def test_shapes_dtypes_and_context(p):
    c = torch.zeros(7, 3)
    assert p.sample((5,), c).shape == (5, 7, 2)
    assert p.sample(0).shape == (0, 2)
    assert p.sample().shape == (2,)
    assert not p.rsample(3).requires_grad
    assert torch.equal(p.sample(4, generator=seeded()), p.sample(4, generator=seeded()))
    x = p.sample((4, 5))
    assert p.log_prob(x).shape == (4, 5)
    assert p.log_prob(x).isfinite().all()
    far = p.log_prob(1e6 * torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]))
    assert not far.isnan().any()
    assert (far < 0).all()
    assert p.log_prob(torch.tensor([[math.nan, 0.0], [0.0, math.nan]])).isnan().all()
    wide = type(p).__name__, p.double().sample(3).dtype
    p.float()
    assert wide[1] == F64


@pytest.mark.parametrize("p", PLANE, ids=named)
def test_scores_are_finite(p):
    x = torch.cat((p.sample(50, generator=seeded()), torch.zeros(1, 2))).requires_grad_()
    (score,) = torch.autograd.grad(p.log_prob(x).sum(), x)
    assert score.isfinite().all()


def test_funnel_and_banana_against_scipy():
    x = torch.randn(20, 5, generator=seeded(), dtype=F64)
    v = x[:, 0].numpy()
    want = scipy.stats.norm(0, 3).logpdf(v) + scipy.stats.norm(0, np.exp(v / 2)[:, None]).logpdf(x[:, 1:]).sum(-1)
    np.testing.assert_allclose(bj.Funnel(5).log_prob(x).numpy(), want, rtol=1e-10)
    a, b = x[:, 0].numpy(), x[:, 1].numpy()
    want = scipy.stats.norm(0, 2).logpdf(a) + scipy.stats.norm(0.5 * (a**2 - 4), 1).logpdf(b)
    np.testing.assert_allclose(bj.Banana().log_prob(x[:, :2]).numpy(), want, rtol=1e-10)


def test_two_moons_are_those_of_scikit_learn():
    p = bj.TwoMoons(0.1)
    x, _ = make_moons(4000, noise=0.1, random_state=0)
    ours = p.sample(4000, generator=seeded()).numpy()
    for i in range(2):
        assert scipy.stats.ks_2samp(x[:, i], ours[:, i]).pvalue > 0.01
    point = np.array([0.3, 0.7])
    arc = lambda t, s, m: scipy.stats.norm(0, 0.1).pdf(point - m - s * np.array([math.cos(t), math.sin(t)])).prod()
    want = sum(quad(arc, 0, math.pi, args)[0] / (2 * math.pi) for args in ((1, 0), (-1, np.array([1, 0.5]))))
    assert p.log_prob(torch.tensor(point)).exp().item() == pytest.approx(want, rel=1e-8)
    assert bj.TwoMoons(0.01).log_prob(torch.tensor([0.0, 1.01], dtype=F64)).item() == pytest.approx(
        # a straight line locally: N(0.01; 0, 0.01) / (2 pi), bent by its curvature
        math.log(scipy.stats.norm(0, 0.01).pdf(0.01) / (2 * math.pi)),
        abs=0.01,
    )


def test_draws_of_a_board_stay_on_dark_squares():
    fine = bj.Checkerboard(side=300, half_width=1.0)  # so fine that rounding steps over edges
    x = fine.sample(1_000_000, generator=seeded())
    assert fine.log_prob(x).isfinite().all()
    p = bj.Checkerboard(side=5, half_width=0.3)
    edge = torch.nextafter(torch.tensor(0.3), torch.tensor(0.0))
    assert p.log_prob(torch.stack((edge, edge))).isfinite()
    assert p.log_prob(torch.tensor([-0.3, -0.3])).isfinite()


def test_a_variational_bound_stays_below_log_z():
    """The use of a target: E_q[log p~ - log q] <= log Z, with equality at the target itself."""
    target = bj.RezendeMohamed(4).double()
    x = target.sample(1000, generator=seeded())
    gap = target.log_unnormalized(x) - target.log_prob(x)
    torch.testing.assert_close(gap, torch.full_like(gap, target.log_z))
    q = bj.DiagonalNormal(2).double()
    y, logq = q.rsample_and_log_prob(20_000, generator=seeded())
    bound = (target.log_unnormalized(y) - logq).mean()
    assert bound < target.log_z
    bound.backward()
    assert q.loc.grad.abs().min() > 0


def test_hyper_parameters_are_checked():
    for build in (
        lambda: bj.RezendeMohamed(5),
        lambda: bj.RezendeMohamed(2, wall=0.0),
        lambda: bj.Funnel(1),
        lambda: bj.Funnel(3, -1.0),
        lambda: bj.Banana(scale=0.0),
        lambda: bj.GaussianRing(0),
        lambda: bj.GaussianGrid(scale=math.inf),
        lambda: bj.TwoMoons(0.0),
        lambda: bj.Rings(()),
        lambda: bj.Checkerboard(0),
        lambda: bj.Checkerboard(half_width=-1.0),
    ):
        with pytest.raises(ConfigError):
            build()

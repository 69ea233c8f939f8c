"""Angles: the von Mises base, rotations, and the circular spline flow across the seam."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.nets import MLP, Periodic
from bijectory.ops.circle import von_mises_cdf, wrap
from laws.cases import randomize

F64 = torch.float64
PI = math.pi


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kappa", [1e-3, 0.5, 4.0, 300.0, 1e5])
def test_von_mises_against_scipy(kappa):
    p, law = bj.VonMises(1, kappa).double(), scipy.stats.vonmises(kappa)
    with torch.no_grad():
        p.loc.fill_(0.7)
    x = torch.linspace(-PI, PI, 101, dtype=F64)[:, None]
    np.testing.assert_allclose(p.log_prob(x).detach(), law.logpdf(x.numpy() - 0.7)[:, 0], rtol=1e-9, atol=1e-9)
    angle = wrap(p.sample(5000, generator=seeded(3)) - 0.7, PI).numpy()[:, 0]
    assert scipy.stats.kstest(angle, law.cdf).pvalue > 0.01
    wrong = scipy.stats.vonmises(1.3 * kappa if kappa > 0.1 else 0.5)
    assert scipy.stats.kstest(angle, wrong.cdf).pvalue < 0.01


def test_von_mises_on_another_circle_has_mass_one_and_no_seam():
    p = randomize(bj.VonMises(2, 2.0, bound=5.0)).double()
    x = torch.cartesian_prod(*[torch.linspace(-5, 5, 401, dtype=F64)[:-1]] * 2)
    assert p.log_prob(x).exp().sum().item() * (10 / 400) ** 2 == pytest.approx(1, abs=1e-12)
    edge = torch.tensor([[5.0, 1.0], [-5.0, 1.0]], dtype=F64)
    a, b = p.log_prob(edge)
    assert a.item() == pytest.approx(b.item(), abs=1e-12)
    assert p.log_prob(torch.tensor([5.001, 0.0], dtype=F64)) == -math.inf
    assert p.log_prob(torch.tensor([torch.nan, 0.0], dtype=F64)).isnan()


@pytest.mark.parametrize("kappa", [1e-2, 1.0, 30.0, 1e4])
def test_von_mises_draws_are_differentiable_in_the_concentration(kappa):
    angle = torch.tensor([-3.0, -0.3, 0.01, 1.0, 3.1], dtype=F64) * min(1, 3 / kappa**0.5)
    want = scipy.stats.vonmises(kappa).cdf(angle.numpy()) - 0.5
    np.testing.assert_allclose(von_mises_cdf(angle, torch.full((5,), kappa, dtype=F64)), want, atol=1e-9)
    p = bj.VonMises(1, kappa).double()
    x = p.rsample(100_000, generator=seeded(1))
    assert torch.equal(x, p.sample(100_000, generator=seeded(1)))
    got = torch.autograd.grad(x.cos().mean(), p.log_ratio)[0].item()
    # E[cos] = A(kappa) = I1/I0, so d/dlog kappa is kappa (1 - A/kappa - A^2)
    a = float(scipy.special.i1e(kappa) / scipy.special.i0e(kappa))
    assert got == pytest.approx(kappa * (1 - a / kappa - a * a), rel=0.05, abs=2e-3)


def test_rotations_leave_what_is_no_angle():
    layer = bj.PhaseShift(1)
    with torch.no_grad():
        layer.phase.fill_(2.0)
    z, _ = layer(torch.tensor([[3.0], [-1.0], [3.5], [torch.nan]]))
    assert z[:2, 0].tolist() == pytest.approx([5.0 - 2 * PI, 1.0])
    assert z[2].item() == 3.5
    assert z[3].isnan()


@pytest.mark.parametrize("context", [0, 3])
def test_circular_flow_is_periodic_and_continuous_across_the_seam(context):
    flow = randomize(bj.ncsf(3, context, layers=4, hidden=(16,)), 2, 0.6).double()
    c = torch.randn(20, context, generator=seeded(1), dtype=F64) if context else None
    x = (torch.rand(20, 3, generator=seeded(), dtype=F64) * 2 - 1) * PI
    for i in range(3):
        left, right, near = x.clone(), x.clone(), x.clone()
        left[:, i], right[:, i], near[:, i] = -PI, PI, PI - 1e-9
        at_left, at_right, beside = (flow.log_prob(v, c) for v in (left, right, near))
        torch.testing.assert_close(at_left, at_right, rtol=0, atol=1e-9)
        torch.testing.assert_close(beside, at_right, rtol=0, atol=1e-4)
    assert (flow.log_prob(x + torch.tensor([2 * PI, 0, 0]), c) == -math.inf).all()


def test_circular_flow_has_mass_one_on_the_torus_and_draws_that_follow_it():
    flow = randomize(bj.ncsf(2, layers=2, hidden=(8,), bins=4), 1).double()
    side = torch.linspace(-PI, PI, 301, dtype=F64)[:-1]
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        p = flow.log_prob(grid).exp()
    assert p.sum().item() * (2 * PI / 300) ** 2 == pytest.approx(1, abs=1e-3)
    draws = flow.sample(20_000, generator=seeded(4))
    assert flow.log_prob(draws).isfinite().all()
    want = (p[:, None] * torch.stack((grid.cos(), grid.sin()), -1).flatten(1)).mean(0) / p.mean()
    got = torch.stack((draws.cos(), draws.sin()), -1).flatten(1)
    error = got.std(0) / len(draws) ** 0.5
    assert ((got.mean(0) - want).abs() < 4.5 * error + 1e-4).all()


def test_circular_flow_in_single_precision_keeps_its_draws():
    flow = randomize(bj.ncsf(4, layers=4, hidden=(16,)), 3, 0.6)
    draws = flow.sample(20_000, generator=seeded())
    assert flow.log_prob(draws).isfinite().all()


def test_periodic_network_cannot_see_the_seam():
    net = Periodic(MLP(6, 2, (8,), 1), 2.0)
    x, c = torch.randn(5, 3), torch.randn(1)
    torch.testing.assert_close(net(x, c), net(x + 8.0, c), atol=1e-5, rtol=0)
    assert not torch.allclose(net(x, c), net(x + 1.0, c), atol=1e-5, rtol=0)


def test_arguments_are_checked():
    for build in (lambda: bj.VonMises(1, 0.0), lambda: bj.VonMises(1, bound=math.inf), lambda: bj.PhaseShift(0)):
        with pytest.raises(ConfigError):
            build()

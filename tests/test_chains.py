"""Markov chains from flows, and the measures of their convergence, against known answers."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import bijectory as bj
from bijectory.apps.importance import psis
from bijectory.apps.variational import Chains, Parameters, ess, rhat
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.diagnostics import weighted_draws
from bijectory.apps.variational.mcmc import (
    DualAveraging,
    Latent,
    _global_move,
    hamiltonian,
    independence_metropolis,
    neutra,
)
from bijectory.apps.variational.proposal import draw
from bijectory.errors import ShapeError

F64 = torch.float64


def ar1(rho, chains=4, n=5000, seed=0):
    """Stationary chains of autocorrelation rho^t: the mean is worth n (1 - rho) / (1 + rho) draws."""
    rng = np.random.default_rng(seed)
    x = np.empty((chains, n))
    x[:, 0] = rng.normal(size=chains)
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + math.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.3])
def test_ess_of_autoregressive_chains(rho):
    want = 20_000 * (1 - rho) / (1 + rho)
    x = ar1(rho)
    assert ess(x, "mean") == pytest.approx(want, rel=0.15)
    assert ess(x) == pytest.approx(want, rel=0.15)
    assert ess(x, "tail") < 20_000 * 1.1
    assert rhat(x) < 1.01


def test_heavy_tails_do_no_harm_to_ranks():
    x = np.tan(np.pi * (np.random.default_rng(0).random((4, 2000)) - 0.5))  # Cauchy
    assert ess(x) == pytest.approx(8000, rel=0.15)
    assert rhat(x) < 1.01


def test_rhat_sees_a_shift_a_scale_and_a_drift():
    x = ar1(0.0, n=1000)
    assert rhat(x + np.array([0, 0, 0, 1])[:, None]) > 1.05
    assert rhat(x * np.array([1, 1, 1, 3])[:, None]) > 1.05  # only the folded draws see it
    assert rhat(x + np.linspace(-1, 1, 1000)) > 1.05  # only halves of chains see it
    both = np.stack([x, x + np.array([0, 0, 0, 1])[:, None]], -1)
    assert rhat(both).shape == (2,)
    assert rhat(both)[0] < 1.01


def test_what_does_not_vary_has_no_ess():
    assert np.isnan(ess(np.ones((2, 10))))
    with pytest.raises(ShapeError, match="at least 4 draws"):
        rhat(np.ones((2, 3)))


def chains_of(draws):
    return Chains(draws, tuple("ab"), "neutra", 0.8, 0.5, 0)


def test_chains_know_whether_they_converged():
    rng = np.random.default_rng(0)
    good = chains_of(rng.normal(size=(8, 500, 2)))
    assert good.converged
    assert good.frame().shape == (4000, 2)
    assert good.to_dict()["min_ess_bulk"] > 3000
    bad = chains_of(rng.normal(size=(8, 500, 2)) + np.arange(8)[:, None, None])
    assert not bad.converged
    assert not chains_of(rng.normal(size=(4, 50, 2))).converged, "too few draws"


def banana(x):
    """A bent normal: x0 ~ N(1, 2^2), x1 | x0 ~ N(x0^2 / 4, 1); the mean of x1 is 1.25 and its variance 4.5."""
    return Normal(1.0, 2.0).log_prob(x[:, 0]) + Normal(x[:, 0] ** 2 / 4, 1.0).log_prob(x[:, 1])


@pytest.fixture(scope="module")
def wrong():
    """A flow that is too wide and misplaced for the banana, and its weighted draws."""
    flow = bj.Flow(bj.Whiten(2, [0.0, 2.0], [[3.0, 0.0], [0.0, 3.0]]), bj.StandardNormal(2)).double()
    density = UnnormalizedDensity(banana, Parameters.declare(["a", "b"]))
    return flow, density, weighted_draws(flow, density, 4000, torch.Generator().manual_seed(0), warn=False)[0]


MEANS, SDS = [1.0, 1.25], [2.0, math.sqrt(1 + (2 * 2**4 + 4 * 2**2 * 1) / 16)]


def test_neutra_corrects_a_wrong_flow(wrong):
    found = neutra(*wrong, chains=32, draws=120, warmup=40, generator=torch.Generator().manual_seed(1))
    assert found.draws.shape == (32, 120, 2)
    assert found.convergence()["rhat"].max() < 1.05
    flat = found.draws.reshape(-1, 2)
    assert flat.mean(0) == pytest.approx(MEANS, abs=0.25)
    assert flat.std(0) == pytest.approx(SDS, rel=0.1)
    assert 0.6 < found.acceptance <= 1.0


def test_independence_metropolis_corrects_a_wrong_flow(wrong):
    generator = torch.Generator().manual_seed(2)
    found = independence_metropolis(*wrong, chains=64, draws=300, thin=5, generator=generator)
    flat = found.draws.reshape(-1, 2)
    assert flat.mean(0) == pytest.approx(MEANS, abs=0.2)
    assert flat.std(0) == pytest.approx(SDS, rel=0.08)
    assert 0.2 < found.acceptance < 0.9


def test_chains_never_leave_the_support():
    def half(x):
        return torch.where(x[:, 0] > 0, -0.5 * x[:, 0] ** 2, -math.inf)

    flow = bj.Flow(bj.Whiten(1, [0.5], [[1.0]]), bj.StandardNormal(1)).double()
    density = UnnormalizedDensity(half, Parameters.declare(1))
    start, _ = weighted_draws(flow, density, 2000, torch.Generator().manual_seed(0), warn=False)
    found = neutra(flow, density, start, chains=16, draws=100, warmup=20, generator=torch.Generator().manual_seed(1))
    assert (found.draws > 0).all()
    assert found.draws.mean() == pytest.approx(math.sqrt(2 / math.pi), abs=0.08)


def test_dual_averaging_finds_the_acceptance_it_wants():
    rate = DualAveraging(1.0)
    for _ in range(300):
        rate.update(math.exp(-rate.step))  # acceptance falls with the step: 0.8 at 0.223
    assert rate.final == pytest.approx(0.223, rel=0.1)


def test_the_defensive_mixture_is_a_density_and_tames_the_tails():
    flow = bj.Flow(bj.Whiten(1, [1.0], [[2.0]]), bj.StandardNormal(1)).double()
    target = torch.distributions.StudentT(4.0, 1.0, 2.5)  # the flow is too thin for it
    drawn = draw(flow, 20_000, torch.Generator().manual_seed(0))
    share = (drawn.log_flow - drawn.log_prob).exp()
    assert share.max() <= 1 / 0.9 + 1e-9
    assert share.mean().item() == pytest.approx(1, abs=0.01)
    assert drawn.own.double().mean().item() == pytest.approx(0.9, abs=0.01)
    assert drawn.log_flow == pytest.approx(flow.log_prob(drawn.x).numpy(), abs=1e-9)
    plain = flow.sample(20_000, generator=torch.Generator().manual_seed(0))
    bare = psis(target.log_prob(plain)[:, 0] - flow.log_prob(plain), warn=False)
    safe = psis(target.log_prob(drawn.x)[:, 0] - drawn.log_prob)
    assert bare.khat > 0.6 > 0.4 > safe.khat
    assert safe.log_evidence().value.item() == pytest.approx(0, abs=4 * safe.log_evidence().se.item())
    own_base = bj.Flow(bj.Whiten(1, [1.0], [[2.0]]), bj.StudentT(1)).double()
    assert draw(own_base, 10, torch.Generator().manual_seed(0)).own.all()


@pytest.mark.parametrize("move", ["hamiltonian", "global"])
def test_moves_leave_the_target_as_it_is(move):
    flow = bj.Flow(bj.Whiten(1, [0.5], [[1.5]]), bj.StandardNormal(1)).double()
    density = UnnormalizedDensity(lambda x: Normal(1.0, 1.0).log_prob(x[:, 0]), Parameters.declare(1))
    target, generator = Latent(flow, density), torch.Generator().manual_seed(0)
    z = flow.to_latent(1 + torch.randn(20_000, 1, generator=generator, dtype=F64))[0]
    log_p, g = target.gradient(z)
    start = z
    for _ in range(3):
        if move == "global":
            z, log_p, g = _global_move(target, flow, z, log_p, g, generator)
        else:
            z, log_p, g, _, _ = hamiltonian(target, z, log_p, g, 0.7, generator)
    assert (z != start).double().mean() > 0.5
    x = target.data(z)
    assert x.mean().item() == pytest.approx(1, abs=0.03)
    assert x.var().item() == pytest.approx(1, abs=0.04)
    again = target.gradient(z)
    assert torch.allclose(log_p, again[0])
    assert torch.allclose(g, again[1])

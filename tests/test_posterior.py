"""Simulation-based inference: priors, simulations, the posterior and what is asked of it."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Beta, Categorical, Dirichlet, Exponential, Independent, LogNormal, Normal, Uniform

import bijectory as bj
from bijectory.apps.posterior import (
    CredibleRegion,
    NeuralPosterior,
    Posterior,
    PosteriorFit,
    Prior,
    SampledPosterior,
    Simulations,
    box_uniform,
    fit_nle,
    fit_npe,
    fit_nre,
    fit_sequentially,
    posterior_config,
    simulate,
    study,
)
from bijectory.apps.posterior.sequential import truncated
from bijectory.apps.posterior.slices import slice_sample
from bijectory.errors import CheckpointError, ConfigError, DataError, ShapeError
from bijectory.tables import DataWarning
from bijectory.testing import randomize
from posterior_support import known, simulator
from posterior_support import prior as normal_prior

TINY = {"ensemble": 2, "recipe_args": {"layers": 2, "hidden": (8,)}}


def mixed():
    return Prior({"a": Uniform(-1.0, 3.0), "b": Normal(0.0, 2.0), "c": LogNormal(0.0, 1.0), "d": Beta(2.0, 2.0)})


# -- priors ------------------------------------------------------------------------------------------------------------


def test_bounds_are_read_off_the_support():
    inf = math.inf
    assert mixed().bounds == ((-1, 3), (-inf, inf), (0, inf), (0, 1))
    assert Prior(Uniform(torch.zeros(2), torch.ones(2))).bounds == ((0, 1), (0, 1))
    assert Prior(Independent(Exponential(torch.ones(2)), 1)).bounds == ((0, inf), (0, inf))
    assert Prior(bj.BoxUniform(2, 0.0, 2.0)).bounds == ((0, 2), (0, 2))
    assert Prior(bj.StandardNormal(2)).features == 2


def test_log_prob_is_the_sum_and_nothing_outside():
    prior = mixed()
    theta = prior.sample(50, seed=0)
    parts = [p.log_prob(theta[:, k]) for k, p in enumerate(prior.parts)]
    assert torch.allclose(prior.log_prob(theta), sum(parts))
    theta[:, 0] = 3.5
    assert (prior.log_prob(theta) == -math.inf).all()
    assert torch.equal(prior.sample(5, seed=1), prior.sample(5, seed=1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prior([Categorical(torch.ones(3))]), "discrete"),
        (lambda: Prior(Dirichlet(torch.ones(3))), "cannot be read off"),
        (lambda: Prior("uniform"), "torch.distributions"),
        (lambda: Prior([Normal(0.0, 1.0)], names=["a", "b"]), "1 different names"),
        (lambda: Prior([Normal(0.0, 1.0)], bounds=[(1.0, 0.0)]), "low < high"),
        (lambda: Prior([Normal(0.0, 1.0)], bounds=[(-math.inf, 0.0)]), "negative of a parameter"),
        (lambda: Prior([]), "at least one"),
        (lambda: mixed().log_prob(torch.zeros(3)), "expected"),
    ],
)
def test_priors_refuse(make, words):
    with pytest.raises((ConfigError, ShapeError), match=words):
        make()


def random_posterior(prior, event=3, weights=1.0):
    flow = randomize(bj.nsf(prior.features, event, layers=2, hidden=(8,)), 0, weights)
    way = bj.Chain(*prior.unconstrain(), flow.transform)
    return NeuralPosterior(bj.Flow(way, flow.base).double(), prior, (event,))


def test_no_probability_leaves_the_bounds_whatever_the_weights():
    posterior = random_posterior(mixed(), weights=3.0)
    theta = posterior.sample(2000, [5.0, -5.0, 9.0], seed=0)
    low, high = torch.tensor(posterior.prior.bounds, dtype=torch.float64).unbind(1)
    assert ((theta >= low) & (theta <= high)).all()
    outside = torch.tensor([[4.0, 0.0, 1.0, 0.5], [0.0, 0.0, -1.0, 0.5]])
    assert (posterior.log_prob(outside, [0.0] * 3) == -math.inf).all()


def test_a_fitted_posterior_keeps_the_bounds_by_construction():
    prior = box_uniform([0.0], [1.0])
    pairs = simulate(prior, lambda theta: theta + 0.3 * torch.randn(theta.shape), 300)
    fitted = fit_npe(pairs, prior, config=posterior_config(300, epochs=1), **TINY)
    for x in (-2.0, 3.0):  # beyond all simulations
        theta = fitted.posterior.density.sample(2000, torch.tensor([x]).double())
        assert ((theta >= 0) & (theta <= 1)).all()


def test_the_bounded_density_integrates_to_one():
    prior = box_uniform([0.0, -1.0], [2.0, 1.0])
    flow = randomize(bj.nsf(2, 3, layers=2, hidden=(8,)), 0)
    way = bj.Chain(*prior.unconstrain(), bj.Standardize(2, [0.5, 0.5], [0.2, 0.2]), flow.transform)
    posterior = NeuralPosterior(bj.Flow(way, flow.base).double(), prior, (3,))
    u = torch.linspace(-2, 3, 601, dtype=torch.float64)  # cells that grow denser towards the bounds
    place = bj.SoftClip().inverse(u, u[None, :0])[0]
    middle, width = 2 * (place[1:] + place[:-1]) / 2, 2 * place.diff()
    theta = torch.cartesian_prod(middle, middle - 1)
    mass = posterior.log_prob(theta, [0.3, 0.0, -0.2]).exp() @ torch.cartesian_prod(width, width).prod(1)
    assert abs(mass.item() - 1) < 0.01


# -- simulations -------------------------------------------------------------------------------------------------------


def test_failed_simulations_are_left_out_and_told():
    def sometimes(theta):
        return torch.where(theta > 1, torch.nan, theta)

    pairs = simulate(normal_prior(), sometimes, 500)
    assert pairs.failed == 500 - len(pairs) > 30
    assert "P(success | theta)" in pairs.notes[0]
    with pytest.warns(DataWarning, match="simulations are not finite"):
        fitted = fit_npe(pairs, normal_prior(), config=posterior_config(400, epochs=1), **TINY)
    assert fitted.notes == pairs.notes
    with pytest.raises(DataError, match="not finite in"):
        simulate(normal_prior(), sometimes, 500, missing="raise")


def test_missing_values_can_be_conditioned_on():
    def loses(theta):
        x = theta + 0.1 * torch.randn(len(theta), 2)
        return torch.where(torch.rand(x.shape) < 0.3, torch.nan, x)

    pairs = simulate(normal_prior(), loses, 1000, missing="indicate")
    assert pairs.failed < 150, "only rows without any value"
    assert "conditions on which ones" in pairs.notes[1]
    with pytest.warns(DataWarning):
        fitted = fit_npe(pairs, normal_prior(), config=posterior_config(1000, epochs=10, lr=1e-2), **TINY)
    draws = fitted.posterior.sample(500, [1.0, math.nan], seed=0)
    assert abs(draws.mean().item() - 1) < 0.35, "a linear function of the values and the indicators gives 0.6"
    with pytest.raises(DataError, match="not finite"):
        known().sample(1, [math.nan])


def test_a_simulator_of_numpy_is_repeatable_and_leaves_the_generators_alone():
    def noisy(theta):
        return np.asarray(theta) + np.random.normal(size=theta.shape)

    np.random.seed(7)
    torch.manual_seed(7)
    first = simulate(normal_prior(), noisy, 20, seed=3).x
    a, b = np.random.rand(), torch.rand(1)
    np.random.seed(7)
    torch.manual_seed(7)
    assert a == np.random.rand()
    assert b == torch.rand(1)
    assert torch.equal(first, simulate(normal_prior(), noisy, 20, seed=3).x)
    assert not torch.equal(first, simulate(normal_prior(), noisy, 20, seed=4).x)


@pytest.mark.parametrize(
    ("theta", "x", "words"),
    [
        (np.zeros((3, 1)), np.zeros((4, 1)), "3 rows, x has 4"),
        (np.full((3, 1), np.nan), np.zeros((3, 1)), "theta is not finite in 3 rows"),
        (np.zeros((3, 1)), np.full((3, 1), np.nan), "0 simulations with finite values"),
        ("abc", np.zeros((3, 1)), "cannot be read as numbers"),
    ],
)
def test_pairs_refuse(theta, x, words):
    with pytest.raises((DataError, ShapeError), match=words):
        Simulations.of(theta, x)


def test_a_simulator_with_a_wrong_number_of_rows_is_told():
    with pytest.raises(ShapeError, match=r"one row for\s+each"):
        simulate(normal_prior(), lambda theta: torch.zeros(3, 2), 10)


# -- the posterior -----------------------------------------------------------------------------------------------------


def test_a_linear_gaussian_is_learned_at_once():
    fitted = fit_npe(
        simulate(normal_prior(), simulator, 2000), normal_prior(), config=posterior_config(2000, epochs=1), **TINY
    )
    assert isinstance(fitted, PosteriorFit)
    assert isinstance(fitted.posterior, Posterior)
    draws = fitted.posterior.sample(4000, [1.0], seed=0)
    assert abs(draws.mean().item() - 0.5) < 0.06
    assert abs(draws.std().item() - math.sqrt(0.5)) < 0.05


def test_questions_have_the_known_answers():
    posterior = known().at([1.0])
    sd = math.sqrt(0.5)
    assert torch.allclose(posterior.map(), torch.tensor([0.5]).double(), atol=1e-3)
    low, high = posterior.credible_intervals(0.9)[0].tolist()
    assert abs(low - (0.5 - 1.645 * sd)) < 0.06
    assert abs(high - (0.5 + 1.645 * sd)) < 0.06
    region = posterior.credible_region(0.5)
    assert isinstance(region, CredibleRegion)
    assert region.contains([[0.5], [0.5 + 0.6 * sd], [0.5 + 0.75 * sd]]).tolist() == [True, True, False]
    x = posterior.predictive(simulator, 4000)
    assert abs(x.var().item() - 1.5) < 0.15
    assert posterior.log_prob([[0.5]]).item() == pytest.approx(-math.log(sd * math.sqrt(2 * math.pi)))


def test_questions_refuse():
    with pytest.raises(ConfigError, match="which observation"):
        known().sample(3)
    with pytest.raises(ShapeError, match="the observation has shape"):
        known().at([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"expected \(\*batch, 1\)"):
        known().log_prob(torch.zeros(3, 2), [1.0])
    with pytest.raises(ConfigError, match="level"):
        known().credible_intervals(1.5, [0.0])


def test_the_mode_of_a_bounded_posterior_lies_at_the_bound():
    prior = box_uniform([0.0], [1.0])
    likelihood = lambda theta, x: -5 * (theta - 2).square().sum(-1)
    mode = SampledPosterior(likelihood, prior, (1,)).map([0.0])
    assert 0.99 < mode.item() <= 1


def test_saved_and_loaded(tmp_path):
    posterior = random_posterior(mixed()).at([0.0, 1.0, 2.0])
    posterior.save(tmp_path / "run", metadata={"simulations": 5})
    again = NeuralPosterior.load(tmp_path / "run", mixed())
    assert torch.equal(again.sample(5, seed=0), posterior.sample(5, seed=0))
    with pytest.raises(CheckpointError, match="was fitted with"):
        NeuralPosterior.load(tmp_path / "run", box_uniform([0.0] * 4, [1.0] * 4))
    bj.save(posterior.density, tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds no posterior"):
        NeuralPosterior.load(tmp_path / "other", mixed())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ensemble": 0}, "ensemble must be"),
        ({"recipe": "nsff"}, "nsff"),
    ],
)
def test_fits_refuse(change, words):
    pairs = simulate(normal_prior(), simulator, 20)
    with pytest.raises(ConfigError, match=words):
        fit_npe(pairs, normal_prior(), **change)


def test_fits_refuse_foreign_pairs():
    pairs = simulate(normal_prior(), simulator, 50)
    with pytest.raises(ConfigError, match=r"outside the bounds of the prior: theta0"):
        fit_npe(pairs, box_uniform([-0.1], [0.1]))
    with pytest.raises(ShapeError, match="theta has 1 columns"):
        fit_npe(pairs, mixed())
    with pytest.raises(ConfigError, match="need embed"):
        fit_npe((torch.zeros(20, 1), torch.randn(20, 4, 4)), normal_prior())


@pytest.mark.skipif("cfm" not in bj.recipes.RECIPES, reason="the recipe of flow matching is not there")
def test_flow_matching_learns_a_posterior_of_two_modes():
    prior = box_uniform([-2.0], [2.0])
    pairs = simulate(prior, lambda theta: theta.abs() + 0.1 * torch.randn(theta.shape), 1000)
    config = posterior_config(1000, recipe="cfm", epochs=40, lr=1e-2)
    assert config.ema_decay == 0.99
    posterior = fit_npe(
        pairs, prior, recipe="cfm", recipe_args={"hidden": (32, 32), "steps": 8}, ensemble=2, config=config
    ).posterior
    draws = posterior.sample(1000, [1.0], seed=0)
    assert abs((draws > 0).double().mean().item() - 0.5) < 0.2
    assert (draws.abs() - 1).abs().mean() < 0.35
    theta = torch.linspace(-2, 2, 801, dtype=torch.float64)[:, None]
    assert torch.trapezoid(posterior.log_prob(theta, [1.0]).exp(), theta[:, 0]).item() == pytest.approx(1, abs=0.05)


# -- likelihood and ratio ----------------------------------------------------------------------------------------------


def test_slices_of_a_correlated_normal():
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    target = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov)
    g = torch.Generator().manual_seed(0)
    u = slice_sample(
        target.log_prob, torch.zeros(1000, 2).double(), 60, width=torch.ones(2).double(), keep=1, generator=g
    )
    assert torch.allclose(u[0].mT.cov(), cov, atol=0.15)


def test_independent_observations_multiply_and_modes_are_found():
    prior = box_uniform([-3.0], [3.0])
    likelihood = lambda theta, x: -0.5 * ((theta.abs() - x) / 0.4).square().sum(-1)
    posterior = SampledPosterior(likelihood, prior, (1,))
    draws = posterior.sample(1000, torch.full((4, 1), 2.0), seed=0)
    assert abs((draws > 0).double().mean().item() - 0.5) < 0.12, "two modes that a chain does not cross"
    assert abs(draws.abs().std().item() - 0.2) < 0.03, "0.4 / sqrt(4)"
    assert draws.abs().max() <= 3
    one = posterior.log_prob([[1.5]], [2.0])
    assert posterior.log_prob([[1.5]], torch.full((4, 1), 2.0)).item() == pytest.approx(
        4 * one.item() + 3 * math.log(6), rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_nle, fit_nre])
def test_likelihood_and_ratio_find_the_posterior(fit):
    pairs = simulate(normal_prior(), simulator, 2000)
    words = dict(TINY) if fit is fit_nle else {"ensemble": 2}
    posterior = fit(pairs, normal_prior(), config=posterior_config(2000, epochs=15, lr=3e-3), **words).posterior
    one = posterior.sample(2000, [1.0], seed=0)
    assert abs(one.mean().item() - 0.5) < 0.1
    assert abs(one.std().item() - math.sqrt(0.5)) < 0.08
    many = posterior.sample(2000, torch.ones(9, 1), seed=0)
    assert abs(many.mean().item() - 0.9) < 0.12
    assert abs(many.std().item() - math.sqrt(0.1)) < 0.06


def test_likelihood_refuses_what_it_cannot_model():
    with pytest.raises(ConfigError, match="NLE models x"):
        fit_nle((torch.zeros(20, 1), torch.randn(20, 4, 4)), normal_prior())


# -- sequential --------------------------------------------------------------------------------------------------------


def test_the_truncated_prior_is_the_prior_inside_a_region():
    prior = Prior([Normal(0.0, 1.0)])
    posterior = known(scale=0.3).at([0.0])
    theta, share = truncated(prior, posterior, 2000, 0.01)
    edge = 2.576 * 0.3 * math.sqrt(0.5)
    assert theta.abs().max() < 1.2 * edge
    assert abs(share - math.erf(edge / math.sqrt(2))) < 0.05
    inside = torch.distributions.Normal(0.0, 1.0)
    width = float(theta.abs().max())
    u = (inside.cdf(theta) - inside.cdf(torch.tensor(-width))) / (2 * inside.cdf(torch.tensor(width)) - 1)
    assert abs(u.mean().item() - 0.5) < 0.03
    assert abs(u.var().item() - 1 / 12) < 0.01


@pytest.mark.slow
def test_rounds_sharpen_the_posterior_of_one_observation():
    prior = box_uniform([-10.0, -10.0], [10.0, 10.0])
    narrow = lambda theta: theta + 0.1 * torch.randn(theta.shape)
    quick = lambda pairs, p: fit_npe(pairs, p, config=posterior_config(len(pairs), epochs=20, lr=3e-3), **TINY)
    fitted = fit_sequentially(prior, narrow, [1.0, -2.0], simulations=300, rounds=3, fit=quick)
    draws = fitted.posterior.sample(2000, seed=0)
    assert torch.allclose(draws.mean(0), torch.tensor([1.0, -2.0]).double(), atol=0.15)
    assert draws.std(0).max() < 0.3
    assert "3 rounds" in fitted.notes[-1]


def test_studies_refuse():
    with pytest.raises(ConfigError, match="use npe, fmpe, nle or nre"):
        study(normal_prior(), simulator, [0.0], method="abc")
    with pytest.raises(ConfigError, match="sequential inference is for"):
        study(normal_prior(), simulator, [0.0], method="nle", rounds=2)
    with pytest.raises(ConfigError, match="at least 100"):
        study(normal_prior(), simulator, [0.0], checks=5)

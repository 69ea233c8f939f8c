"""Evidence: every estimator against known answers, failing ones flagged, verdicts, comparison of models, storage."""

import dataclasses
import importlib
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate
from torch.distributions import Normal

import bijectory as bj
from bijectory.apps import (
    Evidence,
    EvidenceEstimate,
    EvidenceStudy,
    EvidenceWarning,
    ModelComparison,
    annealed_evidence,
    bridge_evidence,
    compare_models,
    evidence,
    harmonic_evidence,
    importance_evidence,
    study_evidence,
    variational_config,
    write_evidence,
)
from bijectory.apps.model_evidence.bridge import _chain_variance, _fixed_point
from bijectory.apps.model_evidence.harmonic import _blocks
from bijectory.apps.model_evidence.learned import learn_density
from bijectory.apps.model_evidence.problem import Problem, halves, read_draws
from bijectory.apps.variational import Parameters
from bijectory.apps.variational.proposal import draw, log_mixture
from bijectory.errors import ConfigError, ConvergenceError, DataError, DomainError, NonFiniteError, ShapeError
from bijectory.report import write_evidence_report
from bijectory.report.evidence_run import evidence_verdicts

F64 = torch.float64
ROOT = torch.tensor([[2.0, 0.0], [1.5, 0.5]], dtype=F64)
LOG_Z = 2.0 + math.log(2 * math.pi)  # det ROOT = 1


@pytest.fixture
def little_learning(monkeypatch):
    """Densities learned in few steps."""
    monkeypatch.setattr(importlib.import_module("bijectory.apps.model_evidence.learned"), "STEPS", 80)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(x):
    z = torch.linalg.solve_triangular(ROOT, (x - 1.0).T, upper=False)
    return 2.0 - 0.5 * z.square().sum(0)


def gaussian_draws(chains=16, n=200, seed=0):
    e = torch.randn(chains, n, 2, generator=generator(seed), dtype=F64)
    return 1.0 + e @ ROOT.mT


def affine(scale=1.0, width=2, loc=1.0):
    """A flow that is the normal target, but for its scale."""
    root = scale * (ROOT if width == 2 else torch.eye(width, dtype=F64))
    chain = bj.Chain(bj.Whiten(width, torch.full((width,), loc, dtype=F64), root))
    return bj.Flow(chain, bj.StandardNormal(width)).double()


def one_mode(at=-4.0, sd=0.5):
    return bj.Flow(bj.Chain(bj.Whiten(1, [at], [[sd]])), bj.StandardNormal(1)).double()


def two_modes(x):
    """Normals at -4 and 4 of sd 0.5 with a quarter and three quarters of the mass; log Z = 1."""
    parts = torch.cat([Normal(-4.0, 0.5).log_prob(x), Normal(4.0, 0.5).log_prob(x)], -1)
    return 1.0 + (parts + torch.tensor([0.25, 0.75], dtype=F64).log()).logsumexp(-1)


def two_mode_draws(share=0.75, chains=8, n=250, seed=0):
    g = generator(seed)
    right = torch.rand(chains, n, 1, generator=g, dtype=F64) < share
    return torch.where(right, 4.0, -4.0) + 0.5 * torch.randn(chains, n, 1, generator=g, dtype=F64)


def estimate(method="importance", log_z=-3.0, se=0.01, problems=(), **diagnostics):
    return EvidenceEstimate(method, log_z, se, diagnostics, problems)


# -- each estimator ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def near():
    """A proposal that is a little too wide."""
    return affine(1.2)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_estimator_finds_a_normal(near, seed):
    x = gaussian_draws(seed=seed)
    found = [
        importance_evidence(gaussian, 2, flow=near, seed=seed),
        bridge_evidence(gaussian, x, 2, flow=near, seed=seed),
        harmonic_evidence(gaussian, x, 2, flow=near, temperature=0.5, seed=seed),
        annealed_evidence(gaussian, 2, flow=near, seed=seed),
        annealed_evidence(gaussian, 2, start="broad", seed=seed),
        annealed_evidence(gaussian, 2, flow=near, moves="random-walk", seed=seed),
    ]
    for e in found:
        assert e.reliable, e
        assert 0 < e.se < 0.1
        assert abs(e.log_z - LOG_Z) < 3 * e.se, e
    assert len({e.log_z for e in found}) == len(found)


def test_the_same_seed_gives_the_same_estimate(near):
    x = gaussian_draws()
    for run in (
        lambda s: importance_evidence(gaussian, 2, flow=near, draws=500, seed=s),
        lambda s: bridge_evidence(gaussian, x, 2, flow=near, draws=500, seed=s),
        lambda s: annealed_evidence(gaussian, 2, flow=near, particles=200, seed=s),
    ):
        assert run(3) == run(3)
        assert run(3) != run(4)


def test_a_perfect_proposal_leaves_no_error():
    x = gaussian_draws()
    bridge = bridge_evidence(gaussian, x, 2, flow=affine(), seed=0)
    assert bridge.log_z == pytest.approx(LOG_Z, abs=4 * bridge.se + 1e-9)
    # Most draws of the posterior lie where the net of a narrow proposal is most of its density.
    narrow = bridge_evidence(gaussian, x, 2, flow=affine(0.25), seed=0)
    assert narrow.log_z == pytest.approx(LOG_Z, abs=3 * narrow.se)
    harmonic = harmonic_evidence(gaussian, x, 2, flow=affine(), temperature=1.0)
    assert harmonic.log_z == pytest.approx(LOG_Z, abs=1e-9)
    assert harmonic.se < 1e-9
    cool = harmonic_evidence(gaussian, x, 2, flow=affine(), temperature=0.5)  # relative variance 1/3
    assert cool.se == pytest.approx(math.sqrt(1 / 3 / 3200), rel=0.35)
    annealed = annealed_evidence(gaussian, 2, start="laplace")
    assert annealed.log_z == pytest.approx(LOG_Z, abs=1e-6)


@pytest.mark.usefixtures("little_learning")
def test_draws_teach_a_proposal_where_there_is_none():
    """Half of the chains teach, the other half estimates; supports are respected."""
    e = torch.randn(8, 250, 2, generator=generator(), dtype=F64)
    x = torch.stack([e[..., 0].exp(), e[..., 1]], -1)

    def log_density(x):
        return -0.5 * x[:, 0].log().square() - x[:, 0].log() - 0.5 * x[:, 1].square()

    declared = {"rate": "positive", "shift": "real"}
    harmonic = harmonic_evidence(log_density, x, declared)
    bridge = bridge_evidence(log_density, x, declared)
    for found in (harmonic, bridge):
        assert found.reliable
        assert abs(found.log_z - math.log(2 * math.pi)) < 3 * found.se
    assert harmonic.diagnostics["temperature"] == pytest.approx(1 - math.sqrt(2 / 3))  # relative variance 2 at d = 2


def test_the_density_of_the_mixture_is_that_of_its_draws(near):
    drawn = draw(near, 100, generator())
    assert torch.allclose(log_mixture(near, drawn.x), drawn.log_prob)
    other = bj.Flow(bj.Chain(), bj.StudentT(1)).double()  # no safety net
    drawn = draw(other, 100, generator())
    assert torch.allclose(log_mixture(other, drawn.x), other.log_prob(drawn.x))


def test_the_fixed_point_solves_its_equation():
    g = generator()
    l1, l2 = torch.randn(500, generator=g, dtype=F64) + 3, torch.randn(700, generator=g, dtype=F64) + 2
    log_z, rounds = _fixed_point(l1, l2, 0.4)
    assert rounds < 50
    r = math.exp(log_z)
    above = (l2.exp() / (0.4 * l2.exp() + 0.6 * r)).mean()
    below = (1 / (0.4 * l1.exp() + 0.6 * r)).mean()
    assert float(above / below) == pytest.approx(r, rel=1e-8)


def test_the_error_of_the_bridge_counts_autocorrelation_and_stuck_chains():
    f = np.random.default_rng(0).gamma(4.0, size=(16, 400))
    plain = _chain_variance(f)
    assert plain == pytest.approx(1 / (4 * f.size), rel=0.3)  # the squared coefficient of variation of a gamma is 1/4
    assert _chain_variance(np.repeat(f[:, ::8], 8, 1)) == pytest.approx(8 * plain, rel=0.4)
    assert _chain_variance(f + 2 * (np.arange(16) == 3)[:, None]) > 5 * plain
    assert _chain_variance(np.ones((4, 10))) == 0
    for seed in range(10):  # independent draws: the chains' means spread more than the ESS says in about half of them
        f = np.random.default_rng(seed).gamma(4.0, size=(16, 100))
        assert _chain_variance(f) * f.mean() ** 2 >= f.mean(1).var(ddof=1) / 16 - 1e-12
    slow = gaussian_draws(n=400)[:, ::8].repeat_interleave(8, 1)
    bridge = bridge_evidence(gaussian, slow, 2, flow=affine(2.0))
    assert bridge.diagnostics["ess"] < 16 * 400 / 6


def test_blocks_are_longer_than_the_autocorrelation():
    values = np.random.default_rng(0).normal(size=(4, 400))
    assert len(_blocks(values, 1600.0)) == 32
    assert len(_blocks(values, 100.0)) == 8
    assert len(_blocks(values, 16.0)) == 4  # whole chains
    assert _blocks(values, 1600.0).reshape(4, 8).mean(1) == pytest.approx(values.mean(1))


def test_annealing_stays_unbiased_where_moves_do_not_mix():
    """Weights are exact on average whatever the moves do: the mean of Z over seeds, not of log Z."""
    flow = affine(2.0)
    z = [annealed_evidence(gaussian, 2, flow=flow, particles=200, seed=s, warn=False).log_z for s in range(8)]
    mean = float(np.exp(np.array(z) - LOG_Z).mean())
    assert mean == pytest.approx(1.0, abs=3 * float(np.exp(np.array(z) - LOG_Z).std() / math.sqrt(8)))


# -- flags -------------------------------------------------------------------------------------------------------------


def test_a_narrow_proposal_is_flagged_and_the_bridge_survives_it():
    narrow, wide = one_mode(0.0, 0.25), torch.randn(8, 250, 1, generator=generator(), dtype=F64)
    bare = bj.Flow(narrow.transform, bj.Mixture(bj.DiagonalNormal(1))).double()  # no safety net in the tails

    def log_density(x):
        return Normal(0.0, 1.0).log_prob(x).sum(-1)

    with pytest.warns(EvidenceWarning, match="Pareto k"):
        found = importance_evidence(log_density, 1, flow=bare)
    assert found.diagnostics["khat"] > 0.7
    assert found.state == "unreliable"
    bridge = bridge_evidence(log_density, wide, 1, flow=bare)
    assert abs(bridge.log_z) < 3 * bridge.se


def test_a_learned_density_wider_than_the_posterior_is_flagged_until_it_is_cooled():
    x = torch.randn(16, 250, 1, generator=generator(), dtype=F64)

    def log_density(x):
        return -0.5 * x[:, 0] ** 2

    wide = one_mode(0.0, 8.0)
    with pytest.warns(EvidenceWarning, match="lower the temperature"):
        hot = harmonic_evidence(log_density, x, 1, flow=wide, temperature=1.0)
    assert hot.diagnostics["khat"] > 0.7
    cold = harmonic_evidence(log_density, x, 1, flow=wide, temperature=0.01)
    assert cold.reliable
    assert abs(cold.log_z - 0.5 * math.log(2 * math.pi)) < 3 * cold.se


def test_chains_that_do_not_mix_are_flagged(near):
    stuck = gaussian_draws(chains=4) + 5 * torch.arange(4, dtype=F64)[:, None, None]
    with pytest.warns(EvidenceWarning, match="R-hat"):
        bridge_evidence(gaussian, stuck, 2, flow=near)
    with pytest.warns(EvidenceWarning, match="blocks"):
        harmonic_evidence(gaussian, gaussian_draws(chains=1, n=40), 2, flow=near)


def test_a_proposal_without_overlap_is_an_error_that_names_the_remedy():
    x = gaussian_draws()
    far = bj.Flow(bj.Chain(bj.Whiten(2, [60.0, 60.0], [[0.1, 0.0], [0.0, 0.1]])), bj.StandardNormal(2)).double()
    with pytest.raises(ConvergenceError, match=r"hardly overlap\. Train the proposal longer"):
        bridge_evidence(gaussian, x, 2, flow=far)


def test_annealing_flags_few_effective_particles():
    def far(x):
        return Normal(300.0, 0.001).log_prob(x).sum(-1)

    with pytest.warns(EvidenceWarning):
        found = annealed_evidence(far, 1, start="broad", particles=100, moves="random-walk")
    assert not found.reliable


@pytest.mark.usefixtures("little_learning")
def test_draws_that_miss_a_mode_disagree_with_a_flow_that_knows_it():
    both = bj.Flow(bj.Chain(), bj.Mixture(one_mode(-4.0), one_mode(4.0))).double()
    importance = importance_evidence(two_modes, 1, flow=both)
    assert importance.log_z == pytest.approx(1.0, abs=0.01)
    half = two_mode_draws(share=0.0)
    harmonic = harmonic_evidence(two_modes, half, 1)
    assert harmonic.log_z == pytest.approx(1.0 + math.log(0.25), abs=3 * harmonic.se)
    found = Evidence((importance, harmonic))
    assert found.state == "disagree"
    with pytest.warns(EvidenceWarning, match="disagree"):
        found.warn()


def test_a_flow_that_misses_a_mode_disagrees_with_draws_that_know_it():
    half = one_mode(4.0)
    importance = importance_evidence(two_modes, 1, flow=half)
    annealed = annealed_evidence(two_modes, 1, flow=half)
    bridge = bridge_evidence(two_modes, two_mode_draws(), 1, flow=half)
    assert importance.log_z == pytest.approx(1.0 + math.log(0.75), abs=0.05)
    assert importance.reliable  # nothing that it sees speaks against it
    assert abs(bridge.log_z - 1.0) < 3 * bridge.se
    assert Evidence((importance, annealed, bridge)).state == "disagree"


# -- honest errors -------------------------------------------------------------------------------------------------------


def counted(found, log_z):
    """Share of unflagged estimates within three standard errors, and rmse over the mean standard error."""
    good = [e for e in found if e.reliable]
    assert len(good) >= 0.9 * len(found)
    error = np.array([e.log_z - log_z for e in good])
    se = np.array([e.se for e in good])
    return (np.abs(error) <= 3 * se).mean(), float(np.sqrt((error**2).mean()) / se.mean())


@pytest.mark.slow  # thirty seconds of one core; the whole of it is benchmarks/evidence.py
def test_standard_errors_of_a_normal_are_honest_in_sixty_seeds(near):
    runs = {name: [] for name in ("importance", "bridge", "harmonic", "annealed")}
    for seed in range(60):
        x = gaussian_draws(seed=1000 + seed)
        runs["importance"].append(importance_evidence(gaussian, 2, flow=near, draws=2000, seed=seed, warn=False))
        runs["bridge"].append(bridge_evidence(gaussian, x, 2, flow=near, draws=2000, seed=seed, warn=False))
        runs["harmonic"].append(harmonic_evidence(gaussian, x, 2, flow=near, warn=False))
        runs["annealed"].append(annealed_evidence(gaussian, 2, flow=near, particles=256, seed=seed, warn=False))
    for found in runs.values():
        within, ratio = counted(found, LOG_Z)
        assert within >= 0.98
        assert 0.7 < ratio < 1.4


@pytest.mark.slow  # twenty seconds of one core
def test_logistic_regression_agrees_with_quadrature():
    t = torch.linspace(-2, 2, 30, dtype=F64)
    sign = torch.where(2 * torch.sin(7 * t) + t > 0, 1.0, -1.0)  # far from separable

    def log_density(b):
        prior = Normal(0.0, 2.5).log_prob(b).sum(-1)
        return prior + torch.nn.functional.logsigmoid((b[:, :1] + b[:, 1:] * t) * sign).sum(-1)

    def value(u, v):
        return math.exp(float(log_density(torch.tensor([[u, v]], dtype=F64))))

    exact = math.log(integrate.dblquad(value, -12, 12, -12, 12, epsabs=0, epsrel=1e-6)[0])
    config = variational_config(epochs=10)
    posterior = bj.fit_posterior(
        log_density, 2, warn=False, config=config, recipe_args={"layers": 2, "hidden": (16, 16)}
    )
    for seed in range(5):
        found = evidence(posterior, seed=seed, draws=4000, particles=512)
        assert found.state == "trusted", found
        for e in found.estimates:
            assert abs(e.log_z - exact) < 3.5 * e.se + 1e-4


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_states_and_the_recommended_estimate():
    one, two = estimate(), estimate("bridge", -3.02, 0.02)
    assert Evidence((one, two)).state == "trusted"
    assert Evidence((one, two)).recommended is one
    assert Evidence((one,)).state == "trusted"
    assert "no second estimate" in Evidence((one,)).verdict
    bad = dataclasses.replace(one, problems=("k",))
    assert Evidence((bad, two)).state == "unreliable"
    assert Evidence((bad, two)).recommended is two
    assert Evidence((bad, two, estimate("annealed", -3.0, 0.05))).state == "trusted"
    assert Evidence((one, two), ("the flow misses 1 modes",)).state == "unreliable"
    assert "misses" in Evidence((one, two), ("the flow misses 1 modes",)).verdict
    off = estimate("bridge", -2.9, 0.01)
    found = Evidence((one, off))
    assert found.state == "disagree"
    assert found.agreement[0] == pytest.approx(0.1**2 / (2 * (0.01**2 + 1e-6)))
    assert found.pairs()["z"].tolist() == pytest.approx([-0.1 / math.sqrt(2 * (0.01**2 + 1e-6))])
    failed = estimate("harmonic", math.nan, math.nan, ("no",))
    assert failed.state == "failed"
    text = str(Evidence((one, two, failed)))
    assert "failed; no" in text
    assert "trusted" in text
    # Differences of a thousandth of a nat are no disagreement, however small the errors are.
    assert Evidence((estimate(se=1e-9), estimate("bridge", -3.001, 1e-9))).state == "trusted"


def test_evidence_survives_storage():
    found = Evidence((estimate(khat=0.2), estimate("bridge", math.nan, math.nan, ("no",))), ("note",), "A")
    text = json.dumps(found.to_dict()).replace("NaN", "null")
    again = Evidence.from_dict(json.loads(text))
    assert again.verdict == found.verdict
    assert again.estimates[0] == found.estimates[0]
    assert math.isnan(again.estimates[1].log_z)


@pytest.fixture(scope="module")
def posterior():
    small = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}}
    config = variational_config(epochs=2, batch_size=128)
    return bj.fit_posterior(gaussian, ["a", "b"], draws=2000, config=config, **small)


@pytest.mark.usefixtures("little_learning")
def test_all_estimators_of_a_posterior_agree(posterior):
    found = evidence(posterior, draws=4000, particles=512, name="normal")
    assert [e.method for e in found.estimates] == ["importance", "bridge", "harmonic", "annealed"]
    assert found.state == "trusted", found
    for e in found.estimates:
        assert abs(e.log_z - LOG_Z) < 3 * e.se + 2e-3
    assert "4 estimates agree" in found.verdict
    table = found.table()
    assert list(table.index) == ["importance", "bridge", "harmonic", "annealed"]
    assert (table["state"] == "reliable").all()
    assert len(found.pairs()) == 6


def test_given_draws_are_used_and_a_failing_estimator_is_listed(posterior):
    frame = pd.DataFrame(gaussian_draws(chains=4).reshape(-1, 2).numpy(), columns=["a", "b"])
    frame["chain"] = np.repeat(range(4), 200)
    found = evidence(posterior, samples=frame, methods=("bridge",), draws=2000)
    assert found.state == "trusted"
    wrong = frame.assign(a=frame["a"] + 500)
    with pytest.warns(EvidenceWarning, match="unreliable"):
        found = evidence(posterior, samples=wrong, methods=("importance", "bridge"), draws=2000)
    assert found.estimates[1].state == "failed"
    assert "hardly overlap" in found.estimates[1].problems[0]


def test_missed_modes_and_hopeless_flows_are_not_trusted(posterior):
    mode = bj.apps.Mode({"a": 7.0}, 0.0, 0.5, 12.0)
    missed = dataclasses.replace(posterior, diagnostics=dataclasses.replace(posterior.diagnostics, modes=(mode,)))
    with pytest.warns(EvidenceWarning, match="misses 1 modes"):
        found = evidence(missed, methods=("importance",), draws=500)
    assert found.state == "unreliable"
    chains = posterior.polish("independence", chains=8, draws=50)
    heavy = dataclasses.replace(chains, diagnostics=dataclasses.replace(posterior.diagnostics, khat=1.3))
    found = evidence(heavy, methods=("importance", "bridge"), draws=500, warn=False)
    assert "weights have no mean" in found.notes[0]


def test_a_mode_that_the_fit_overlooked_is_found_by_a_search_of_its_own():
    """With one start the fit knows one mode, and everything that starts from its flow agrees on a wrong number."""
    small = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}, "starts": 1}
    config = variational_config(epochs=1, batch_size=128)
    found = bj.fit_posterior(two_modes, 1, draws=1000, config=config, warn=False, **small)
    assert found.diagnostics.verdict == "good"
    with pytest.warns(EvidenceWarning, match="misses 1 modes that a search found"):
        wrong = evidence(found, methods=("importance", "annealed"), draws=1000, particles=200)
    assert len(wrong.reliable) == 2
    assert wrong.state == "unreliable"
    assert wrong.log_z < 1.0 - 0.2


# -- models ------------------------------------------------------------------------------------------------------------


def of(log_z, se=0.1, problems=()):
    return Evidence((estimate("bridge", log_z, se, problems),))


def test_the_better_model_is_preferred_with_its_probability():
    found = compare_models({"A": of(-10.0), "B": of(-12.0), "C": of(-30.0)})
    assert isinstance(found, ModelComparison)
    assert found.preferred == "A"
    assert found.log_bayes_factor == (pytest.approx(2.0), pytest.approx(0.1 * math.sqrt(2)))
    p = 1 / (1 + math.exp(-2) + math.exp(-20))
    assert found.probabilities[0] == pytest.approx(p)
    assert found.probability_errors[0] == pytest.approx(p * (1 - p) * 0.1 * math.sqrt(2), rel=1e-3)
    assert "positive" in found.verdict
    assert list(found.table().index) == ["A", "B", "C"]
    assert found.to_dict()["table"][0]["model"] == "A"


def test_prior_odds_turn_a_preference():
    turned = compare_models({"A": of(-10.0), "B": of(-12.0)}, odds={"B": 100.0})
    assert turned.preferred == "B"
    assert turned.probabilities[1] == pytest.approx(1 / (1 + math.exp(2) / 100))
    assert "in spite of its evidence" in turned.verdict
    assert compare_models({"A": of(-10.0), "B": of(-10.1)}).preferred is None


def test_no_model_is_preferred_on_an_untrusted_evidence():
    with pytest.warns(EvidenceWarning, match=r"B \(unreliable\)"):
        found = compare_models({"A": of(-10.0), "B": of(-12.0, problems=("k",))})
    assert found.preferred is None


@pytest.mark.parametrize(
    ("evidences", "odds", "message"),
    [
        ([of(-1.0)], None, "at least two"),
        ([of(-1.0), of(-2.0)], None, "repeat a name"),
        ({"A": of(-1.0), "B": of(-1.0)}, {"C": 1.0}, "odds are given for"),
        ({"A": of(-1.0), "B": of(-1.0)}, [1.0], "1 odds for 2"),
        ({"A": of(-1.0), "B": of(-1.0)}, [1.0, 0.0], "must be positive"),
    ],
)
def test_comparisons_that_are_refused(evidences, odds, message):
    with pytest.raises(ConfigError, match=message):
        compare_models(evidences, odds=odds)


# -- input -------------------------------------------------------------------------------------------------------------


def test_draws_in_every_form():
    p = Parameters.declare(["a", "b"])
    x = gaussian_draws(chains=4, n=10).numpy()
    frame = pd.DataFrame(x.reshape(-1, 2), columns=["a", "b"])
    assert read_draws(x, p).shape == read_draws(torch.from_numpy(x), p).shape == (4, 10, 2)
    assert read_draws(frame[["b", "a"]], p).shape == (1, 40, 2)
    assert np.array_equal(read_draws(frame.assign(chain=np.repeat([2, 1, 0, 3], 10)), p)[2], x[0])
    assert [h.shape for h in halves(x)] == [(2, 10, 2), (2, 10, 2)]
    assert [h.shape for h in halves(x[:1])] == [(1, 5, 2), (1, 5, 2)]
    with pytest.raises(DataError, match="lack the columns"):
        read_draws(frame[["a"]], p)
    with pytest.raises(DataError, match="same length"):
        read_draws(frame.assign(chain=[0] * 30 + [1] * 10), p)
    with pytest.raises(DataError, match="at least 8"):
        read_draws(x[:, :5], p)
    with pytest.raises(ShapeError, match=r"expected \(chains, n, 2\)"):
        read_draws(np.zeros((10, 3)), p)
    with pytest.raises(NonFiniteError, match="1 values"):
        read_draws(np.where(np.arange(20).reshape(10, 2) == 3, np.nan, 0.0), p)


def test_what_is_refused(near, posterior):
    x = gaussian_draws()
    with pytest.raises(ConfigError, match="no proposal"):
        importance_evidence(gaussian, 2)
    with pytest.raises(ConfigError, match="declare the parameters"):
        importance_evidence(gaussian, flow=near)
    with pytest.raises(ConfigError, match="the flow has events"):
        importance_evidence(gaussian, 3, flow=near)
    with pytest.raises(ConfigError, match="leave `parameters` out"):
        importance_evidence(posterior, 2)
    with pytest.raises(ConfigError, match="not stored"):
        importance_evidence(dataclasses.replace(posterior, log_density=None))
    with pytest.raises(ConfigError, match="Posterior or a log-density"):
        importance_evidence(3.0, 2)
    with pytest.raises(ConfigError, match="at least 100"):
        importance_evidence(gaussian, 2, flow=near, draws=3)
    with pytest.raises(ConfigError, match="temperature"):
        harmonic_evidence(gaussian, x, 2, flow=near, temperature=0.0)
    student = bj.Flow(bj.Chain(), bj.StudentT(1)).double()
    with pytest.raises(ConfigError, match="temperature=1"):
        harmonic_evidence(two_modes, two_mode_draws(), 1, flow=student, temperature=0.5)
    with pytest.raises(DomainError, match="no draws of this density"):
        bridge_evidence(lambda x: torch.where(x[:, 0] > 0, -x[:, 0], -torch.inf), x, 2, flow=near)
    with pytest.raises(ConfigError, match="no moves"):
        annealed_evidence(gaussian, 2, flow=near, moves="leap")
    with pytest.raises(ConfigError, match="no start"):
        annealed_evidence(gaussian, 2, flow=near, start="here")
    with pytest.raises(ConfigError, match="no estimator"):
        evidence(posterior, methods=("nested",))
    with pytest.raises(ConfigError, match="is fitted"):
        evidence(posterior, objective="forward")
    with pytest.raises(ConfigError, match="no estimator 'nested'"):
        estimate("nested")
    with pytest.raises(DataError, match="too few to learn"):
        learn_density(x[:1, :20].numpy(), Problem.of(gaussian, 2).density)


def test_a_joint_is_a_model_and_studies_are_stored(tmp_path):
    study = EvidenceStudy((of(-1.0),), None)
    write_evidence(study, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "evidence.json").read_text())["evidences"][0]["log_z"] == -1.0
    assert "trusted" in (tmp_path / "run" / "summary.txt").read_text()
    study.require_trusted()
    with pytest.raises(ConvergenceError, match="unreliable"):
        EvidenceStudy((of(-1.0, problems=("k",)),), None).require_trusted()
    with pytest.raises(ConfigError, match="repeat a name"):
        study_evidence([tmp_path / "a.py", tmp_path / "b" / "a.py"])
    joint = bj.Joint(
        {"mu": Normal(torch.tensor(0.0, dtype=F64), 2.0)}, lambda v: Normal(v["mu"], 1.0).log_prob(torch.tensor(1.0))
    )
    flow = bj.Flow(bj.Chain(bj.Whiten(1, [0.8], [[0.9]])), bj.StandardNormal(1)).double()
    found = importance_evidence(joint, flow=flow)
    assert abs(found.log_z - Normal(0.0, math.sqrt(5)).log_prob(torch.tensor(1.0)).item()) < 3 * found.se


def test_the_report_shows_what_speaks_against_an_evidence(tmp_path):
    failed = estimate("harmonic", math.nan, math.nan, ("too few draws",))
    shaky = Evidence((estimate(problems=("Pareto k 1.20",), khat=1.2, ess=30.0), failed), ("misses 1 modes",), "B")
    models = {"A": Evidence((estimate(), estimate("bridge"))), "B": shaky}
    study = EvidenceStudy(tuple(models.values()), compare_models(models, warn=False))
    page = write_evidence_report(tmp_path, study).read_text()
    for word in (
        "no model can be preferred",
        "Pareto k 1.20",
        "too few draws",
        "misses 1 modes",
        "failed",
        "data:image/png",
    ):
        assert word in page
    assert [v.light for v in evidence_verdicts(study)] == ["bad", "good", "bad"]
    lost = EvidenceStudy((Evidence((failed,)),), None)
    assert "unreliable" in write_evidence_report(tmp_path, lost).read_text()

"""Importance sampling: known tails, known expectations, known constants, and what is refused."""

import math
import warnings

import pytest
import torch
from scipy import stats

import bijectory as bj
from bijectory.apps.importance import ImportanceWarning, pareto_fit, psis
from bijectory.errors import ConfigError, NonFiniteError, ShapeError

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_ratios(n, scale, seed=0, log_z=0.0):
    """Draws of q = N(0, scale^2) and log p / q for p = N(0, 1) times Z: the tail of the ratios has shape 1 - scale^2."""
    x = scale * torch.randn(n, generator=generator(seed), dtype=F64)
    return x, -0.5 * x**2 + 0.5 * (x / scale) ** 2 + math.log(scale) + log_z


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.5])
def test_pareto_fit_finds_shape_and_scale(k):
    draws = torch.from_numpy(stats.genpareto.rvs(k, scale=3.0, size=20_000, random_state=0))
    shape, scale = pareto_fit(draws)
    assert shape == pytest.approx(k, abs=0.03)
    assert scale == pytest.approx(3.0, rel=0.04)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_khat_is_the_shape_of_a_pareto_tail(k):
    ratios = torch.from_numpy(stats.genpareto.rvs(k, size=100_000, random_state=1)).log()
    weights = psis(ratios, warn=False)
    assert weights.khat == pytest.approx(k, abs=0.08)
    assert weights.reliable == (k < 0.7)


def test_khat_of_normals_has_its_known_limit():
    _, log_ratios = normal_ratios(200_000, 0.5)  # P(r > t) falls as t^(-1 / (1 - s^2)): shape 0.75
    assert psis(log_ratios, warn=False).khat == pytest.approx(0.75, abs=0.1)
    _, log_ratios = normal_ratios(200_000, 1.3)  # bounded ratios
    assert psis(log_ratios).khat < 0


def test_equal_ratios_have_every_draw_and_no_tail():
    weights = psis(torch.full((50,), -1e5))
    assert weights.ess == pytest.approx(50)
    assert weights.khat == -math.inf
    assert weights.reliable
    log_z, se = weights.log_evidence()
    assert (log_z.item(), se.item()) == (-1e5, 0.0)


def test_one_huge_ratio_is_one_draw():
    log_ratios = torch.zeros(1000)
    log_ratios[3] = 800.0  # overflows outside of logarithms
    with pytest.warns(ImportanceWarning, match="cannot be trusted"):
        weights = psis(log_ratios, smooth=False)
    assert weights.ess == pytest.approx(1.0)
    assert weights.weights.argmax() == 3


def test_expectations_evidence_and_their_errors_are_honest():
    pulls = []
    for seed in range(200):
        x, log_ratios = normal_ratios(2000, 1.3, seed, log_z=5.0)
        weights = psis(log_ratios)
        second, evidence = weights.expectation(x**2 + 3), weights.log_evidence()
        pulls.append([(second.value - 4) / second.se, (evidence.value - 5) / evidence.se])
    pulls = torch.tensor(pulls)
    assert pulls.mean(0).abs().max() < 0.25  # 3.5 standard errors of a mean of 200
    assert (pulls.std(0) - 1).abs().max() < 0.2


def test_smoothing_is_steadier_where_the_tail_is_heavy():
    raw, smooth = [], []
    for seed in range(100):
        _, log_ratios = normal_ratios(1000, 0.75, seed)
        raw.append(psis(log_ratios, smooth=False, warn=False).log_evidence().value)
        smooth.append(psis(log_ratios, warn=False).log_evidence().value)
    raw, smooth = torch.stack(raw), torch.stack(smooth)
    assert smooth.square().mean() < raw.square().mean()
    assert smooth.mean().abs() < 0.05


def test_smoothing_keeps_the_order_and_never_exceeds_the_largest():
    _, log_ratios = normal_ratios(1000, 0.8)
    weights = psis(log_ratios, warn=False)
    order = log_ratios.argsort()
    assert (weights.smoothed[order].diff() >= 0).all()
    assert weights.smoothed.max() <= log_ratios.max()
    assert (weights.smoothed != log_ratios).sum() <= math.ceil(3 * math.sqrt(1000))
    assert weights.weights.sum().item() == pytest.approx(1)


def test_draws_without_density_weigh_nothing():
    x = torch.linspace(-1, 1, 2000, dtype=F64)
    log_ratios = torch.where(x > 0, 0.0, -math.inf)
    weights = psis(log_ratios)
    values = torch.where(x > 0, x, math.inf)
    assert weights.expectation(values).value.item() == pytest.approx(0.5, abs=1e-3)
    assert weights.log_evidence().value.item() == pytest.approx(math.log(0.5))
    assert (x[weights.resample(500)] > 0).all()


def test_resampling_follows_the_weights():
    x, log_ratios = normal_ratios(20_000, 1.5)
    index = psis(log_ratios).resample(20_000, generator=generator(1))
    assert x[index].var().item() == pytest.approx(1, abs=0.05)
    assert stats.kstest(x[index].numpy()[:500], "norm").pvalue > 1e-3
    counts = torch.bincount(psis(torch.tensor([0.0, math.log(3)]), warn=False).resample(400))
    assert counts.tolist() == [100, 300]  # systematic: no more noise than rounding
    assert not torch.equal(index, index.sort().values), "in random order"


def test_too_few_draws_are_no_evidence_of_a_light_tail():
    with pytest.warns(ImportanceWarning):
        assert psis(torch.randn(10, generator=generator())).khat == math.inf


def test_warns_only_where_it_should():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        psis(normal_ratios(2000, 1.2)[1])
        psis(normal_ratios(2000, 0.5)[1], warn=False)


def test_refusals_say_what_to_do():
    with pytest.raises(NonFiniteError, match="2 of 3 log-ratios are NaN"):
        psis(torch.tensor([math.nan, math.nan, 0.0]))
    with pytest.raises(NonFiniteError, match="no draw lies"):
        psis(torch.full((9,), -math.inf))
    with pytest.raises(NonFiniteError, match=r"\+inf"):
        psis(torch.tensor([math.inf, 0.0]))
    with pytest.raises(ShapeError, match="vector"):
        psis(torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="empty"):
        psis(torch.zeros(0))
    with pytest.raises(ShapeError, match="one row for each"):
        psis(torch.zeros(3)).expectation(torch.zeros(2))
    with pytest.raises(ConfigError, match="at least 0"):
        psis(torch.zeros(3)).resample(-1)
    with pytest.raises(NonFiniteError, match="subtract the threshold"):
        pareto_fit(torch.tensor([1.0, -1.0]))
    assert bj.psis is psis

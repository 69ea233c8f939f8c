"""Checks of a posterior: the right one passes, a wrong one fails every check, recalibration repairs it."""

import numpy as np
import pytest
import torch
from scipy import stats

from bijectory.apps.posterior import (
    CalibrationTest,
    LocalTest,
    NeuralPosterior,
    Study,
    coverage,
    fit_npe,
    local_c2st,
    posterior_config,
    rank,
    recalibrate,
    sbc,
    study,
    tarp,
    uniformity,
)
from bijectory.errors import ConfigError, DataError
from posterior_support import known, pairs, prior, simulator

CHECKS = (sbc, coverage, tarp)
QUICK = posterior_config(1000, epochs=15)


def test_the_band_holds_uniform_numbers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    band = uniformity(rng.random(100), level=0.9, points=50)
    u = np.sort(rng.random((4000, 100)), 1)
    ecdf = (u[:, :, None] <= band.z).mean(1)
    assert abs(((ecdf >= band.low) & (ecdf <= band.high)).all(1).mean() - 0.9) < 0.02


def test_the_band_is_wider_than_pointwise_intervals():
    found = uniformity(np.random.default_rng(0).random(200))
    low = stats.binom.ppf(0.025, 200, found.z) / 200
    assert (found.low <= low).all()
    assert (found.low < low).any()
    assert not uniformity(np.random.default_rng(0).random(1000) ** 1.2).inside


def test_uniformity_refuses():
    with pytest.raises(DataError, match="at least 10 numbers"):
        uniformity(np.array([0.5] * 5))
    with pytest.raises(DataError, match=r"in \[0, 1\]"):
        uniformity(np.linspace(0, 2, 20))


def test_the_right_posterior_passes():
    ranked = rank(known(), pairs(1000, 3))
    for found in (check(ranked) for check in CHECKS):
        assert isinstance(found, CalibrationTest)
        assert found.ok, found
        assert all(part.inside for part in found.parts.values())
        assert found.lean == "", found


@pytest.mark.parametrize(("scale", "lean"), [(0.7, "overconfident"), (1.4, "underconfident")])
def test_a_wrong_width_fails_every_check_and_recalibration_repairs_it(scale, lean):
    wrong, test = known(scale), pairs(1000, 3)
    ranked = rank(wrong, test)
    for found in (check(ranked) for check in CHECKS):
        assert not found.ok, found
        assert found.lean == lean
        assert not any(part.inside for part in found.parts.values())
    repaired = recalibrate(wrong, pairs(1000, 7), config=QUICK)
    ranked = rank(repaired, test)
    for found in (check(ranked) for check in CHECKS):
        assert found.ok, found
    theta = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(repaired.log_prob(theta, [1.0]).exp(), theta[:, 0]).item() == pytest.approx(1, abs=1e-3)
    assert abs(repaired.sample(4000, [1.0], seed=0).std().item() - 0.5**0.5) < 0.05


def test_a_shift_fails_sbc_and_is_repaired():
    wrong = known(shift=0.3)
    assert not sbc(rank(wrong, pairs(500, 3))).ok
    repaired = recalibrate(wrong, pairs(500, 7), config=QUICK)
    assert sbc(rank(repaired, pairs(500, 3))).ok
    assert abs(repaired.sample(4000, [1.0], seed=0).mean().item() - 0.5) < 0.1


def test_recalibration_of_an_ensemble_is_a_density_of_the_same_kind(tmp_path):
    posterior = fit_npe(
        pairs(300, 0),
        prior(),
        ensemble=2,
        recipe_args={"layers": 2, "hidden": (8,)},
        config=posterior_config(300, epochs=1),
    ).posterior
    before = posterior.log_prob([[0.2]], [1.0])
    repaired = recalibrate(posterior, pairs(300, 7), config=posterior_config(300, epochs=1))
    assert torch.equal(before, posterior.log_prob([[0.2]], [1.0])), "the posterior itself is left alone"
    theta = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(repaired.log_prob(theta, [1.0]).exp(), theta[:, 0]).item() == pytest.approx(1, abs=1e-3)
    repaired.save(tmp_path / "run")
    again = NeuralPosterior.load(tmp_path / "run", prior())
    assert torch.allclose(again.log_prob(theta, [1.0]), repaired.log_prob(theta, [1.0]))


def test_local_recalibration_sees_the_data():
    posterior = fit_npe(
        pairs(300, 0),
        prior(),
        ensemble=1,
        recipe_args={"layers": 2, "hidden": (8,)},
        config=posterior_config(300, epochs=1),
    ).posterior
    repaired = recalibrate(posterior, pairs(300, 7), local=True, config=posterior_config(300, epochs=1))
    assert repaired.sample(10, [1.0], seed=0).shape == (10, 1)


def test_checks_refuse():
    with pytest.raises(DataError, match="at least 50 pairs"):
        rank(known(), pairs(20, 0))
    with pytest.raises(ConfigError, match="at least 10"):
        rank(known(), pairs(100, 0), draws=3)
    with pytest.raises(DataError, match="at least 100 pairs"):
        recalibrate(known(), pairs(50, 0))


@pytest.mark.slow
def test_the_local_test_finds_a_wrong_width_where_it_is():
    assert local_c2st(known(), pairs(1000, 3), [1.0], trials=20).ok
    assert isinstance(local_c2st(known(), pairs(100, 3), [1.0], trials=1), LocalTest)
    wrong = local_c2st(known(0.7), pairs(1000, 3), [1.0], trials=20)
    assert not wrong.ok
    assert wrong.statistic > 5 * float(np.median(wrong.null))


@pytest.mark.slow
def test_a_study_repairs_what_fails(monkeypatch):
    """An overconfident fit: the checks of the study see it, and what is returned passes."""

    def overconfident(*args, **kwargs):
        fitted = fit_npe(*args, **kwargs)
        import dataclasses

        return dataclasses.replace(fitted, posterior=known(0.6))

    import importlib

    # the module, not the function of the same name that the room exports
    monkeypatch.setattr(importlib.import_module("bijectory.apps.posterior.study"), "fit_npe", overconfident)
    found = study(prior(), simulator, [1.0], simulations=200, checks=1000, ensemble=1, training={"epochs": 1})
    assert isinstance(found, Study)
    assert not all(c.ok for c in found.before)
    assert all(c.ok for c in found.after)
    assert found.ok
    assert any("recalibrated" in note for note in found.notes)

"""The example programs run and find what they say."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # its classes can be pickled
    spec.loader.exec_module(module)
    return module


def test_conditional_density_is_calibrated(capsys, monkeypatch):
    coverage = load("conditional_density", monkeypatch).main(rows=2000, epochs=15)
    assert coverage == pytest.approx(0.9, abs=0.04)
    assert "every check holds" in capsys.readouterr().out


def test_custom_layers_obey_the_laws_and_learn(capsys, monkeypatch):
    nats = load("custom_layers", monkeypatch).main()
    assert nats < 4.0  # the entropy of the data is 3 (1/2 log 2 pi e) - log 2 = 3.56 nats
    assert "every check holds" in capsys.readouterr().out


@pytest.mark.slow  # ten seconds of one core and more
def test_logistic_regression_finds_a_posterior(capsys, monkeypatch):
    posterior = load("logistic_regression", monkeypatch).main(epochs=2)
    out = capsys.readouterr().out
    assert posterior.diagnostics.ess > 4000
    assert "log evidence" in out
    assert "% right" in out


def test_digits_are_scored_and_come_back(capsys, monkeypatch):
    bits = load("digits", monkeypatch).main(budget=2.0, steps=1, hidden=8)
    out = capsys.readouterr().out
    assert bits < 4.05  # log2 17 is 4.09: two seconds teach little
    assert "bits per dimension" in out
    assert "unchanged: 100.00%" in out


def test_weighting_helps_under_covariate_shift(capsys, monkeypatch):
    plain, weighted = load("covariate_shift", monkeypatch).main()
    assert weighted < 0.95 * plain
    assert "effective after weighting" in capsys.readouterr().out


def test_diabetes_intervals_cover(capsys, monkeypatch):
    found = load("diabetes", monkeypatch).main()
    assert found["conformal coverage"] == pytest.approx(0.8, abs=0.15)  # 120 and 80 patients
    assert found["flow CRPS"] < 1.1 * found["linear CRPS"]
    assert "patient 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_continuous_flow_is_matched_polished_and_distilled(capsys, monkeypatch):
    found = load("continuous_pipeline", monkeypatch).main(epochs=30)
    assert found["polished"] > found["matched"]
    assert abs(found["student"] - found["polished"]) < 0.1
    assert 0 <= found["divergence"] < 0.1
    assert found["speedup"] > 1.5
    assert "evaluations a row" in capsys.readouterr().out


@pytest.mark.slow  # twenty seconds of one core
def test_evidences_of_linear_models_are_those_of_the_closed_form(capsys, monkeypatch):
    names = ("weight and lipids", "weight, lipids, pressure")
    comparison, exact = load("evidence", monkeypatch).main(epochs=4, models=names)
    assert comparison.preferred == "weight, lipids, pressure"
    for found in comparison.evidences:
        for e in found.reliable:
            assert abs(e.log_z - exact[found.name]) < 4 * e.se + 1e-3
    assert "exact probabilities" in capsys.readouterr().out


def test_an_autoencoder_of_digits_reports_bounds(capsys, monkeypatch):
    found = load("vae_digits", monkeypatch).main(epochs=2, width=16)
    assert all(-44.5 < bound < -30 for bound in found.values())  # 64 log 2 is 44.4: nothing was learned
    out = capsys.readouterr().out
    assert "median ESS" in out
    assert "latent units are active" in out


def test_swapped_cells_are_found_and_named(capsys, monkeypatch):
    found = load("anomaly", monkeypatch).main(repeats=1)
    assert found["swapped, flow"] > found["swapped, isolation forest"] + 0.1
    assert found["swapped, flow"] > found["swapped, local outlier factor"] + 0.1
    assert found["malignant, flow"] > 0.85
    assert found["false alarms"] < 0.2  # 67 rows at a rate of 0.05
    assert found["right column blamed"] > 0.6
    assert "expected about" in capsys.readouterr().out


@pytest.mark.slow
def test_a_flow_prior_gives_the_evidence(capsys, monkeypatch):
    pytest.importorskip("dynesty")
    pytest.importorskip("xarray")
    evidence, error, exact = load("flow_prior", monkeypatch).main()
    assert abs(evidence - exact) < 3 * error + 0.1  # a tenth of a nat for the fit of the prior
    assert "slope" in capsys.readouterr().out


def test_wines_go_through_the_latent_space(capsys, monkeypatch):
    found = load("latent_tools", monkeypatch).main(epochs=15)
    assert found["round_trip"] < 1e-6
    assert found["latent_kept"] < 1e-6
    assert found["alcohol"] > 0.3
    assert found["ess"] > 500
    assert "had it been pale" in capsys.readouterr().out


@pytest.mark.slow  # twenty seconds of one core
def test_hare_and_lynx_have_a_ten_year_cycle(capsys, monkeypatch):
    found, exact = load("sbi_hare_lynx", monkeypatch).main(simulations=1000, checks=200, epochs=20)
    period = 2 * math.pi / (exact[0] * exact[2]).sqrt()
    assert period.item() == pytest.approx(9.5, abs=1.0)
    assert [c.name for c in found.before] == ["SBC", "expected coverage", "TARP"]
    assert "predictive check" in capsys.readouterr().out

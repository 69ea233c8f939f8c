"""Accuracy of the solvers of fitted flows: what is measured, what is chosen, what the report says."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from bijectory.apps import SolverCheck, check_solver, fit_table, solved_layers, tune_solver, with_solver
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError
from bijectory.recipes import cnf, ffjord, real_nvp
from bijectory.report import write_report
from bijectory.testing import randomize
from bijectory.training import FitConfig
from bijectory.transforms import Chain, Continuous

ROWS = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wild():
    """A flow whose field bends a lot in time and space, on a grid that is too coarse for it."""
    torch.manual_seed(0)
    flow = cnf(2, hidden=(16,), frequencies=2, steps=2)
    randomize(flow, scale=1.5)
    return flow


def test_the_error_is_that_of_the_rows(wild):
    found = check_solver(wild, ROWS)
    with torch.no_grad():
        truth = with_solver(wild, steps=400).double().log_prob(ROWS.double())
        gap = (wild.log_prob(ROWS) - truth).abs()
    assert not found.ok
    assert found.error == pytest.approx(float(gap.mean()), rel=1e-3)
    assert found.largest == pytest.approx(float(gap.max()), rel=1e-3)
    assert found.reference == pytest.approx(float(truth.mean()), abs=1e-6)
    assert found.tolerance == 1e-8
    assert (found.evaluations, found.standard_error) == (12, 0)
    assert found.reference_evaluations > 50
    assert "2 steps: 12 evaluations a row, off by" in str(found)


def test_the_cheapest_accurate_solver_is_chosen(wild):
    tuned, table = tune_solver(wild, ROWS, tolerance=0.003)
    chosen = solved_layers(tuned)[0]
    line = table[(table.method == chosen.method) & (table.steps == chosen.steps)].iloc[0]
    assert line.error <= 0.003
    assert line.evaluations == table[table.error <= 0.003].evaluations.min()
    assert check_solver(tuned, ROWS).error == pytest.approx(line.error, rel=1e-2)
    assert (table[(table.method == "tsit5")].error.diff().dropna() < 0).all()
    assert solved_layers(wild)[0].steps == 2, "the flow itself is left as it was"
    with pytest.raises(
        ConfigError, match=r"no solver tried is within 1e-09 nats; the best is method='midpoint', steps=2"
    ):
        tune_solver(wild, ROWS, tolerance=1e-9, methods=["midpoint"], grids=[1, 2])


def test_layers_between_others_keep_their_probes_and_count_together():
    torch.manual_seed(1)
    flow = ffjord(2, layers=2, trace="hutchinson", hidden=(8,))
    flow = Flow(Chain(*real_nvp(2, layers=2, hidden=(8,)).transform, *flow.transform), StandardNormal(2))
    randomize(flow, scale=0.3)
    for layer in solved_layers(flow):
        layer.redraw(torch.Generator().manual_seed(7))
    same = with_solver(flow, rtol=1e-5)
    assert torch.equal(same.log_prob(ROWS), flow.log_prob(ROWS))
    found = check_solver(flow, ROWS)
    assert found.evaluations == 2 * 48
    assert found.standard_error > 0
    assert found.error < 1e-4
    adaptive = with_solver(flow, steps=None)
    assert check_solver(adaptive, ROWS).settings == "tsit5, adaptive, rtol 1e-06, atol 1e-06"


def test_bad_input(wild):
    with pytest.raises(ConfigError, match="no layer of this flow is continuous"):
        check_solver(real_nvp(2), ROWS)
    with pytest.raises(ConfigError, match="use 1e-09 or more"):
        tune_solver(wild, ROWS, tolerance=0.0)
    with pytest.raises(ConfigError, match=r"\['trace'\] are no settings of a solver"):
        with_solver(wild, trace="hutchinson")
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        with_solver(wild, steps=0)


def coarse(features, context=0):
    """A recipe whose single Euler step is too coarse for anything."""
    torch.manual_seed(0)
    flow = cnf(features, context, hidden=(16,), method="euler", steps=1)
    randomize(flow, scale=1.0)
    return flow


def test_a_fit_on_too_coarse_a_grid_takes_more_steps_and_the_report_says_so(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 2))
    config = FitConfig(epochs=1, lr=1e-6, progress=False)
    fitted = fit_table(x, recipe=coarse, config=config, out=tmp_path, audit=False)
    assert fitted.solver.ok
    assert solved_layers(fitted.model.flow)[0].steps > 1
    stored = json.loads((tmp_path / "config.json").read_text())["metadata"]["solver"]
    assert SolverCheck(**stored) == fitted.solver
    page = write_report(tmp_path).read_text()
    assert "solver is accurate: good" in page
    assert f"<td>{fitted.solver.settings}</td>" in page
    assert fit_table(x, recipe="real_nvp", config=config, audit=False).solver is None


def test_standard_errors_are_shown():
    check = SolverCheck("tsit5, 8 steps", 1e-8, -1.0, -1.0, 0.001, 0.01, 48, 200, 0.25)
    assert "± 0.25 nats a row" in str(check)
    assert "±" not in str(dataclasses.replace(check, standard_error=0.0))
    assert isinstance(solved_layers(cnf(2))[0], Continuous)

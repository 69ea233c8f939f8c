"""A study from end to end: what every method answers, what survives an interruption, what is told."""

import functools
import importlib
import math

import pytest
import torch

import bijectory as bj
from bijectory.apps.posterior import (
    CredibleRegion,
    Simulations,
    box_uniform,
    fit_nle,
    fit_npe,
    fit_nre,
    fit_sequentially,
    load_simulations,
    posterior_config,
    save_simulations,
    simulate,
    study,
)
from bijectory.errors import CheckpointError, ConfigError, DataError

PRIOR = box_uniform([0.0, -1.0], [1.0, 1.0], names=["a", "b"])
X = [0.5, 0.2, 0.4]
QUICK = {"simulations": 200, "checks": 0, "ensemble": 1, "draws": 50}


def simulator(theta):
    noise = 0.2 * torch.randn(len(theta), 3)
    return torch.stack((theta[:, 0], theta[:, 1], theta.sum(1)), 1) + noise


def sequential(pairs, prior, **words):
    return fit_sequentially(prior, simulator, X, simulations=150, rounds=2, fit=functools.partial(fit_npe, **words))


CHAINS = pytest.mark.slow  # six runs of Markov chains: 20 s of one core
METHODS = {
    "npe": functools.partial(fit_npe, recipe_args={"layers": 2, "hidden": (8,)}),
    "fmpe": functools.partial(fit_npe, recipe="cfm", recipe_args={"hidden": (8,), "steps": 2}),
    "nle": functools.partial(fit_nle, recipe_args={"layers": 1, "hidden": (8,)}),
    "nre": fit_nre,
    "sequential": functools.partial(sequential, recipe_args={"layers": 2, "hidden": (8,)}),
}


@pytest.mark.parametrize("method", [pytest.param(m, marks=CHAINS) if m in ("nle", "nre") else m for m in METHODS])
def test_every_method_answers_every_question(method):
    pairs = simulate(PRIOR, simulator, 200)
    fitted = METHODS[method](pairs, PRIOR, ensemble=1, config=posterior_config(200, epochs=2))
    posterior = fitted.posterior.at(X)
    low, high = torch.tensor(PRIOR.bounds, dtype=torch.float64).unbind(1)
    theta = posterior.sample(100, seed=0)
    assert ((theta >= low) & (theta <= high)).all(), "no draw leaks"
    assert posterior.log_prob(theta).isfinite().all()
    assert (posterior.log_prob([[1.01, 0.0], [0.5, -1.01]]) == -math.inf).all()
    mode = posterior.map(draws=100)
    assert ((mode >= low) & (mode <= high)).all()
    assert posterior.log_prob(mode) >= posterior.log_prob(theta).max() - 1e-9
    edges = posterior.credible_intervals(0.8, draws=100)
    assert edges.shape == (2, 2)
    assert (edges[:, 0] < edges[:, 1]).all()
    region = posterior.credible_region(0.5, draws=100, seed=0)
    assert isinstance(region, CredibleRegion)
    assert 0.4 <= region.contains(theta).double().mean() <= 0.6
    assert region.contains(mode)
    assert posterior.predictive(simulator, 20).shape == (20, 3)
    assert posterior.sample_each(20, torch.tensor([X, X, X]).double(), seed=0).shape == (20, 3, 2)


class Interrupt(bj.Callback):
    """Ctrl-C after the second epoch."""

    def on_epoch(self, run, record):
        if len(run.history) == 2:
            raise KeyboardInterrupt


def test_an_interrupted_study_goes_on_to_the_same_result(tmp_path, monkeypatch):
    words, calls = {**QUICK, "training": {"epochs": 5}}, []
    whole = study(PRIOR, simulator, X, **words)

    def counted(theta):
        calls.append(len(theta))
        return simulator(theta)

    module = importlib.import_module("bijectory.apps.posterior.study")
    monkeypatch.setattr(module, "fit_npe", functools.partial(fit_npe, callbacks=[Interrupt()]))
    with pytest.raises(KeyboardInterrupt):
        study(PRIOR, counted, X, out=tmp_path, **words)
    monkeypatch.undo()
    assert sum(calls) == 200
    with pytest.raises(CheckpointError, match="resume=True"):
        study(PRIOR, simulator, X, out=tmp_path, **words)
    again = study(PRIOR, counted, X, out=tmp_path, resume=True, **words)
    assert sum(calls) == 200 + 50, "only the predictive simulations are new"
    assert len(again.fit.result.history) == 5
    assert torch.equal(again.draws, whole.draws)
    with pytest.raises(CheckpointError, match="simulations was 200, is now 300"):
        study(PRIOR, simulator, X, out=tmp_path, resume=True, **{**words, "simulations": 300})
    with pytest.raises(CheckpointError, match="bounds was"):
        study(box_uniform([0.0, 0.0], [1.0, 1.0], names=["a", "b"]), simulator, X, out=tmp_path, resume=True, **words)


def test_going_on_refuses(tmp_path):
    with pytest.raises(ConfigError, match="needs out"):
        study(PRIOR, simulator, X, resume=True)
    with pytest.raises(ConfigError, match="in rounds cannot be gone on with"):
        study(PRIOR, simulator, X, out=tmp_path, rounds=2, resume=True)
    (tmp_path / "simulations.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="holds no simulations"):
        study(PRIOR, simulator, X, out=tmp_path, resume=True)


def test_simulations_are_stored_with_what_is_known_of_them(tmp_path):
    pairs = Simulations.of(torch.rand(5, 2), [[0.0], [math.nan], [2.0], [3.0], [4.0]])
    save_simulations(pairs, tmp_path / "new" / "pairs.safetensors", facts={"seed": 3})
    again, facts = load_simulations(tmp_path / "new" / "pairs.safetensors")
    assert torch.equal(again.theta, pairs.theta)
    assert torch.equal(again.x, pairs.x)
    assert (again.notes, again.failed, facts) == (pairs.notes, 1, {"seed": 3})


def test_what_the_simulator_raises_is_named():
    def broken(theta):
        raise ZeroDivisionError("by nothing")

    with pytest.raises(DataError, match="the simulator raised ZeroDivisionError: by nothing") as caught:
        simulate(PRIOR, broken, 10)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_too_few_checks_are_told_and_not_fatal():
    def fragile(theta):
        return torch.where(theta[:, :1] > 0.6, torch.nan, theta)

    with pytest.warns(bj.tables.DataWarning):
        found = study(PRIOR, fragile, [0.5, 0.2], **{**QUICK, "checks": 100}, training={"epochs": 1})
    assert found.ok is None
    assert any("not checked" in note and "ask for more" in note for note in found.notes)

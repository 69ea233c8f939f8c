"""Fitted autoencoders: images and rows, stored and resumed, and what is refused."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.apps import run_kind
from bijectory.apps.vae import (
    LIKELIHOODS,
    VAE,
    ElboHistory,
    VaeFit,
    VaeModel,
    VaeSchema,
    amortized_posterior,
    build_vae,
    fit_vae,
    load_parts,
    vae_config,
)
from bijectory.errors import CheckpointError, ConfigError, DataError, DomainError, NonFiniteError, ShapeError
from bijectory.nets import DenseDecoder
from bijectory.spec.registry import APPLICATIONS, find_class
from bijectory.training import Callback
from images_support import blobs

SOURCE = pathlib.Path(bj.__file__).parent.parent
QUICK = bj.FitConfig(epochs=3, batch_size=32, lr=3e-3, progress=False, seed=1)
TINY = {"latent": 2, "hidden": (16,)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "blobs"
    words = {
        "posterior": "sylvester",
        "posterior_args": {"layers": 2},
        "prior": "real_nvp",
        "prior_args": {"layers": 2},
    }
    return fit_vae(blobs(300)[0], **TINY, **words, config=QUICK.replace(epochs=12, lr=1e-2), out=out)


def test_a_model_of_images_learns_their_two_kinds(fitted):
    assert isinstance(fitted, VaeFit)
    first, last = fitted.result.history[0], fitted.result.history[-1]
    assert last["val_loss"] < first["val_loss"] - 3
    assert {"reconstruction", "kl"} <= set(last)
    assert last["kl"] > 0.3
    score = fitted.scores["test"]
    assert score["elbo"] == pytest.approx(score["reconstruction"] - score["kl"], abs=1e-4)
    assert score["log_likelihood"] > score["elbo"]
    assert len(fitted.split.train) + len(fitted.split.validation) + len(fitted.test) == 300


def test_arrays_come_back_in_their_layout(fitted):
    model, x = fitted.model, fitted.test
    assert model.reconstruct(x).shape == x.shape
    assert model.reconstruct(x).dtype == np.uint8
    draws = model.sample(50, seed=0)
    assert draws.shape == (50, 4, 4)
    assert np.array_equal(draws, model.sample(50, seed=0))
    assert model.encode(x, 5).shape == (5, len(x), 2)
    assert model.decode(np.zeros((3, 2))).shape == (3, 4, 4)
    error = np.abs(model.reconstruct(x).astype(float) - x).mean()
    assert error < 0.8 * np.abs(x - fitted.data.mean(0)).mean()
    bound = model.elbo(x, 200).bound
    found = model.log_likelihood(x, 500)
    assert (found.log_prob > bound - 5 * found.se - 0.3).all()


def test_a_run_folder_is_read_again(fitted, tmp_path):
    fitted.model.save(tmp_path / "copy", metadata={"scores": fitted.scores})
    assert run_kind(tmp_path / "copy") == "vae"
    again = VaeModel.load(tmp_path / "copy")
    x = fitted.test
    assert torch.equal(again.log_likelihood(x, 20).log_prob, fitted.model.log_likelihood(x, 20).log_prob)
    assert np.array_equal(again.sample(5, seed=1), fitted.model.sample(5, seed=1))


def test_every_class_that_is_stored_is_found_by_name():
    parts = {"VAE": VAE, **{kind.__name__: kind for kind in LIKELIHOODS.values()}}
    assert {name: find_class(name) for name in APPLICATIONS} == parts


@pytest.mark.slow  # budget: 10 s, the imports of a new process
def test_a_run_is_loaded_where_nothing_was_imported(fitted, tmp_path):
    fitted.model.save(tmp_path)
    code = f"import bijectory; print(type(bijectory.load({str(tmp_path)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=SOURCE)
    assert done.stdout.split() == ["VAE"], done.stderr


class Stop(Callback):
    """Ctrl-C after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        if run.step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [3, 12])  # in the warm-up of the KL term, and at the end of an epoch
def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path, step):
    x = blobs(160)[0]
    words = {**TINY, "posterior": "planar", "binarize": "dynamic", "warm_up": 6, "config": QUICK}
    whole = fit_vae(x, **words)
    stopped = fit_vae(x, **words, out=tmp_path / "run", callbacks=[Stop(step)])
    assert stopped.result.stop_reason == "interrupted"
    again = fit_vae(x, **words, out=tmp_path / "run", resume=True)
    assert again.result.steps == whole.result.steps
    for (name, a), b in zip(whole.vae.state_dict().items(), again.vae.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [r["kl"] for r in again.result.history] == [r["kl"] for r in whole.result.history]
    kept = load_parts(tmp_path / "run")
    assert np.array_equal(kept["test"], again.test)


def test_rows_are_scored_in_their_own_units():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 1)) * np.array([[3.0, -100.0]]) + rng.normal(size=(400, 2)) * [0.5, 20.0] + [7.0, 1e3]
    config = QUICK.replace(epochs=40, batch_size=64, lr=2e-2, patience=None)
    fitted = fit_vae(rows, latent=1, hidden=(16,), config=config, likelihood="gaussian")
    cov = np.array([[9.25, -300.0], [-300.0, 10_400.0]])
    exact = torch.distributions.MultivariateNormal(torch.tensor([7.0, 1e3]).double(), torch.from_numpy(cov))
    test = torch.from_numpy(fitted.test)
    assert fitted.model.log_likelihood(fitted.test, 300).mean == pytest.approx(
        float(exact.log_prob(test).mean()), abs=0.35
    )
    draws = fitted.model.sample(2000, seed=0)
    assert (np.abs(draws.mean(0) - [7.0, 1e3]) < [0.7, 25.0]).all()
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(-0.967, abs=0.06)


def test_binarized_images_are_the_same_in_every_order():
    schema = VaeSchema(images=bj.apps.ImageSchema(shape=(1, 4, 4), levels=8, layout="HW"), binarize="dynamic")
    x = blobs(2000)[0]
    events = schema.events(x)
    assert set(np.unique(events)) == {0.0, 1.0}
    assert np.array_equal(schema.events(x[::-1])[::-1], events)
    np.testing.assert_allclose(events.mean(0)[0], x.mean(0) / 7, atol=0.05)
    assert schema.intensities(x).max() == pytest.approx(x.max() / 7)
    cut = schema.model_copy(update={"binarize": "threshold"})
    assert np.array_equal(cut.events(x)[:, 0], x >= 4)
    assert np.array_equal(cut.decode(cut.events(x)), 7 * (x >= 4))


def test_networks_and_densities_of_ones_own(tmp_path):
    x = blobs(80)[0]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh())
    words = {"encoder": encoder, "decoder": DenseDecoder(2, (1, 4, 4), 2, (8,)), "latent": 2, "config": QUICK}
    words["posterior"] = amortized_posterior("nsf", 2, 8, layers=1)
    fitted = fit_vae(x, **words, prior=bj.DiagonalNormal(2), out=tmp_path / "run")
    torch.testing.assert_close(bj.load(tmp_path / "run").prior.loc, fitted.vae.prior.loc)
    assert fitted.vae.prior.loc.abs().max() > 0

    class Odd(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    with pytest.raises(CheckpointError, match=r"encoder: a .*Odd cannot be stored; .*@bijectory.register"):
        fit_vae(x, **{**words, "encoder": Odd(), "posterior": "diagonal"}, out=tmp_path / "other")
    assert fit_vae(x, **{**words, "encoder": Odd(), "posterior": "diagonal"}).vae.posterior.context == 16


def test_history_is_measured_on_held_out_events():
    vae = build_vae((4,), latent=1, likelihood="gaussian", hidden=(4,))
    watcher = ElboHistory(torch.ones(5, 4), seed=3)
    x = torch.randn(64, 4)
    result = bj.fit(vae, x, objective=bj.objectives.NegativeElbo(), config=QUICK, callbacks=[watcher])
    assert all(np.isfinite(r["reconstruction"]) for r in result.history)


def test_the_warm_up_makes_the_divergence_cheap():
    x = blobs(160)[0]
    config = QUICK.replace(lr=1e-2, epochs=12)
    free, full = (fit_vae(x, **TINY, warm_up=steps, config=config).result.history for steps in (10**6, 0))
    assert free[-1]["kl"] > 2 + 2 * full[-1]["kl"]
    assert free[0]["train_loss"] < full[0]["train_loss"]
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        fit_vae(x, **TINY, samples=0)


def test_settings_suit_the_number_of_images():
    assert vae_config(100).batch_size == 64
    assert vae_config(50_000, lr=1e-2).batch_size == 128


@pytest.mark.parametrize(
    ("data", "words", "error", "message"),
    [
        (np.zeros((5, 4, 4)), {"likelihood": "gauss"}, ConfigError, "no likelihood 'gauss'"),
        (np.arange(160).reshape(10, 4, 4), {"likelihood": "bernoulli"}, ConfigError, "takes two levels"),
        (np.eye(4)[None].repeat(3, 0), {"binarize": "dynamic"}, ConfigError, "binary already"),
        (np.eye(4)[None].repeat(3, 0), {"binarize": "maybe"}, ConfigError, "use one of no, dynamic, threshold"),
        (np.full((3, 4, 4), -1), {}, DomainError, "expected 0"),
        (np.full((3, 4, 4), np.nan), {}, NonFiniteError, "repair or drop"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), {}, NonFiniteError, "row 0 holds NaN"),
        (np.array([["a", "b"], ["c", "d"]]), {}, DataError, "numbers only"),
        (np.ones((5, 2)), {}, DataError, r"column \[0, 1\] is constant"),
        (np.random.default_rng(0).normal(size=(9, 2)), {"binarize": "dynamic"}, ConfigError, "are for images"),
        (
            np.random.default_rng(0).normal(size=(9, 2)),
            {"likelihood": "bernoulli"},
            ConfigError,
            "rows need the gaussian",
        ),
        (np.random.default_rng(0).normal(size=(9, 2)), {"net": "gated"}, ConfigError, "use a dense network"),
        (np.random.default_rng(0).normal(size=(9, 2)), {"warm_up": -1}, ConfigError, "warm_up must not be negative"),
        (np.random.default_rng(0).normal(size=(9, 2)), {"latent": 0}, ConfigError, "latent must be at least 1"),
        (np.zeros(5), {}, DataError, "expected"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_remedy(data, words, error, message):
    with pytest.raises(error, match=message):
        fit_vae(data, **words)


def test_models_refuse_other_data(fitted, tmp_path):
    with pytest.raises(DataError, match=r"shape \(3, 5, 5\)"):
        fitted.model.log_likelihood(np.zeros((3, 5, 5)))
    with pytest.raises(ShapeError, match=r"expected \(n, 2\)"):
        fitted.model.decode(np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="non-negative int"):
        fitted.model.sample(-1)
    with pytest.raises(ShapeError, match="the model has events"):
        VaeModel(fitted.vae, VaeSchema(loc=(0.0,), scale=(1.0,)))
    bj.save(bj.real_nvp(2), tmp_path)
    with pytest.raises(CheckpointError, match=r"is .* a run folder"):
        VaeModel.load(tmp_path)

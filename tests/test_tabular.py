"""From a table to a density: normalised in data units, indifferent to units, order, names and neighbours."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from bijectory.apps import TableFlow, fit_table, load_rows, table_config
from bijectory.errors import (
    CheckpointError,
    ConfigError,
    ContextError,
    DataError,
    DomainError,
    NonFiniteError,
    ShapeError,
)
from bijectory.objectives import nll
from bijectory.recipes import real_nvp
from bijectory.tables import DataWarning
from bijectory.training import Callback, FitConfig

ARGS = {"recipe": "real_nvp", "recipe_args": {"layers": 4, "hidden": (16,)}}


def quick(**changes):
    return FitConfig(**{"epochs": 6, "batch_size": 64, "lr": 5e-3, "progress": False, **changes})


def quiet_fit(data, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return fit_table(data, **{**ARGS, "config": quick(), "audit": False, **kwargs})


def mixed(n=600, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return pd.DataFrame({
        "t": 1.7e9 + 1e3 * a,
        "b": 1 / (1 + np.exp(-a - rng.normal(size=n))),
        "p": 0.01 * np.exp(a + rng.normal(size=n)),
        "k": rng.integers(0, 4, n),
        "const": 2.0,
        "g": rng.normal(5, 2, size=n),
    })  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    return quiet_fit(mixed(), bounded={"b": (0, 1)}, positive=["p"], dequantize=["k"], given=["g"])


# -- the number is a density in the units of the data ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "draw", "kwargs", "grid"),
    [
        ("numeric", lambda g: 300 + 1e4 * g.normal(size=300), {}, np.linspace(-2e5, 2e5, 200_001)),
        ("bounded", lambda g: g.beta(0.8, 2, size=300) * 4 - 1, {"bounded": {"x0": (-1, 3)}}, None),
        ("positive", lambda g: g.gamma(2.0, size=300), {"positive": ["x0"]}, np.exp(np.linspace(-40, 40, 100_001))),
        ("heavy", lambda g: g.standard_t(1.0, size=300), {"heavy": ["x0"]}, np.sinh(np.linspace(-60, 60, 200_001))),
    ],
)
def test_one_dimensional_density_integrates_to_one(kind, draw, kwargs, grid):
    if grid is None:
        u = np.linspace(-40, 40, 100_001)
        grid = np.unique(-1 + 4 / (1 + np.exp(-u)))
    model = quiet_fit(draw(np.random.default_rng(0))[:, None], **kwargs).model
    assert model.schema.columns[0].kind == kind
    grid = grid[(grid > -1) & (grid < 3)] if kind == "bounded" else grid
    density = np.exp(model.score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)


def test_two_dimensional_density_integrates_to_one():
    rng = np.random.default_rng(0)
    b = rng.beta(2, 3, size=400)
    data = pd.DataFrame({"b": b, "p": rng.gamma(2.0, size=400) * (0.2 + b)})
    model = quiet_fit(data, bounded={"b": (0, 1)}, positive=["p"]).model
    u, v = np.linspace(-14, 14, 501), np.linspace(-14, 8, 501)
    grid_b, grid_p = 1 / (1 + np.exp(-u)), np.exp(v)
    rows = np.stack([a.ravel() for a in np.meshgrid(grid_b, grid_p, indexing="ij")], axis=1)
    density = np.exp(model.score_samples(rows)).reshape(501, 501)
    assert np.trapezoid(np.trapezoid(density, grid_p), grid_b) == pytest.approx(1, abs=1e-3)


def test_dequantized_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    k = rng.choice([0.0, 2.0, 4.0, 6.0], p=[0.5, 0.2, 0.2, 0.1], size=500)
    fitted = quiet_fit(k[:, None], dequantize=["x0"], config=quick(epochs=30))
    lattice = np.arange(-60.0, 70.0, 2.0)[:, None]
    mass = 2.0 * np.exp(fitted.model.score_samples(lattice))
    assert mass.sum() == pytest.approx(1, abs=2e-2)
    drawn = fitted.model.sample(500, seed=0)["x0"]
    assert drawn.dtype == np.int64
    assert (drawn % 2 == 0).all()


def test_units_of_the_data_only_move_the_log_likelihood():
    x = mixed()[["t", "b"]].to_numpy() - [1.7e9, 0]
    scale, shift = np.array([0.03, 2e5]), np.array([1e6, -7.0])
    before, after = (quiet_fit(v).model.score_samples(v) for v in (x, x * scale + shift))
    assert np.allclose(after, before - np.log(scale).sum(), atol=1e-5)


def test_losses_are_in_the_units_of_the_data():
    x = mixed()[["p", "t"]]
    fit = quiet_fit(x, positive=["p"])
    assert -fit.scores["validation"]["log_likelihood"] == pytest.approx(fit.result.best_val, abs=1e-5)
    assert -fit.model.score(fit.validation) == pytest.approx(fit.result.best_val, abs=1e-5)
    plain, scaled = (quiet_fit(v * [1.0, s]).result.history for v, s in ((x, 1.0), (x, 1024.0)))
    for a, b in zip(plain, scaled, strict=True):
        assert b["train_nll"] - a["train_nll"] == pytest.approx(np.log(1024), abs=1e-6)


# -- rows and columns --------------------------------------------------------------------------------------------------


def test_a_row_is_scored_alone_as_among_others(fitted, monkeypatch):
    frame = mixed(200, seed=1)
    scores = fitted.model.score_samples(frame)
    alone = [fitted.model.score_samples(frame.iloc[[i]])[0] for i in range(0, 200, 10)]
    assert np.abs(scores[::10] - alone).max() < 1e-12
    monkeypatch.setattr("bijectory.apps.table_flow.CHUNK_BYTES", 1 << 14)
    assert len(list(fitted.model._chunks(200))) > 10
    assert np.abs(fitted.model.score_samples(frame) - scores).max() < 1e-12


def test_columns_are_found_by_name(fitted):
    frame = mixed(50, seed=1)
    scores = fitted.model.score_samples(frame)
    shuffled = frame[["g", "k", "const", "p", "t", "b"]].assign(note="text")
    assert np.array_equal(fitted.model.score_samples(shuffled), scores)
    assert np.array_equal(fitted.model.score_samples(frame.to_numpy()), scores)
    with pytest.raises(DataError, match="no column 'p'"):
        fitted.model.score_samples(frame.drop(columns="p"))


def test_constants_are_an_exact_match(fitted):
    frame = mixed(4).assign(const=[2.0, 2.0, 2.0000001, 2.0])
    assert np.isinf(fitted.model.score_samples(frame)).tolist() == [False, False, True, False]
    assert np.isfinite(fitted.model.transform(frame)).all(axis=None)
    assert (fitted.model.sample(5, given={"g": 1.0})["const"] == 2.0).all()


def test_non_finite_and_foreign_values(fitted):
    frame = mixed(5)
    frame.loc[1, "t"], frame.loc[2, "t"], frame.loc[3, "b"], frame.loc[4, "t"] = np.nan, np.inf, 1.5, 1e30
    with pytest.raises(NonFiniteError, match=r"row 1, column 't' = nan.*nonfinite='propagate'"):
        fitted.model.score_samples(frame)
    with pytest.raises(DomainError, match=r"column 'b' is 1.5 in row 0 .*\[0, 1\]"):
        fitted.model.score_samples(frame.iloc[3:])
    scores = fitted.model.score_samples(frame, nonfinite="propagate")
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1])
    assert scores[2] == scores[3] == -np.inf
    assert scores[4] < -1e6
    assert np.isnan(fitted.model.transform(frame, nonfinite="propagate")).any(axis=1).tolist() == [0, 1, 1, 1, 0]
    with pytest.raises(ConfigError, match="nonfinite"):
        fitted.model.score_samples(frame, nonfinite="ignore")


def test_values_on_their_bounds_are_scored():
    fit = quiet_fit(mixed()[["b"]], bounded={"b": (0, 1)})
    scores = fit.model.score_samples({"b": [0.0, 1.0, 1e-300, 0.5]})
    assert np.isfinite(scores).all()


def test_latent_round_trip(fitted):
    frame = mixed(50, seed=2)
    z = fitted.model.transform(frame)
    assert list(z.columns) == ["z0", "z1", "z2", "z3"]
    back = fitted.model.inverse_transform(z, given=frame)
    assert list(back.columns) == ["t", "b", "p", "k", "const"]
    pd.testing.assert_frame_equal(back, frame[back.columns], rtol=1e-9)
    with pytest.raises(ContextError, match="conditional"):
        fitted.model.inverse_transform(z)
    with pytest.raises(ShapeError, match="expected"):
        fitted.model.inverse_transform(z[["z0"]], given=frame)


def test_samples_follow_their_condition(fitted):
    drawn = fitted.model.sample(3, given={"g": [1.0, 9.0]}, seed=0)
    assert drawn["g"].tolist() == [1.0] * 3 + [9.0] * 3
    assert list(drawn.columns) == list(mixed(2).columns)
    assert drawn["b"].between(0, 1).all()
    assert np.isfinite(fitted.model.score_samples(drawn)).all()
    pd.testing.assert_frame_equal(drawn, fitted.model.sample(3, given={"g": [1.0, 9.0]}, seed=0))
    assert not drawn.equals(fitted.model.sample(3, given={"g": [1.0, 9.0]}, seed=1))
    assert len(fitted.model.sample(0, given={"g": 1.0})) == 0
    with pytest.raises(ContextError, match="pass given with g"):
        fitted.model.sample(3)
    with pytest.raises(ConfigError, match="non-negative"):
        fitted.model.sample(-1, given={"g": 1.0})


def test_condition_is_learnt_and_read_in_raw_units():
    rng = np.random.default_rng(0)
    g = rng.integers(0, 2, 800) * 1000.0
    model = quiet_fit(
        pd.DataFrame({"y": g / 100 + rng.normal(size=800), "g": g}), given=["g"], config=quick(epochs=40)
    ).model
    means = [model.sample(400, given={"g": v}, seed=0)["y"].mean() for v in (0.0, 1000.0)]
    assert means == pytest.approx([0, 10], abs=0.5)


# -- what training sees ------------------------------------------------------------------------------------------------


def test_test_rows_are_never_seen():
    frame = mixed()[["t", "p"]]
    first = quiet_fit(frame, positive=["p"])
    assert [len(v) for v in (first.train, first.validation, first.test)] == [480, 60, 60]
    changed = frame.copy()
    rows = first.split.test
    # Other values with the same ranks: the split and every other row stay.
    changed.loc[rows, "p"] *= 1 + 1e-9
    second = quiet_fit(changed, positive=["p"])
    assert np.array_equal(second.split.test, rows)
    for a, b in zip(first.model.flow.state_dict().values(), second.model.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_weights_are_repetitions():
    frame = mixed(60)[["t", "b"]]
    w = np.random.default_rng(0).integers(0, 4, 60)
    full = {"config": quick(batch_size=256)}  # in smaller batches the noise of the gradient differs
    weighted = quiet_fit(frame.assign(w=w), weight="w", **full)
    repeated = quiet_fit(frame.loc[frame.index.repeat(w)], **full)
    assert np.allclose(weighted.model.score_samples(frame), repeated.model.score_samples(frame), rtol=1e-7)


def test_rows_with_missing_values():
    frame = mixed(100)[["t", "b"]]
    frame.loc[[3, 5], "b"] = np.nan
    with pytest.raises(NonFiniteError, match="missing='drop'"):
        quiet_fit(frame)
    with pytest.warns(DataWarning, match=r"2 of 100 rows with missing values \('b'\) are left out"):
        fit = fit_table(frame, **ARGS, config=quick(), missing="drop")
    assert len(fit.rows) == fit.model.schema.rows == 98
    assert fit.model.schema.columns[1].missing == 2


@pytest.mark.parametrize("n", [2, 3, 5, 9, 10, 20, 50])
def test_few_rows(n):
    with pytest.warns(DataWarning, match=f"n={n} rows for [0-9,]+ parameters") if n < 20 else warnings.catch_warnings():
        fit = fit_table(mixed(n)[["t", "b"]], **ARGS, config=quick(epochs=None if n < 10 else 6))
    assert np.isfinite(fit.model.score_samples(fit.rows)).all()
    assert fit.result.steps <= 100


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "words"),
    [
        (lambda f: f.iloc[:1], {}, DataError, "minimum of 2 is required"),
        (lambda f: f.iloc[:0], {}, DataError, "0 sample(s)"),
        (lambda f: f.assign(city="Bern"), {}, DataError, "column 'city' is text"),
        (lambda f: f, {"recipe": "real_nvpp"}, ConfigError, "real_nvp"),
        (lambda f: f, {"recipe_args": {"depth": 3}}, ConfigError, "depth"),
        (lambda f: f, {"weight": "w"}, DataError, "no column 'w'"),
        (lambda f: f, {"weight": np.zeros(600)}, DataError, "all weights are zero"),
        (lambda f: f, {"weight": np.ones(3)}, DataError, "weight has shape"),
        (lambda f: f, {"weight": np.linspace(-1, 1, 600)}, DataError, "must be >= 0"),
        (lambda f: f, {"given": list("tbpkg")}, DataError, "at least one column that varies"),
        (lambda f: f, {"missing": "ignore"}, ConfigError, "missing"),
        (lambda f: f, {"test_fraction": 1.5}, ConfigError, "test_fraction"),
    ],
)
def test_bad_requests_name_the_remedy(change, kwargs, error, words):
    with pytest.raises(error) as info:
        quiet_fit(change(mixed()), **kwargs)
    assert words in str(info.value)


def test_an_outlier_does_not_spoil_the_rest():
    x = np.random.default_rng(0).normal(size=(400, 2))
    clean = quiet_fit(x, config=quick(epochs=40)).model.score_samples(x[1:]).mean()
    x[0] = 1e6
    spoilt = quiet_fit(x, config=quick(epochs=40)).model.score_samples(x[1:]).mean()
    assert spoilt > clean - 0.3


# -- run folders -------------------------------------------------------------------------------------------------------


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        return run.step >= self.step


def test_run_folder_holds_everything(tmp_path):
    fit = quiet_fit(mixed(), given=["g"], out=tmp_path, audit=True)
    model = TableFlow.load(tmp_path)
    frame = mixed(50, seed=1)
    assert np.array_equal(model.score_samples(frame), fit.model.score_samples(frame))
    assert model.schema == fit.model.schema
    assert repr(model) == "TableFlow(t, b, p, k, given g)"
    rows = load_rows(tmp_path)
    pd.testing.assert_frame_equal(rows["test"], fit.test.reset_index(drop=True).astype(float))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6
    metadata = json.loads((tmp_path / "config.json").read_text())["metadata"]
    assert metadata["recipe"] == "real_nvp"
    assert fit.audit.ok, str(fit.audit)
    assert json.loads((tmp_path / "audit.json").read_text()) == fit.audit.to_dict()
    card = (tmp_path / "README.md").read_text()
    assert "| columns | t, b, p, k |" in card
    assert "column 'const' is constant" in card
    (tmp_path / "schema.json").unlink()
    with pytest.raises(CheckpointError, match=r"schema\.json"):
        TableFlow.load(tmp_path)


def test_schema_of_another_model_is_refused(tmp_path):
    quiet_fit(mixed()[["t", "b"]], out=tmp_path / "one")
    quiet_fit(mixed()[["t", "b", "p"]], out=tmp_path / "two")
    (tmp_path / "two" / "schema.json").replace(tmp_path / "one" / "schema.json")
    with pytest.raises(ShapeError, match="3 target columns"):
        TableFlow.load(tmp_path / "one")


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    frame = mixed()[["t", "b"]]
    whole = quiet_fit(frame)
    stopped = quiet_fit(frame, out=tmp_path, callbacks=[StopAt(11)])
    assert stopped.result.stop_reason == "callback"
    resumed = quiet_fit(frame, out=tmp_path, resume=True)
    assert resumed.result.stop_reason == "completed"
    for a, b in zip(whole.model.flow.state_dict().values(), resumed.model.flow.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError):
        quiet_fit(frame * 2.5, out=tmp_path, resume=True)


def test_recipe_may_be_a_function():
    fit = quiet_fit(
        mixed()[["t"]], recipe=lambda features, context: real_nvp(features, context, layers=1), recipe_args={}
    )
    assert fit.model.flow.event_shape == (1,)


def test_default_settings_follow_the_size():
    assert table_config(1000).batch_size == 256
    assert table_config(1_000_000).batch_size == 1024
    assert table_config(1000, batch_size=7, lr=1e-2).batch_size == 7
    assert table_config(1_000_000).epochs == 60
    assert table_config(1_000_000, time_budget=60.0).epochs is None


def test_bad_rows_are_numbered_in_the_whole_table(fitted, monkeypatch):
    monkeypatch.setattr("bijectory.apps.table_flow.CHUNK_BYTES", 1 << 14)
    frame = mixed(200)
    frame.loc[150, "t"] = np.nan
    with pytest.raises(NonFiniteError, match="row 150, column 't'"):
        fitted.model.score_samples(frame)
    frame.loc[150, "t"], frame.loc[160, "b"] = 0.0, -1.0
    with pytest.raises(DomainError, match="in row 160"):
        fitted.model.score_samples(frame)


def test_objective_by_name_by_callable_and_by_recipe():
    x = np.random.default_rng(0).normal(size=(200, 2))
    config = FitConfig(epochs=1, progress=False)
    seen = []

    def half(model, batch):
        seen.append(len(batch.x))
        return nll(model, batch) / 2

    plain = fit_table(x, recipe="real_nvp", config=config, audit=False)
    named = fit_table(x, recipe="real_nvp", objective="nll", config=config, audit=False)
    assert plain.result.history[0]["val_nll"] == named.result.history[0]["val_nll"]
    fit_table(x, recipe="real_nvp", objective=half, config=config, audit=False)
    assert seen
    with pytest.raises(ConfigError, match="did you mean nll"):
        fit_table(x, recipe="real_nvp", objective="nnl", config=config)


def test_training_goes_on_from_an_earlier_fit(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 3)) @ np.array([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]])
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    first = fit_table(frame, given=["c"], **ARGS, config=quick(), out=tmp_path / "first", audit=False)
    before = first.model.score_samples(frame)
    for start in (first.model, tmp_path / "first"):
        second = fit_table(frame, given=["c"], start=start, config=quick(lr=1e-9, epochs=1), audit=False)
        np.testing.assert_allclose(second.model.score_samples(frame), before, atol=1e-4)
    assert np.array_equal(first.model.score_samples(frame), before), "the start is left as it was"
    third = fit_table(frame, given=["c"], start=first.model, config=quick(), audit=False)
    assert third.scores["train"]["log_likelihood"] > first.scores["train"]["log_likelihood"]


def test_start_must_fit_the_table(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 2))
    start = fit_table(x, **ARGS, config=quick(epochs=1), audit=False).model
    with pytest.raises(ConfigError, match=r"columns \['x0', 'x1'\], not \['a', 'b'\]"):
        fit_table(pd.DataFrame(x, columns=["a", "b"]), start=start, config=quick(epochs=1))
    with pytest.raises(ConfigError, match="scaled in another way"):
        fit_table(2 * x, start=start, config=quick(epochs=1))
    with pytest.raises(ConfigError, match="leave recipe_args out"):
        fit_table(x, start=start, recipe_args={"layers": 2}, config=quick(epochs=1))

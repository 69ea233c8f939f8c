"""Training under fire: bad rows, gradients, scales and rates. Parameters stay finite, the end is usable or explained.

NaN in activations, gradients and parameters of a plain module: ``test_fit.py``. Here flows, and tables.
"""

import math
import warnings

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.apps import fit_table
from bijectory.errors import DataError, NonFiniteError
from bijectory.objectives import nll
from bijectory.tables import DataWarning
from bijectory.training import Callback, FitConfig, fit

SLOW = pytest.mark.slow
RECIPES = ["real_nvp", "nsf", "residual", *(pytest.param(n, marks=SLOW) for n in ("maf", "nsf_ar", "planar", "naf"))]
G = torch.Generator().manual_seed(0)
CLEAN = torch.randn(200, 2, generator=G)


def small(name, features=2):
    keywords = {"layers": 2, **({} if name in ("planar",) else {"hidden": (8,)})}
    torch.manual_seed(0)
    return bj.recipes.RECIPES[name].build(features, **keywords)


class Watch(Callback):
    """Every parameter is finite after every step."""

    def on_step(self, run):
        for name, p in run.model.named_parameters():
            assert p.isfinite().all(), f"{name} at step {run.step}"


def run(flow, x, **settings):
    config = FitConfig(**{"epochs": 4, "batch_size": 32, "warmup_steps": 0, "progress": False, **settings})
    return fit(flow, x, config=config, callbacks=[Watch()])


def outlier():
    x = CLEAN.clone()
    x[7, 1] = 1e6
    return x


ROWS = {
    "an outlier": outlier(),
    "unscaled": 3e5 + 1e4 * CLEAN,
    "tiny": 1e-6 * CLEAN,
    "huge": 1e12 * CLEAN,
    "Cauchy": torch.randn(200, 2, generator=G) / torch.randn(200, 2, generator=G),
    "constant": torch.cat([CLEAN[:, :1], torch.full((200, 1), 2.0)], 1),
    "duplicate": CLEAN[:, :1].expand(200, 2).contiguous(),
    "discrete": CLEAN.round(),
    "two rows": CLEAN[:2],
    "five rows": CLEAN[:5],
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", RECIPES)
def test_raw_rows_never_spoil_the_parameters(name, rows):
    """Without the standardising of ``fit_table``: the result is finite on the rows, or the stop says why."""
    if name == "residual" and rows in ("constant", "two rows"):  # its ActNorm wants a scale
        with pytest.raises(DataError, match=r"features \[1\] do not vary|at least 2 events, got 1"):
            run(small(name), ROWS[rows])
        return
    result = run(small(name), ROWS[rows], lr=1e-2)
    assert all(t.isfinite().all() for t in result.model.state_dict().values())
    if result.stop_reason == "non_finite":
        assert "first non-finite output in" in result.report or "non-finite gradients" in result.report
    else:
        assert result.stop_reason in ("completed", "early_stopping")
        with torch.no_grad():
            assert not result.model.log_prob(ROWS[rows]).isnan().any()


@pytest.mark.parametrize("name", RECIPES)
def test_a_learning_rate_a_hundred_times_too_large(name):
    result = run(small(name), CLEAN, lr=0.1, epochs=10)
    assert all(t.isfinite().all() for t in result.model.state_dict().values())
    assert result.stop_reason != "non_finite" or result.report
    with torch.no_grad():
        assert not result.model.log_prob(CLEAN).isnan().any()
    best = min(r["val_loss"] for r in result.history if r["val_loss"] is not None)
    assert result.best_val == best


@pytest.mark.parametrize("where", ["data", "activations", "loss", "gradient"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["real_nvp", "nsf", pytest.param("maf", marks=SLOW)])
def test_a_value_that_is_not_finite_is_skipped_and_counted(name, where, value):
    """It appears in steps 3, 4, 5 of the training, at one place of a flow."""
    if where == "data":  # at the door
        x = CLEAN.clone()
        x[3, 1] = value
        with pytest.raises(NonFiniteError, match=r"1 of 200 rows.*\[3\].*columns \[1\]"):
            run(small(name), x)
        return
    flow, calls = small(name), iter(range(10**6))
    bad = lambda: value if flow.training and next(calls) in (3, 4, 5) else 0.0
    objective = lambda model, batch: nll(model, batch) + (bad() if where == "loss" else 0.0)
    if where == "activations":
        next(
            m for m in flow.modules() if isinstance(m, torch.nn.Module) and "Dense" in type(m).__name__
        ).register_forward_hook(lambda _m, _i, out: out + bad())
    if where == "gradient":
        next(flow.parameters()).register_hook(lambda g: g + bad())
    config = FitConfig(epochs=4, batch_size=32, progress=False)
    result = fit(flow, CLEAN, objective=objective, config=config, callbacks=[Watch()])
    assert result.stop_reason == "completed"
    assert 1 <= result.skipped <= 3
    assert sum(r["skipped"] for r in result.history) == result.skipped
    assert math.isfinite(result.best_val)


RNG = np.random.default_rng(1)
BASE = RNG.normal(size=(120, 2))
TABLES = {
    "outlier": np.where(np.arange(240).reshape(120, 2) == 21, 1e6, BASE),
    "unscaled": 3e5 + 1e4 * BASE,
    "offset": 1.7e9 + BASE,
    "tiny": 1e-9 * BASE,
    "cauchy": RNG.standard_cauchy((120, 2)),
    "constant": np.c_[BASE, np.full(120, 3.0)],
    "duplicate": np.c_[BASE, BASE[:, 0]],
    "collinear": np.c_[BASE, BASE.sum(1)],
    "discrete": np.c_[BASE, RNG.integers(0, 4, 120)],
    "two rows": BASE[:2],
    "five rows": BASE[:5],
    "fifty rows": BASE[:50],
}


@pytest.mark.parametrize("recipe", ["nsf", pytest.param("maf", marks=SLOW)])
@pytest.mark.parametrize("table", TABLES)
def test_tables_end_in_a_usable_model(table, recipe):
    """Finite scores on every row, finite draws, and a warning where the density is singular."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", DataWarning)
        fitted = fit_table(
            TABLES[table],
            recipe=recipe,
            recipe_args={"layers": 2, "hidden": (8,)},
            config=FitConfig(epochs=3, progress=False),
            audit=False,
            callbacks=[Watch()],
        )
    assert fitted.result.stop_reason == "completed"
    assert np.isfinite(fitted.model.score_samples(TABLES[table])).all()
    drawn = fitted.model.sample(200, seed=0).to_numpy(dtype=float)
    assert np.isfinite(drawn).all()
    if table in ("constant", "duplicate", "collinear", "discrete", "cauchy", "two rows", "five rows", "outlier"):
        assert seen, "what spoils the density is said"
    else:
        assert not seen


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("lr", [0.1, 1.0])
@pytest.mark.parametrize("table", TABLES)
def test_tables_at_a_wild_rate(table, lr):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        fitted = fit_table(
            TABLES[table], config=FitConfig(epochs=30, lr=lr, progress=False), audit=False, callbacks=[Watch()]
        )
    if fitted.result.stop_reason == "non_finite":
        assert fitted.result.report
    assert np.isfinite(fitted.model.score_samples(TABLES[table])).all()

"""Two densities on held-out rows: the verdict is right, honest, and refuses what would flatter."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bijectory as bj
from bijectory.apps import compare
from bijectory.errors import ConfigError, DataError, NonFiniteError
from bijectory.tables import Column
from cli.support import banana


def normal(mean=0.0, sd=1.0, names=("a", "b"), **facts):
    flow = bj.Flow(bj.Standardize(len(names), [mean] * len(names), [sd] * len(names)), bj.StandardNormal(len(names)))
    return bj.TableFlow(flow.double(), bj.Schema(columns=tuple(Column(name=n, **facts) for n in names), rows=10))


def test_the_better_density_is_preferred_by_the_divergence():
    true, wrong = normal(), normal(mean=0.5)
    rows = true.sample(2000, seed=0)
    found = compare(true, wrong, rows)
    assert found.preferred == "A"
    assert found.difference == pytest.approx(2 * 0.5**2 / 2, abs=4 * found.standard_error)  # the KL of the two
    d = true.score_samples(rows) - wrong.score_samples(rows)
    assert found.difference == pytest.approx(d.mean())
    assert found.standard_error == pytest.approx(d.std(ddof=1) / np.sqrt(2000))
    assert found.interval[0] < found.difference < found.interval[1]
    width = found.interval[1] - found.interval[0]
    assert width == pytest.approx(2 * 1.96 * found.standard_error, rel=0.1)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(d.mean() / found.standard_error)))
    swapped = compare(wrong, true, rows, names=("old", "new"))
    assert swapped.preferred == "new"
    assert swapped.verdict.startswith("new is preferred by 0.2")


def test_equal_densities_are_told_apart_as_rarely_as_promised():
    """Two densities equally far from the truth: at level 0.05 at most a twentieth of the verdicts names one."""
    a, b = normal(mean=0.3), normal(mean=-0.3)
    p = [compare(a, b, normal().sample(80, seed=s), resamples=100) for s in range(100)]
    named = sum(found.preferred is not None for found in p)
    assert named <= stats.binom(100, 0.06).ppf(0.999)
    assert min(found.p_value for found in p) < 0.2
    assert compare(a, a, normal().sample(50, seed=0)).verdict.startswith("no difference can be told: +0 ± 0")


def test_rows_of_density_zero_decide():
    a, b = normal(), normal(kind="bounded", low=-2.0, high=9.0)
    rows = pd.DataFrame({"a": [0.0, 1.0, -3.0], "b": [0.0, 1.0, 0.0]})
    found = compare(a, b, rows)
    assert found.preferred == "A"
    assert "B gives density zero to 1 of 3 rows" in found.verdict
    c = normal(kind="bounded", low=-9.0, high=0.5)
    assert compare(c, b, rows).preferred is None
    rows.loc[3] = [10.0, 10.0]
    assert "1 rows have density zero under both" in " ".join(compare(c, b, rows).notes)


def test_rows_that_were_trained_on_are_recognised(tmp_path):
    frame = banana(200)
    config = bj.FitConfig(epochs=2, progress=False, seed=1)
    runs = []
    for recipe in ("real_nvp", "nice"):
        args = {"layers": 2, "hidden": (8,)}
        fitted = bj.fit_table(frame, recipe=recipe, recipe_args=args, config=config, out=tmp_path / recipe, audit=False)
        runs.append(tmp_path / recipe)
    with pytest.raises(DataError, match=r"180 of 200 rows \(first: row \d+\) were used to fit A"):
        compare(*runs, frame)
    written = tmp_path / "rows.csv"
    frame.to_csv(written, index=False, float_format="%.17g")
    found = compare(*runs, bj.read_table(written), seen="drop")
    assert found.rows == 20
    assert compare(*runs, fitted.test).difference == pytest.approx(found.difference)
    assert compare(*runs, frame, seen="keep").rows == 200
    assert compare(*runs, fitted.test).notes == ()
    assert "cannot be told" in compare(runs[0], fitted.model, fitted.test).notes[0]
    with pytest.raises(DataError, match="0 rows are left"):
        compare(*runs, fitted.train, seen="drop")


def test_what_cannot_be_compared_is_refused():
    rows = normal().sample(10, seed=0)
    with pytest.raises(DataError, match="different columns: 'b'"):
        compare(normal(), normal(names=("a",)), rows)
    with pytest.raises(DataError, match="different columns: 'c'"):
        compare(normal(names=("a", "b", "c")), normal(), rows)
    with pytest.raises(DataError, match="'b'"):
        compare(normal(), normal(), rows[["a"]])
    with pytest.raises(ConfigError, match="seen"):
        compare(normal(), normal(), rows, seen="maybe")
    with pytest.raises(ConfigError, match="resamples"):
        compare(normal(), normal(), rows, resamples=3)
    rows.loc[4, "b"] = np.nan
    with pytest.raises(NonFiniteError, match="row 4"):
        compare(normal(), normal(), rows)
    found = compare(normal(), normal(step=1.0), normal().sample(10, seed=0))
    assert "a, b are discrete for one of the two" in found.notes[0]

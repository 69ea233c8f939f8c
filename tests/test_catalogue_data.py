"""The catalogue of bad inputs for estimators and files: exact class and words; see ``test_catalogue.py`` for modules."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import bijectory as bj
from bijectory.apps import ConditionalFlow, FlowDensity, FlowOutlier, fit_table
from bijectory.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from bijectory.tables import DataWarning, split_rows
from bijectory.training import FitConfig

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
QUICK = {"recipe": "real_nvp", "recipe_args": {"layers": 1, "hidden": (4,)}, "epochs": 1, "random_state": 0}


def changed(value, row=2, column=1):
    x = X.copy()
    x[row, column] = value
    return x


@pytest.fixture(scope="module")
def density():
    return FlowDensity(**QUICK).fit(X)


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (np.zeros((6, 5)), ValueError, "X has 5 features, but FlowDensity is expecting 3 features as input"),
        (np.zeros((6, 1)), ValueError, "X has 1 features, but FlowDensity is expecting 3"),
        (np.zeros(3), ValueError, "Expected 2D array, got 1D array instead"),
        (np.zeros((0, 3)), ValueError, "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required"),
        (
            changed(np.nan),
            NonFiniteError,
            r"Input X contains NaN. 1 of 60 rows are affected (first: row 2, column 'x1'",
        ),
        (changed(-np.inf), NonFiniteError, "Input X contains infinity or a value too large"),
        (np.array([["a", "b", "c"]], dtype=object), ValueError, "could not convert string to float: 'a'"),
        (np.zeros((2, 3), complex), ValueError, "Complex data not supported"),
        (scipy.sparse.csr_matrix(np.eye(3)), TypeError, "Sparse data was passed for X, but dense data is required"),
        (None, ValueError, "Expected 2D array"),
    ],
    ids=range(10),
)
def test_scoring_refuses(density, rows, error, words):
    with pytest.raises(error) as info:
        density.score_samples(rows)
    assert type(info.value) is error
    assert words in str(info.value)


def test_scoring_accepts(density):
    """Integers, booleans, lists and tensors are converted; huge values have a density of (almost) zero; NaN on demand."""
    want = density.score_samples(np.zeros((2, 3)))
    for rows in (
        np.zeros((2, 3), int),
        np.zeros((2, 3), bool),
        [[0, 0, 0], [0, 0, 0]],
        torch.zeros(2, 3),
        np.zeros((2, 3), "f4"),
    ):
        assert np.array_equal(density.score_samples(rows), want)
    assert want.dtype == np.float64
    assert density.score_samples(changed(1e30))[2] < -1e50
    assert density.score_samples(changed(1e308))[2] == -np.inf
    assert density.score_samples(changed(np.inf), nonfinite="propagate")[2] == -np.inf
    got = density.score_samples(changed(np.nan), nonfinite="propagate")
    assert np.isnan(got[2])
    assert np.isfinite(np.delete(got, 2)).all()
    with pytest.raises(ConfigError, match="nonfinite='skip'; use 'raise' or 'propagate'"):
        density.score_samples(X, nonfinite="skip")
    assert density.sample(0).shape == (0, 3)
    for n in (-1, 2.5, "3", None):
        with pytest.raises(ConfigError, match="n_samples must be a non-negative int, got"):
            density.sample(n)


@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlier, ConditionalFlow])
@pytest.mark.parametrize(
    ("rows", "keywords", "error", "words"),
    [
        (X[:0], {}, ValueError, "Found array with 0 sample(s)"),
        (X[:1], {}, ValueError, "minimum of 2 is required"),
        (
            changed(np.nan),
            {},
            NonFiniteError,
            "Input X contains NaN. 1 of 60 rows are affected (first: row 2, column 'x1'",
        ),
        (changed(np.inf), {}, NonFiniteError, "Input X contains infinity"),
        (X + 1j, {}, ValueError, "Complex data not supported"),
        (scipy.sparse.csr_matrix(X), {}, TypeError, "Sparse data was passed for X"),
        (np.full((9, 3), "a", dtype=object), {}, ValueError, "could not convert string to float"),
        (X, {"recipe": "nope"}, ConfigError, "there is no recipe 'nope'; did you mean"),
        (X, {"recipe_args": {"layrs": 3}}, ConfigError, "has no argument 'layrs'; did you mean 'layers'"),
        (X, {"lr": -1}, ConfigError, "lr=-1 is not valid: it should be greater than 0"),
        (X, {"epochs": 0}, ConfigError, "epochs=0"),
        (X, {"batch_size": 2.5}, ConfigError, "batch_size=2.5"),
        (X, {"validation_fraction": 1.5}, ConfigError, "validation_fraction=1.5"),
    ],
    ids=range(13),
)
def test_fitting_refuses(estimator, rows, keywords, error, words):
    y = (np.arange(rows.shape[0]) * 0.1,) if estimator is ConditionalFlow else ()
    with pytest.raises(error) as info:
        estimator(**{**QUICK, **keywords}).fit(rows, *y)
    assert type(info.value) is error
    assert words in str(info.value)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.c_[X, np.full(60, 2.0)], ["column 'x3' is constant (2): it has no density; it is dropped from the flow"]),
        (np.c_[X, X[:, 0]], ["columns (x0, x3) are identical; density is singular, likelihood is unbounded"]),
        (np.c_[X, X[:, 0] - 2 * X[:, 1]], ["columns (x0, x1, x3) are collinear (rank 3 of 4)"]),
        (np.c_[X, RNG.integers(0, 5, 60)], ["column 'x3' takes 5 different integer values", "dequantize=['x3']"]),
        (np.c_[X, np.where(X[:, 0] < 0.5, 0.0, X[:, 0])], ["column 'x3' takes", "likelihood can grow without bound"]),
        (RNG.standard_cauchy((60, 3)) ** 3, ["heavy tails or outliers in", "compressed by arsinh"]),
        (X[:5], ["n=5 rows for", "parameters: expect an overconfident density"]),
    ],
    ids=["constant", "duplicate", "collinear", "discrete", "point mass", "heavy", "few"],
)
def test_what_spoils_a_density_is_said_and_the_fit_is_usable(rows, words):
    with pytest.warns(DataWarning) as seen:
        model = FlowDensity(**QUICK).fit(rows)
    said = " ".join(str(w.message) for w in seen)
    for word in words:
        assert word in said
    assert np.isfinite(model.score_samples(rows)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e100, 1e-100])
def test_units_do_not_matter(scale):
    """Scores move by the logarithm of the unit and nothing else."""
    a, b = FlowDensity(**QUICK).fit(X), FlowDensity(**QUICK).fit(X * scale)
    moved = b.score_samples(X * scale) + 3 * np.log(scale)
    assert np.allclose(moved, a.score_samples(X), atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1e200, "holds .* too large to square in float64; divide it"),
        (1e-200, "varies by .* cannot resolve; multiply it by a power of ten"),
        (1e-310, "varies by .* cannot resolve; multiply it by a power of ten"),
    ],
)
def test_units_that_float64_cannot_square_are_refused(scale, words):
    with pytest.raises(DataError, match=rf"column 'x0' {words}"):
        FlowDensity(**QUICK).fit(X * scale)


def test_values_that_rounding_merges_are_seen():
    with pytest.warns(DataWarning, match="likelihood can grow without bound"):
        FlowDensity(**QUICK).fit(X * 1e-9 + 1e6)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_value_far_from_all_training_rows_is_named(part):
    """Held out, one such row decides which weights are the best, or what the test score is."""
    x = changed(1e6)
    seed = next(s for s in range(99) if 2 in getattr(split_rows(x, validation=0.1, test=0.1, seed=s), part))
    with pytest.warns(
        DataWarning, match=r"column 'x1' is 1e\+06 in row 2, \d+ standard deviations from the training rows"
    ):
        fit_table(
            x,
            recipe="real_nvp",
            recipe_args=QUICK["recipe_args"],
            config=FitConfig(epochs=1, seed=seed, progress=False),
        )
    with warnings.catch_warnings():  # as the message advises
        warnings.simplefilter("error")
        fit_table(
            x,
            recipe="real_nvp",
            recipe_args=QUICK["recipe_args"],
            heavy=["x1"],
            config=FitConfig(epochs=1, seed=seed, progress=False),
        )


def test_files_are_refused_by_name(tmp_path):
    """Every file of a run folder: missing, empty, foreign; ``test_io_faults`` and ``test_io_hostile`` do this at length."""
    frame = pd.DataFrame(X, columns=list("abc"))
    fitted = fit_table(frame, recipe="real_nvp", recipe_args=QUICK["recipe_args"], audit=False, out=tmp_path,
                       config=FitConfig(epochs=1, progress=False))  # fmt: skip
    assert fitted.result.stop_reason == "completed"
    for name in ("config.json", "model.safetensors", "schema.json"):
        path = tmp_path / name
        good = path.read_bytes()
        for bad in (b"", b"{", b"null", b"\xff\xfe\x00", b"[1, 2]", b"\x80\x04\x95."):
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
                bj.apps.TableFlow.load(tmp_path)
        path.unlink()
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            bj.apps.TableFlow.load(tmp_path)
        path.write_bytes(good)
    assert np.array_equal(bj.apps.TableFlow.load(tmp_path).score_samples(frame), fitted.model.score_samples(frame))

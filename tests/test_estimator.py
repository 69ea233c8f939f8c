"""scikit-learn's own conformance suite on both estimators, and what it does not ask."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from bijectory.apps import FlowDensity, FlowOutlier
from bijectory.errors import ConfigError, DomainError, NonFiniteError

QUICK = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}, "epochs": 3}


@pytest.mark.filterwarnings("ignore::bijectory.tables.DataWarning")
@parametrize_with_checks([FlowDensity(**QUICK), FlowOutlier(**QUICK)])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    a = rng.normal(size=300)
    return pd.DataFrame({"a": 1e5 * a, "b": 1 / (1 + np.exp(-a - rng.normal(size=300)))})


@pytest.fixture(scope="module")
def density(X):
    return FlowDensity(**QUICK, bounded={"b": (0, 1)}, random_state=0).fit(X)


def test_frames_in_frames_out(density, X):
    z = density.transform(X)
    assert list(z.columns) == list(density.get_feature_names_out()) == ["z0", "z1"]
    assert z.index.equals(X.index)
    pd.testing.assert_frame_equal(density.inverse_transform(z), X, rtol=1e-9)
    drawn = density.sample(5, random_state=0)
    assert list(drawn.columns) == ["a", "b"]
    pd.testing.assert_frame_equal(drawn, density.sample(5, random_state=0))
    array = FlowDensity(**QUICK, random_state=0).fit(X.to_numpy())
    assert isinstance(array.transform(X.to_numpy()), np.ndarray)
    assert isinstance(array.sample(2), np.ndarray)


def test_score_is_the_mean_in_the_units_of_the_data(density, X):
    scores = density.score_samples(X)
    assert scores.dtype == np.float64
    assert density.score(X) == pytest.approx(scores.mean())
    metres = FlowDensity(**QUICK, bounded={"b": (0, 1)}, random_state=0).fit(X.assign(a=X["a"] / 1024))
    assert metres.score(X.assign(a=X["a"] / 1024)) - density.score(X) == pytest.approx(np.log(1024), abs=1e-6)


def test_copies_score_alike(density, X):
    scores = density.score_samples(X)
    assert np.array_equal(pickle.loads(pickle.dumps(density)).score_samples(X), scores)
    assert np.array_equal(clone(density).fit(X).score_samples(X), scores)


def test_bad_values(density, X):
    bad = X.copy()
    bad.iloc[1, 0], bad.iloc[2, 0], bad.iloc[3, 1] = np.nan, np.inf, 2.0
    with pytest.raises(NonFiniteError, match=r"^Input X contains NaN\..*row 1, column 'a'"):
        density.score_samples(bad)
    with pytest.raises(NonFiniteError, match=r"^Input X contains infinity"):
        density.score_samples(bad.iloc[2:])
    with pytest.raises(DomainError, match="column 'b' is 2 in row 0"):
        density.score_samples(bad.iloc[3:])
    scores = density.score_samples(bad, nonfinite="propagate")
    assert np.isnan(scores[1])
    assert scores[2] == scores[3] == -np.inf
    assert np.isfinite(scores[4:]).all()
    with pytest.raises(NonFiniteError, match="before fit"):
        clone(density).fit(bad)
    with pytest.raises(ConfigError, match="n_samples"):
        density.sample(-1)
    with pytest.raises(NotFittedError):
        clone(density).sample()


def test_outliers(X):
    detector = FlowOutlier(0.05, **QUICK, random_state=0).fit(X)
    assert (detector.predict(X) == -1).sum() == 15
    assert np.allclose(detector.decision_function(X), detector.score_samples(X) - detector.offset_)
    assert detector.predict(pd.DataFrame({"a": [0.0, 9e6], "b": [0.5, 0.5]})).tolist() == [1, -1]
    with pytest.raises(ConfigError, match="contamination"):
        FlowOutlier(0.7).fit(X)


def test_threshold_counts_weights(X):
    w = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    detector = FlowOutlier(0.1, **QUICK, random_state=0).fit(X, sample_weight=w)
    found = w[detector.predict(X) == -1].sum() / w.sum()
    assert found == pytest.approx(0.1, abs=2.5 / w.sum())


def test_grid_search(X):
    search = GridSearchCV(FlowDensity(**QUICK, random_state=0), {"epochs": [1, 40]}, cv=2).fit(X)
    assert search.best_params_ == {"epochs": 40}

"""Classifiers whose log-odds are log-ratios."""

import warnings
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from bijectory.errors import ConfigError, check

Classifier = Literal["linear", "quadratic", "boosting"]
TINY = 1e-12  # probabilities of trees are kept this far from 0 and 1
FOLDS = 3


def check_classifier(name: str) -> None:
    """Refuse an unknown name."""
    known = get_args(Classifier)
    check(name in known, ConfigError, f"classifier={name!r} is unknown; use one of {', '.join(known)}.")


def log_odds_of(
    name: Classifier, x: NDArray[np.float64], y: NDArray[np.bool_], weight: NDArray[np.float64], seed: int
) -> Any:
    """Fit a classifier; the result is a function of rows that returns its log-odds, the class sizes taken out.

    Args:
        name: "linear" and "quadratic" are logistic regressions on the columns, and on them and their products (exact for
            two normal densities); "boosting" is a forest of boosted trees, calibrated by logistic regression on folds.
        x: ``(n, d)``.
        y: ``(n,)``, True for rows of p.
        weight: ``(n,)`` of the rows; those of weight 0 are left out.
        seed: Seed of the trees.
    """
    x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
    offset = float(np.log(weight[y].sum()) - np.log(weight[~y].sum()))
    if name == "boosting":
        trees = HistGradientBoostingClassifier(random_state=seed, max_iter=60, max_leaf_nodes=6)
        # Trees are overconfident; the folds of the calibration see every row once, as new.
        model = CalibratedClassifierCV(trees, method="sigmoid", cv=FOLDS).fit(x, y, sample_weight=weight)
        return _Trees(model, offset)
    degree = 2 if name == "quadratic" else 1
    features = PolynomialFeatures(degree, include_bias=False)
    pipe = make_pipeline(StandardScaler(), features, StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near-separable classes: the penalty decides anyway
        pipe.fit(x, y, logisticregression__sample_weight=weight)
    return _Logistic(pipe, offset)


class _Logistic:
    def __init__(self, model: Any, offset: float) -> None:
        self.model, self.offset = model, offset

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.model.decision_function(x) - self.offset


class _Trees(_Logistic):
    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        p = np.clip(self.model.predict_proba(x)[:, 1], TINY, 1 - TINY)
        return np.log(p) - np.log1p(-p) - self.offset

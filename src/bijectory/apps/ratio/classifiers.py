"""Classifiers whose log-odds are log-ratios, and the choice between them by rows left out."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from bijectory.apps.ratio.posteriors import discriminant, logistic
from bijectory.errors import ConfigError, check

Classifier = Literal["auto", "linear", "discriminant", "quadratic", "boosting"]
Bridge = Callable[[NDArray[np.float64]], NDArray[np.float64]]
TINY = 1e-12  # probabilities of trees are kept this far from 0 and 1
FOLDS = 3
DRAWS, FITS = 32, 8  # members: posterior draws are cheap, bootstrap fits of trees are not
SELECT = 6_000  # rows by which classifiers are compared
WIDE = 8  # rows for each coefficient, below which products of columns are not tried
UNIQUE = 0.9  # share of different rows
SLOPE_SD, INTERCEPT_SD = 0.3, 1.0  # prior of the calibration, around 1 and 0


class Fitted(NamedTuple):
    """Log-odds with the class sizes taken out: the estimate, members whose spread is its error, the name, and the slope.

    Attributes:
        centre: The estimate.
        members: Posterior draws, or bootstrap fits.
        name: Of the classifier.
        slope: Of the calibration by rows left out; 1 where there was none.
    """

    centre: Bridge
    members: list[Bridge]
    name: str
    slope: float


def check_classifier(name: str) -> None:
    """Refuse an unknown name."""
    known = get_args(Classifier)
    check(name in known, ConfigError, f"classifier={name!r} is unknown; use one of {', '.join(known)}.")


def fit_classifier(
    name: Classifier, x: NDArray[np.float64], y: NDArray[np.bool_], members: int | None, rng: np.random.Generator
) -> Fitted:
    """Fit a classifier with its error.

    Args:
        name: "linear" and "quadratic" are logistic regressions on the columns, and on them and their products;
            "discriminant" is the ratio of two normal densities; "boosting" is a forest of boosted trees, calibrated by
            logistic regression on folds; "auto" takes the one with the best likelihood of rows left out, and calibrates it
            by these (Platt) if that pays.
        x: ``(n, d)`` standardised rows.
        y: ``(n,)``, True for rows of p.
        members: Number of members; 1 for none but the estimate, None for 32 draws, or 8 fits of trees.
        rng: Of draws, folds and trees.
    """
    if name == "auto":
        name, found = _choose(x, y, rng)
        fitted = _fit(name, x, y, members, rng, calibrated=False)
        alone = len(fitted.members) == 1  # no spread: it is the estimate itself
        lines = draw_lines(found, 0 if alone else len(fitted.members), rng)
        drawn: list[Bridge] = [
            Line(of, *line) for of, line in zip(fitted.members, lines if alone else lines[1:], strict=True)
        ]
        return Fitted(Line(fitted.centre, *lines[0]), drawn, name, float(lines[0, 0]))
    return _fit(name, x, y, members, rng, calibrated=True)


def _fit(
    name: Classifier,
    x: NDArray[np.float64],
    y: NDArray[np.bool_],
    members: int | None,
    rng: np.random.Generator,
    *,
    calibrated: bool,
) -> Fitted:
    count = (FITS if name == "boosting" else DRAWS) if members is None else members
    if name != "boosting":
        found = _posterior(name, x, y, 0 if count == 1 else count, rng)
        return Fitted(found[0], found[1:] or found, name, 1.0)
    centre = _trees(x, y, np.ones(len(x)), rng, calibrated=calibrated)
    fits = []
    for _ in range(count if count > 1 else 0):
        # Weights, not copies: a row and its copy must not end up on both sides of a fold.
        weight = np.empty(len(x))
        for side in (y, ~y):
            n = int(side.sum())
            weight[side] = np.bincount(rng.integers(0, n, n), minlength=n)
        fits.append(_trees(x, y, weight, rng, calibrated=calibrated))
    return Fitted(centre, fits or [centre], name, 1.0)


class Line:
    """Log-odds on a straight line of others."""

    def __init__(self, of: Bridge, slope: float, intercept: float) -> None:
        self.of, self.slope, self.intercept = of, slope, intercept

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.slope * self.of(x) + self.intercept


class Platt(NamedTuple):
    """A line for log-odds.

    Attributes:
        line: Slope and intercept, ``(2,)``.
        covariance: Of the two, ``(2, 2)``.
    """

    line: NDArray[np.float64]
    covariance: NDArray[np.float64]


def platt(odds: NDArray[np.float64], y: NDArray[np.bool_], *, temperature: bool = False) -> Platt:
    """Logistic regression of the label on log-ratios, both classes of equal weight.

    With weak normal priors around slope 1 and intercept 0: classes that are told apart without error leave them there.

    Args:
        odds: ``(n,)`` log-ratios of rows left out.
        y: ``(n,)``, True for rows of p.
        temperature: Keep the intercept at 0.

    References:
        Probabilistic outputs for support vector machines, Platt 1999, Advances in Large Margin Classifiers, eq. 1.
    """
    phi = np.stack([np.clip(odds, -1e6, 1e6), np.ones(len(odds))], axis=1)
    weight = np.where(y, 0.5 / max(y.sum(), 1), 0.5 / max((~y).sum(), 1)) * len(y)
    start, prior = np.array([1.0, 0.0]), np.array([SLOPE_SD, 1e-6 if temperature else INTERCEPT_SD]) ** -2.0

    def loss(at: NDArray[np.float64]) -> float:
        z = phi @ at
        return float(weight @ (np.logaddexp(0, z) - y * z) + 0.5 * prior @ (at - start) ** 2)

    line, now = start, loss(start)
    for _ in range(50):
        p = expit(phi @ line)
        hessian = (phi.T * (weight * p * (1 - p))) @ phi + np.diag(prior)
        step = np.linalg.solve(hessian, phi.T @ (weight * (p - y)) + prior * (line - start))
        size = 1.0
        while (new := loss(line - size * step)) > now and size > 1e-4:
            size /= 2
        line, gain, now = line - size * step, now - new, new
        if gain < 1e-9:
            break
    # A ratio that ranks rows the wrong way round knows nothing.
    return Platt(np.array([max(line[0], 0.0), line[1]]), np.linalg.inv(hessian))


def draw_lines(found: Platt, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The line, then ``n`` draws of it, ``(n + 1, 2)``."""
    drawn = rng.multivariate_normal(found.line, found.covariance, n)
    drawn[:, 0] = np.maximum(drawn[:, 0], 0.0)
    return np.concatenate([found.line[None], drawn])


def _choose(x: NDArray[np.float64], y: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Classifier, Platt]:
    """The classifier that, calibrated, has the best likelihood of rows left out, and that calibration."""
    few = rng.permutation(len(x))[:SELECT]
    x, y = x[few], y[few]
    d = x.shape[1]
    names: list[Classifier] = ["linear", "discriminant"]
    names += ["quadratic"] if d * (d + 3) / 2 <= len(x) / WIDE else []
    names += ["boosting"] if min(y.sum(), (~y).sum()) >= 50 else []
    folds = split_folds(x, y, FOLDS, int(rng.integers(2**31)))
    best: tuple[Classifier, Platt] = ("linear", platt(np.zeros(len(x)), y))
    least = np.inf
    for name in names:
        odds = np.empty(len(x))
        for train, held in folds:
            odds[held] = _fit(name, x[train], y[train], 1, rng, calibrated=False).centre(x[held])
        found, raw = platt(odds, y), Platt(np.array([1.0, 0.0]), np.zeros((2, 2)))
        loss, before = _loss(found, odds, y), _loss(raw, odds, y)
        if len(y) * (before - loss) < np.log(len(y)):  # two coefficients that are not worth it (BIC)
            found, loss = raw, before
        if loss < least:  # of equals the simpler one, which comes first
            best, least = (name, found), loss
    return best


def _loss(found: Platt, odds: NDArray[np.float64], y: NDArray[np.bool_]) -> float:
    """Cross-entropy of calibrated log-odds, both classes of equal weight."""
    z = found.line[0] * odds + found.line[1]
    each = np.logaddexp(0, z) - y * z
    return float(each[y].mean() + each[~y].mean()) / 2


def twins(x: NDArray[np.float64], y: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Numbers of the different rows, where some are in both tables and hardly any twice in one; else None.

    Such rows are the same ones and not equal by chance, as rows of few discrete columns are. They must stay on one side of
    every split: a classifier that was taught the row as one of p would meet it again as one of q.
    """
    number = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    p, q = number[y], number[~y]
    once = min(len(np.unique(p)) / len(p), len(np.unique(q)) / len(q)) > UNIQUE
    return number if once and np.isin(p, q).any() else None


def split_folds(x: NDArray[np.float64], y: NDArray[np.bool_], n: int, seed: int) -> list[tuple[Any, Any]]:
    """Rows to train on and rows left out, ``n`` times, with both tables in each and twins together."""
    group = twins(x, y)
    if group is None:
        return list(StratifiedKFold(n, shuffle=True, random_state=seed).split(x, y))
    return list(StratifiedGroupKFold(n, shuffle=True, random_state=seed).split(x, y, group))


def _posterior(
    name: Classifier, x: NDArray[np.float64], y: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> list[Any]:
    if name == "discriminant":
        return discriminant(x, y, draws, rng)
    return logistic(x, y, 2 if name == "quadratic" else 1, draws, rng)


def _trees(
    x: NDArray[np.float64],
    y: NDArray[np.bool_],
    weight: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    calibrated: bool,
) -> Bridge:
    x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
    model: Any = HistGradientBoostingClassifier(
        random_state=int(rng.integers(2**31)), max_iter=60, max_leaf_nodes=6, early_stopping=False
    )
    if calibrated:
        # Trees are overconfident; the folds of the calibration see every row once, as new.
        model = CalibratedClassifierCV(model, method="sigmoid", cv=FOLDS)
    model.fit(x, y, sample_weight=weight)
    return _Trees(model, float(np.log(weight[y].sum()) - np.log(weight[~y].sum())))


class _Trees:
    def __init__(self, model: Any, offset: float) -> None:
        self.model, self.offset = model, offset

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        p = np.clip(self.model.predict_proba(x)[:, 1], TINY, 1 - TINY)
        return np.log(p) - np.log1p(-p) - self.offset

"""Ratios corrected by rows that they were not fitted to."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from bijectory.apps.ratio.classifiers import draw_lines, platt
from bijectory.apps.ratio.estimators import DensityRatio
from bijectory.errors import ConfigError, DataError, check

How = Literal["platt", "temperature", "isotonic"]
FEWEST = 20


class CalibratedRatio(DensityRatio):
    """What ``calibrate_ratio`` returns: another ratio, its log-ratios moved along a rising curve.

    Args:
        of: The ratio.
        lines: ``(members, 2)`` slopes and intercepts, the estimate first; or None.
        knots: Log-ratios and what they become, ``(2, k)``, in between straight and beyond constant; or None.

    Example:
        >>> from bijectory.apps.ratio import ClassifierRatio
        >>> loud = ClassifierRatio(["a"], [[lambda x: 2 * x[:, 0]]])
        >>> CalibratedRatio(loud, lines=np.array([[0.5, 0.1]])).log_ratio({"a": [3.0]})
        array([3.1])
    """

    def __init__(
        self, of: DensityRatio, *, lines: NDArray[np.float64] | None = None, knots: NDArray[np.float64] | None = None
    ) -> None:
        self.of, self.lines, self.knots = of, lines, knots

    @property
    def slope(self) -> float:
        """Of the line; NaN of a curve. Below 1 the ratio was overconfident."""
        return float("nan") if self.lines is None else float(self.lines[0, 0])

    def members(self, data: Any) -> NDArray[np.float64]:
        found = self.of.members(data)
        if self.lines is None or len(found) == 1:
            return self._curve(found)
        lines = self.lines[1 + np.arange(len(found)) % (len(self.lines) - 1)] if len(self.lines) > 1 else self.lines
        return lines[:, :1] * found + lines[:, 1:]

    def log_ratio(self, data: Any) -> NDArray[np.float64]:
        return self._curve(self.of.log_ratio(data))

    def _curve(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.lines is not None:
            return self.lines[0, 0] * value + self.lines[0, 1]
        return np.interp(value, *self.knots)  # type: ignore[misc]  # one of the two is there


def calibrate_ratio(ratio: DensityRatio, p: Any, q: Any, *, how: How = "platt", seed: int = 0) -> CalibratedRatio:
    r"""Correct a ratio by fresh rows of p and q, so that its log-ratio is a calibrated log-odds.

    An overconfident ratio has log-ratios too far from 0. "platt" fits a slope and an intercept to rows that are labelled by
    their table, "temperature" an intercept of 0 and a slope, "isotonic" a rising step function (with many rows only; its
    ends are finite, and what lies beyond stays at them). The spread of the members then counts the noise of the line.

    Args:
        ratio: The estimate.
        p: Rows of the numerator that it was not fitted to.
        q: Rows of the denominator.
        how: The kind of curve.
        seed: Of the draws of the line for each member.

    Raises:
        DataError: If there are fewer than 20 rows of one, or log-ratios that are not finite.

    References:
        Probabilistic outputs for support vector machines, Platt 1999, Advances in Large Margin Classifiers.
        On Calibration of Modern Neural Networks, Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, sec. 4.2.
        Transforming classifier scores into accurate multiclass probability estimates, Zadrozny, Elkan 2002, KDD.
        Approximating likelihood ratios with calibrated discriminative classifiers, Cranmer, Pavez, Louppe 2015,
        arXiv:1506.02169, sec. 2.3.

    Example:
        >>> from bijectory.apps.ratio import ClassifierRatio
        >>> rng = np.random.default_rng(0)
        >>> p, q = {"a": rng.normal(1, 1, 4000)}, {"a": rng.normal(0, 1, 4000)}  # the log-ratio is a - 1/2
        >>> loud = ClassifierRatio(["a"], [[lambda x: 3 * (x[:, 0] - 0.5)]])
        >>> calibrate_ratio(loud, p, q).log_ratio({"a": [1.5]}).round(1)
        array([1.])
    """
    check(how in get_args(How), ConfigError, f"how={how!r}; use {', '.join(get_args(How))}.")
    above, below = ratio.log_ratio(p), ratio.log_ratio(q)
    few = f"p has {len(above)} rows, q {len(below)}; a calibration needs at least {FEWEST} of each."
    check(min(len(above), len(below)) >= FEWEST, DataError, few)
    odds = np.concatenate([above, below])
    check(
        bool(np.isfinite(odds).all()), DataError, "the ratio is 0, infinite or unknown on some rows; leave these out."
    )
    label = np.arange(len(odds)) < len(above)
    if how != "isotonic":
        line = platt(odds, label, temperature=how == "temperature")
        return CalibratedRatio(ratio, lines=draw_lines(line, 64, np.random.default_rng(seed)))
    weight = np.where(label, 0.5 / len(above), 0.5 / len(below))
    step = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(odds, label, sample_weight=weight)
    value = step.predict(odds)
    places, heights = [], []
    for height in np.unique(value):
        inside = value == height
        # Each step is a share of the rows in it; half a row of each side keeps it from 0 and 1.
        n, share = inside.sum(), weight[inside & label].sum() / weight[inside].sum()
        share = (n * share + 0.5) / (n + 1)
        places.append(np.median(odds[inside]))
        heights.append(np.log(share / (1 - share)))
    return CalibratedRatio(ratio, knots=np.array([places, np.maximum.accumulate(heights)]))

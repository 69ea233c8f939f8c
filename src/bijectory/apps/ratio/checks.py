"""Whether an estimated ratio holds on fresh rows."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bijectory.apps.ratio.estimators import DensityRatio
from bijectory.errors import DataError, check


@dataclasses.dataclass(frozen=True)
class RatioCheck:
    r"""What is 1, 1, 1 and 0 for the true ratio.

    Attributes:
        mean_q: Mean of :math:`r` over rows of q, and its standard error.
        mean_p: Mean of :math:`1/r` over rows of p, and its standard error.
        slope: Of the logistic regression of the label on the log-ratio: below 1 the ratio is overconfident.
        intercept: Of the same.
        slope_se: Standard error of the slope: large where the log-ratios hardly vary.

    Example:
        >>> RatioCheck((1.0, 0.1), (1.5, 0.1), 0.5, 0.0).ok
        False
    """

    mean_q: tuple[float, float]
    mean_p: tuple[float, float]
    slope: float
    intercept: float
    slope_se: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the means are 1 up to 4 standard errors or 0.1, the slope 1 up to 3 or 0.25, the intercept 0 by 0.25."""
        means = all(abs(m - 1) <= max(4 * se, 0.1) for m, se in (self.mean_q, self.mean_p))
        return means and abs(self.slope - 1) <= max(0.25, 3 * self.slope_se) and abs(self.intercept) <= 0.25


def check_ratio(ratio: DensityRatio, p: Any, q: Any) -> RatioCheck:
    """Check a ratio on rows that it was not fitted to.

    Args:
        ratio: The estimate.
        p: Fresh rows of the numerator.
        q: Fresh rows of the denominator.

    Raises:
        DataError: If the ratio is undefined on some rows.

    Example:
        >>> from bijectory.apps.ratio import ClassifierRatio
        >>> rng = np.random.default_rng(0)
        >>> p, q = {"a": rng.normal(1, 1, 4000)}, {"a": rng.normal(0, 1, 4000)}
        >>> true, loud = (ClassifierRatio(["a"], [[lambda x, k=k: k * (x[:, 0] - 0.5)]]) for k in (1.0, 3.0))
        >>> check_ratio(true, p, q).ok, check_ratio(loud, p, q).ok
        (True, False)
    """
    return check_log_ratios(ratio.log_ratio(p), ratio.log_ratio(q))


def check_log_ratios(above: NDArray[np.float64], below: NDArray[np.float64]) -> RatioCheck:
    """``check_ratio`` by the log-ratios of fresh rows of p and of q."""
    both = np.concatenate([above, below])
    check(
        bool(np.isfinite(both).all()), DataError, "the ratio is 0, infinite or unknown on some rows; leave these out."
    )
    with np.errstate(over="ignore", invalid="ignore"):
        means = [(float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v)))) for v in (np.exp(below), np.exp(-above))]
    label = np.arange(len(both)) < len(above)
    # Classes of equal weight, so that the intercept of a calibrated ratio is 0.
    weight = np.where(label, 0.5 / len(above), 0.5 / len(below)) * len(both)
    line = LogisticRegression(C=1e6).fit(both[:, None], label, sample_weight=weight)
    p = line.predict_proba(both[:, None])[:, 1]
    w = weight * p * (1 - p)
    centred = both - np.average(both, weights=w) if w.sum() > 0 else both
    information = float(w @ centred**2)
    se = information**-0.5 if information > 0 else float("inf")
    return RatioCheck(means[0], means[1], float(line.coef_[0, 0]), float(line.intercept_[0]), se)

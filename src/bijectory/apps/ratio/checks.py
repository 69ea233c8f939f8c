"""Whether an estimated ratio holds on fresh rows."""

import dataclasses
from typing import Any

import numpy as np
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

    Example:
        >>> RatioCheck((1.0, 0.1), (1.5, 0.1), 0.5, 0.0).ok
        False
    """

    mean_q: tuple[float, float]
    mean_p: tuple[float, float]
    slope: float
    intercept: float

    @property
    def ok(self) -> bool:
        """Whether both means are within 4 standard errors (or 0.1) of 1, slope and intercept within 0.25 of 1 and 0."""
        means = all(abs(m - 1) <= max(4 * se, 0.1) for m, se in (self.mean_q, self.mean_p))
        return means and abs(self.slope - 1) <= 0.25 and abs(self.intercept) <= 0.25


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
    above, below = ratio.log_ratio(p), ratio.log_ratio(q)
    both = np.concatenate([above, below])
    check(
        bool(np.isfinite(both).all()), DataError, "the ratio is 0, infinite or unknown on some rows; leave these out."
    )
    r, inverse = np.exp(below), np.exp(-above)
    means = [(float(v.mean()), float(v.std(ddof=1) / np.sqrt(len(v)))) for v in (r, inverse)]
    label = np.arange(len(both)) < len(above)
    # Classes of equal weight, so that the intercept of a calibrated ratio is 0.
    weight = np.where(label, 0.5 / len(above), 0.5 / len(below)) * len(both)
    line = LogisticRegression(C=1e6).fit(both[:, None], label, sample_weight=weight)
    return RatioCheck(means[0], means[1], float(line.coef_[0, 0]), float(line.intercept_[0]))

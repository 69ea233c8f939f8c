"""Importance weights from a ratio: rows of one table stand for those of another."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bijectory.apps.ratio.estimators import DensityRatio
from bijectory.errors import DataError, check


class RatioWeights(NamedTuple):
    """Weights of rows of q that make them stand for rows of p.

    Attributes:
        weights: ``(n,)``, with mean 1.
        ess: Effective sample size, between 1 and n: how many rows of p they are worth.

    Example:
        >>> RatioWeights(np.ones(3), 3.0).ess
        3.0
    """

    weights: NDArray[np.float64]
    ess: float


def ratio_weights(ratio: DensityRatio, data: Any) -> RatioWeights:
    r"""Self-normalised importance weights :math:`w_i = r(x_i) / \frac1n \sum_j r(x_j)` of rows of q, unsmoothed.

    Under covariate shift (the same :math:`p(y \mid x)`, another :math:`p(x)`) a loss on labelled rows of q, weighted by
    these, estimates the loss on p. Pass them as ``sample_weight``. A small effective sample size says that the tables
    overlap too little for that.

    Args:
        ratio: The log-ratio of p to q.
        data: Rows of q.

    Raises:
        DataError: If a ratio is unknown, infinite, or all are 0.

    References:
        Improving predictive inference under covariate shift by weighting the log-likelihood function, Shimodaira 2000,
        J. Stat. Plan. Inference 90.

    Example:
        >>> from bijectory.apps.ratio import ClassifierRatio
        >>> ratio = ClassifierRatio(["a"], [[lambda x: x[:, 0]]])
        >>> ratio_weights(ratio, {"a": [0.0, np.log(3.0)]}).weights.round(6)
        array([0.5, 1.5])
    """
    log_r = ratio.log_ratio(data)
    usable = bool(len(log_r)) and not np.isnan(log_r).any() and bool(np.isfinite(log_r.max()))
    check(usable, DataError, "the ratio is unknown, infinite, or 0 everywhere on these rows; weights need finite ones.")
    weights = np.exp(log_r - log_r.max())
    weights /= weights.mean()
    return RatioWeights(weights, float(weights.sum() ** 2 / (weights**2).sum()))

"""Importance weights from a ratio: rows of one table stand for those of another."""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bijectory.apps.importance import ImportanceWeights, psis
from bijectory.apps.ratio.estimators import DensityRatio
from bijectory.errors import DataError, check


@dataclasses.dataclass(frozen=True)
class RatioWeights:
    r"""Weights of rows of q that make them stand for rows of p.

    Attributes:
        weights: ``(n,)``, with mean 1, the largest ones Pareto-smoothed.
        raw: The same unsmoothed.
        importance: The weights as those of importance sampling, for expectations with standard errors.

    Example:
        >>> round(RatioWeights(np.ones(3), np.ones(3), psis(torch.zeros(3), warn=False)).ess, 6)
        3.0
    """

    weights: NDArray[np.float64]
    raw: NDArray[np.float64]
    importance: ImportanceWeights

    @property
    def ess(self) -> float:
        """Effective sample size, between 1 and n: how many rows of p they are worth."""
        return self.importance.ess

    @property
    def khat(self) -> float:
        r"""Pareto shape :math:`\hat k` of the largest weights."""
        return self.importance.khat

    @property
    def reliable(self) -> bool:
        r"""Whether :math:`\hat k` is at most its limit (0.7, less for few rows): the tables overlap enough."""
        return self.importance.reliable


def ratio_weights(ratio: DensityRatio, data: Any, *, smooth: bool = True, warn: bool = True) -> RatioWeights:
    r"""Self-normalised importance weights :math:`w_i = r(x_i) / \frac1n \sum_j r(x_j)` of rows of q, Pareto-smoothed.

    Under covariate shift (the same :math:`p(y \mid x)`, another :math:`p(x)`) a loss on labelled rows of q, weighted by
    these, estimates the loss on p. Pass them as ``sample_weight``. A small effective sample size, or a :math:`\hat k` above
    0.7, says that the tables overlap too little for that.

    Args:
        ratio: The log-ratio of p to q.
        data: Rows of q.
        smooth: Smooth the largest weights; False keeps them.
        warn: Warn where the Pareto shape is above its limit.

    Raises:
        DataError: If a ratio is unknown, infinite, or all are 0.

    Warns:
        ImportanceWarning: If the weights cannot be trusted.

    References:
        Improving predictive inference under covariate shift by weighting the log-likelihood function, Shimodaira 2000,
        J. Stat. Plan. Inference 90.
        Pareto Smoothed Importance Sampling, Vehtari, Simpson, Gelman, Yao, Gabry 2015/2024, arXiv:1507.02646.

    Example:
        >>> from bijectory.apps.ratio import ClassifierRatio
        >>> ratio = ClassifierRatio(["a"], [[lambda x: x[:, 0]]])
        >>> ratio_weights(ratio, {"a": [0.0, np.log(3.0)]}, warn=False).weights.round(6)
        array([0.5, 1.5])
    """
    log_r = ratio.log_ratio(data)
    usable = bool(len(log_r)) and not np.isnan(log_r).any() and bool(np.isfinite(log_r.max()))
    check(usable, DataError, "the ratio is unknown, infinite, or 0 everywhere on these rows; weights need finite ones.")
    raw = np.exp(log_r - log_r.max())
    found = psis(torch.tensor(log_r), smooth=smooth, warn=warn)
    return RatioWeights(found.weights.numpy() * len(log_r), raw / raw.mean(), found)

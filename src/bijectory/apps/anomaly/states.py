r"""The density of states: how rare the statistics of a row are, whichever side they err on.

Statistics :math:`T(x) = (T_1, \dots, T_K)` of a flow have a distribution over ordinary rows, the density of states. A row is
abnormal where this density is low: a likelihood that is too high counts as much as one that is too low. The statistics
depend on each other, and how they do is a part of what is ordinary: a smooth image with a high likelihood is no surprise, a
rough one is. So the density is that of all statistics together, estimated by kernels.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KernelDensity

from bijectory.apps.anomaly.calibration import conformal_p_values
from bijectory.errors import DataError, check

FLAT = 1e-9  # an axis with a smaller share of the variance is a linear dependence and says nothing


class StateDensity:
    r"""Kernel density :math:`q(T)` of statistics, in coordinates in which they are uncorrelated with variance 1.

    The bandwidth follows Scott's rule, :math:`n^{-1/(K + 4)}`.

    Args:
        states: ``(n, k)`` finite statistics of ordinary rows.
        joint: False for a product of densities of single statistics, :math:`\prod_k q_k(T_k)`, as published.

    Raises:
        DataError: If they are not finite.

    References:
        Density of States Estimation for Out-of-Distribution Detection, Morningstar, Ham, Gallagher, Lakshminarayanan,
        Alemi, Dillon 2020, arXiv:2006.09273, eq. 2 (the product).

    Example:
        >>> a = np.random.default_rng(0).normal(size=(500, 1))
        >>> density = StateDensity(np.hstack([a, a + 0.1 * a[::-1]]))
        >>> alike, apart = density.nats(np.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> bool(apart > alike + 10)
        True
    """

    def __init__(self, states: NDArray[np.float64], *, joint: bool = True) -> None:
        check(bool(np.isfinite(states).all()), DataError, "statistics of reference rows are not finite.")
        n, k = states.shape
        spread = states.std(0)
        self._centre, self._scale = states.mean(0), np.where(spread > 0, spread, 1.0)
        self._axes = np.eye(k)
        if joint:
            values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(((states - self._centre) / self._scale).T)))
            keep = values > FLAT * max(float(values.max()), 1e-300)
            self._axes = vectors[:, keep] / np.sqrt(values[keep])
        places = self._place(states)
        width = places.shape[1]
        self._groups = [slice(0, width)] if joint else [slice(i, i + 1) for i in range(width)]
        bandwidth = n ** (-1 / ((width if joint else 1) + 4))
        self._kernels = [KernelDensity(bandwidth=bandwidth).fit(places[:, part]) for part in self._groups]

    def nats(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minus the log-density of each row of statistics, ``(n,)``; NaN where a statistic is not finite.

        The density is that of the uncorrelated coordinates: another unit of a statistic changes nothing.
        """
        out, good = np.full(len(states), np.nan), np.isfinite(states).all(1)
        if good.any():
            places = self._place(states[good])
            parts = [k.score_samples(places[:, part]) for part, k in zip(self._groups, self._kernels, strict=True)]
            out[good] = -np.sum(parts, axis=0)
        return out

    def _place(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((states - self._centre) / self._scale) @ self._axes


class Surprise:
    r"""How rare a score is, :math:`-\log P(S \ge s)`, from ordinary scores; nats, without a largest value.

    Counts say it up to the largest tenth of the scores; from there on the tail is exponential with the mean excess of that
    tenth, so that of two scores beyond all known ones the larger one is rarer.

    Args:
        scores: ``(n,)`` finite scores of ordinary rows.

    Raises:
        DataError: If they are not finite.

    Example:
        >>> surprise = Surprise(np.random.default_rng(0).exponential(size=5000))
        >>> surprise.nats(np.array([1.0, 4.0, 20.0])).round(0)
        array([ 1.,  4., 19.])
    """

    def __init__(self, scores: NDArray[np.float64]) -> None:
        check(bool(np.isfinite(scores).all()), DataError, "scores of reference rows are not finite.")
        self._known = np.sort(scores)
        self._start = float(self._known[-max(1, len(scores) // 10)])
        above = self._known[self._known >= self._start]
        self._share = (1 + len(above)) / (1 + len(scores))
        self._excess = max(float(above.mean()) - self._start, 1e-12 * max(1.0, abs(self._start)))

    def nats(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minus the log-probability of each score or a larger one, ``(n,)``; NaN stays NaN."""
        p = conformal_p_values(self._known, scores)
        beyond = -np.log(self._share) + (scores - self._start) / self._excess
        return np.where(scores > self._start, beyond, -np.log(p))

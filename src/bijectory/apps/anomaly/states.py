r"""The density of states: how rare the statistics of a row are, whichever side they err on.

Statistics :math:`T_1(x), \dots, T_K(x)` of a flow have a distribution over ordinary rows, the density of states. A row is
abnormal where this density is low: a likelihood that is too high counts as much as one that is too low. It is estimated by
kernels, one axis at a time; the axes are those in which the statistics of ordinary rows are uncorrelated, for the
statistics depend on each other, and how they do is a part of what is ordinary.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KernelDensity

from bijectory.errors import DataError, check

FLAT = 1e-9  # an axis with a smaller share of the variance is a linear dependence and says nothing


class StateDensity:
    r"""Kernel density of statistics along uncorrelated axes, :math:`\sum_k \log q_k(a_k(x))`.

    Args:
        states: ``(n, k)`` finite statistics of ordinary rows.
        rotate: False for one kernel density for each statistic by itself, as published.

    Raises:
        DataError: If they are not finite.

    References:
        Density of States Estimation for Out-of-Distribution Detection, Morningstar, Ham, Gallagher, Lakshminarayanan,
        Alemi, Dillon 2020, arXiv:2006.09273, eq. 2.

    Example:
        >>> a = np.random.default_rng(0).normal(size=(500, 1))
        >>> density = StateDensity(np.hstack([a, a + 0.1 * a[::-1]]))
        >>> alike, apart = density.nats(np.array([[1.0, 1.0], [1.0, -1.0]]))
        >>> bool(apart > alike + 10)
        True
    """

    def __init__(self, states: NDArray[np.float64], *, rotate: bool = True) -> None:
        check(bool(np.isfinite(states).all()), DataError, "statistics of reference rows are not finite.")
        self.centre, spread = states.mean(0), states.std(0)
        self.scale = np.where(spread > 0, spread, 1.0)
        self.axes = np.eye(states.shape[1])
        if rotate:
            correlation = np.atleast_2d(np.cov(((states - self.centre) / self.scale).T))
            values, vectors = np.linalg.eigh(correlation)
            keep = values > FLAT * max(float(values.max()), 1e-300)
            self.axes = vectors[:, keep] / np.sqrt(values[keep])
        self.kernels = []
        for values in self._along(states).T:
            width = max(float(values.std()), 1e-12) * len(values) ** -0.2  # Scott's rule
            self.kernels.append(KernelDensity(bandwidth=width).fit(values[:, None]))

    def nats(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        """Minus the log-density of each row of statistics, ``(n,)``; NaN where a statistic is not finite."""
        out, good = np.full(len(states), np.nan), np.isfinite(states).all(1)
        if good.any():
            places = self._along(states[good])
            out[good] = -np.sum([k.score_samples(places[:, [i]]) for i, k in enumerate(self.kernels)], axis=0)
        return out

    def _along(self, states: NDArray[np.float64]) -> NDArray[np.float64]:
        return ((states - self.centre) / self.scale) @ self.axes

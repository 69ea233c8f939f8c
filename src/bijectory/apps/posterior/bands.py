r"""Simultaneous confidence bands for the empirical distribution function of numbers that should be uniform.

For :math:`N` uniform numbers the count below :math:`z` is binomial, :math:`N F(z) \sim \mathrm{Bin}(N, z)`. Pointwise
intervals of probability :math:`1 - \gamma` are all met at once with a smaller probability; :math:`\gamma` is set, by
simulation, so that this is :math:`1 - \alpha`: a curve that leaves the band anywhere is evidence at level :math:`\alpha`.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from bijectory.errors import ConfigError, DataError, check

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Uniformity:
    """How uniform some numbers in [0, 1] are.

    Attributes:
        z: Points ``(k,)`` at which the distribution function is compared.
        ecdf: The empirical distribution function there.
        low: Lower edge of the simultaneous band.
        high: Upper edge.
        inside: Whether the curve stays in the band.
        ks_p: p-value of the Kolmogorov-Smirnov test.
        level: Probability with which uniform numbers stay in the band.

    Example:
        >>> u = np.random.default_rng(0).random(500)
        >>> uniformity(u).inside, uniformity(u**2).inside
        (True, False)
    """

    z: Array
    ecdf: Array
    low: Array
    high: Array
    inside: bool
    ks_p: float
    level: float


def uniformity(u: Array, *, level: float = 0.95, points: int = 100, seed: int = 0) -> Uniformity:
    """Compare numbers with the uniform distribution.

    Args:
        u: ``(n,)`` numbers in [0, 1], continuous (ranks with their ties broken at random).
        level: Of the simultaneous band.
        points: Number of points, at most ``n``.
        seed: Of the simulation of the band.

    Raises:
        DataError: If there are fewer than 10 numbers or one lies outside [0, 1].

    References:
        Graphical Test for Discrete Uniformity and its Applications in Goodness of Fit Evaluation and Multiple Sample
        Comparison, Säilynoja, Bürkner, Vehtari 2021, arXiv:2103.10522, sec. 2.1, algorithm 1.

    Example:
        >>> uniformity(np.linspace(0.001, 0.999, 200)).ks_p > 0.99
        True
    """
    from scipy import stats

    u = np.asarray(u, dtype=np.float64)
    ok = len(u) >= 10 and bool(((u >= 0) & (u <= 1)).all())
    check(ok, DataError, f"uniformity needs at least 10 numbers in [0, 1], got {len(u)}.")
    n, k = len(u), min(points, len(u))
    z = np.arange(1, k) / k  # at 1 the count is n whatever the numbers
    gamma = band_level(n, k, level, seed)
    low, high = (stats.binom.ppf(q, n, z) / n for q in (gamma / 2, 1 - gamma / 2))
    ecdf = np.searchsorted(np.sort(u), z, side="right") / n
    inside = bool(((ecdf >= low) & (ecdf <= high)).all())
    return Uniformity(z, ecdf, low, high, inside, float(stats.kstest(u, "uniform").pvalue), level)


def band_level(n: int, k: int, level: float = 0.95, seed: int = 0, *, trials: int = 2000) -> float:
    r"""The :math:`\gamma` of pointwise intervals that ``n`` uniform numbers meet at ``k - 1`` points at once.

    Example:
        >>> 0 < band_level(100, 20) < 0.05
        True
    """
    from scipy import stats

    check(0 < level < 1, ConfigError, f"level must be in (0, 1), got {level}.")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(k, 1 / k), size=trials).cumsum(1)[:, :-1]  # of n uniform numbers below j / k
    z = np.arange(1, k) / k
    table = stats.binom.cdf(np.arange(-1, n + 1)[:, None], n, z)  # one row for each count, from -1
    below = np.take_along_axis(table, counts + 1, 0)
    above = 1 - np.take_along_axis(table, counts, 0)
    least = 2 * np.minimum(below, above).min(1)
    return float(np.quantile(least, 1 - level))

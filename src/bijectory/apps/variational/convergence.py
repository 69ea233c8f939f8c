r"""Have the chains converged, and what are their draws worth: rank-normalised split R-hat, bulk and tail ESS.

Every chain is cut into halves, the draws of all are replaced by normal scores of their ranks (so heavy tails do no harm),
and the variance between chains is compared with that within:

.. math:: \hat R = \sqrt{\frac{\frac{n-1}{n} W + \frac1n B}{W}}, \qquad
    S_\mathrm{eff} = \frac{m n}{-1 + 2\sum_t (\hat\rho_{2t} + \hat\rho_{2t+1})}.

R-hat is the larger of that of the draws and of their distances from the median. Bulk ESS is of the normal scores, tail ESS
the smaller one of the indicators of the 5 % and 95 % quantiles. Trust draws with R-hat below 1.01 and 400 of each.

References:
    Rank-Normalization, Folding, and Localization: An Improved R-hat, Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021,
    arXiv:1903.08008, eq. 3-14. Initial monotone sequence: Geyer 1992, Stat. Sci. 7(4).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, special, stats

from bijectory.errors import ShapeError, check

Array = NDArray[np.float64]
MIN_DRAWS = 4


def rhat(draws: ArrayLike) -> Array:
    """Rank-normalised split R-hat.

    Args:
        draws: ``(chains, draws, *shape)``.

    Returns:
        ``(*shape)``; NaN where a quantity does not vary.

    Raises:
        ShapeError: If there are fewer than four draws in a chain.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 1000))
        >>> bool(rhat(x) < 1.01), bool(rhat(x + np.arange(4)[:, None]) > 1.5)
        (True, True)
    """
    x = _split(_checked(draws))
    folded = np.abs(x - np.median(x, axis=(0, 1), keepdims=True))
    return np.maximum(_rhat(_scores(x)), _rhat(_scores(folded)))


def ess(draws: ArrayLike, kind: str = "bulk") -> Array:
    """Effective number of independent draws.

    Args:
        draws: ``(chains, draws, *shape)``.
        kind: "bulk", "tail" or "mean" (of the draws as they are: for the standard error of their mean).

    Returns:
        ``(*shape)``; NaN where a quantity does not vary.

    Raises:
        ShapeError: If there are fewer than four draws in a chain.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 1000))
        >>> bool(3000 < ess(x) < 5000), bool(ess(np.repeat(x, 10, 1)) < 5000)
        (True, True)
    """
    x = _checked(draws)
    if kind == "tail":
        low, high = np.quantile(x, [0.05, 0.95], axis=(0, 1))
        return np.minimum(_ess(_split((x <= low).astype(float))), _ess(_split((x <= high).astype(float))))
    return _ess(_split(x) if kind == "mean" else _scores(_split(x)))


def _checked(draws: ArrayLike) -> Array:
    x = np.asarray(draws, dtype=np.float64)
    enough = x.ndim >= 2 and x.shape[1] >= MIN_DRAWS
    check(enough, ShapeError, f"draws must be (chains, draws, ...) with at least {MIN_DRAWS} draws, got {x.shape}.")
    return x


def _split(x: Array) -> Array:
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def _scores(x: Array) -> Array:
    """Normal scores of the ranks over all chains, eq. 14."""
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    ranks = stats.rankdata(flat, axis=0)
    return np.asarray(special.ndtri((ranks - 0.375) / (len(flat) + 0.25))).reshape(x.shape)


def _variances(x: Array) -> tuple[Array, Array]:
    """Within-chain variance W and the estimate var+ of the marginal variance, eq. 1-3."""
    n = x.shape[1]
    within = x.var(1, ddof=1).mean(0)
    between = x.mean(1).var(0, ddof=1) if len(x) > 1 else np.zeros_like(within)
    return within, (n - 1) / n * within + between


def _rhat(x: Array) -> Array:
    within, total = _variances(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(total / within))


def _ess(x: Array) -> Array:
    """Eq. 10-13, with Geyer's initial positive and monotone sequence."""
    m, n = x.shape[:2]
    within, total = _variances(x)
    centred = x - x.mean(1, keepdims=True)
    size = fft.next_fast_len(2 * n)
    spectrum = np.abs(fft.rfft(centred, size, axis=1)) ** 2
    autocovariance = fft.irfft(spectrum, size, axis=1)[:, :n] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - autocovariance.mean(0) * n / (n - 1)) / total
    rho[0] = 1
    pairs = rho[0 : 2 * (n // 2) : 2] + rho[1 : 2 * (n // 2) : 2]
    positive = np.minimum.accumulate(pairs > 0, axis=0)
    pairs = np.where(positive, np.minimum.accumulate(pairs, axis=0), 0.0)
    tau = np.maximum(-1 + 2 * pairs.sum(0), 1 / np.log10(m * n))
    return np.asarray(np.where(total > 0, m * n / tau, np.nan))

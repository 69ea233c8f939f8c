"""From scores to p-values and decisions, with nothing assumed but exchangeable rows."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bijectory.errors import ConfigError, DataError, check


def conformal_p_values(held_out: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    r"""Share of held-out scores that are at least as large, the new row counted among them.

    .. math:: p = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

    Args:
        held_out: ``(n,)`` scores of rows that neither the flow nor the score was fitted to; larger is more abnormal.
        scores: ``(m,)`` scores of new rows; NaN gives NaN.

    Returns:
        ``(m,)``, between ``1 / (n + 1)`` and 1.

    Raises:
        DataError: If there is no held-out score, or one is NaN.

    References:
        Testing for Outliers with Conformal p-values, Bates, Candès, Lei, Romano, Sesia 2021, arXiv:2104.08279, eq. 3.

    Example:
        >>> conformal_p_values([1.0, 2.0, 3.0], [0.0, 2.0, 9.0])
        array([1.  , 0.75, 0.25])
    """
    known, new = np.sort(np.asarray(held_out, dtype=np.float64)), np.asarray(scores, dtype=np.float64)
    check(len(known) > 0, DataError, "there are no held-out scores; pass rows that the flow was not fitted to.")
    check(not np.isnan(known).any(), DataError, "held-out scores contain NaN; leave out rows with missing values.")
    p = (1 + len(known) - np.searchsorted(known, new, side="left")) / (len(known) + 1)
    return np.where(np.isnan(new), np.nan, p)


def benjamini_hochberg(p_values: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Rows to flag so that the expected share of false ones among those flagged is at most ``rate``.

    Conformal p-values of one held-out set depend on each other, in the way in which the procedure stays valid (Bates+ 2021,
    arXiv:2104.08279, theorem 2).

    Args:
        p_values: ``(m,)``; NaN is never flagged and does not count.
        rate: False discovery rate, in (0, 1).

    Raises:
        ConfigError: If the rate is outside (0, 1).

    References:
        Controlling the False Discovery Rate, Benjamini, Hochberg 1995, J. R. Stat. Soc. B 57.

    Example:
        >>> benjamini_hochberg([0.001, 0.02, 0.04, 0.9], 0.05)
        array([ True,  True, False, False])
    """
    check(0 < rate < 1, ConfigError, f"the false discovery rate must be in (0, 1), got {rate}.")
    p = np.asarray(p_values, dtype=np.float64)
    flagged, known = np.zeros(p.shape, dtype=bool), ~np.isnan(p)
    if known.any():
        flagged[known] = stats.false_discovery_control(p[known], method="bh") <= rate
    return flagged


def rows_needed(fpr: float) -> int:
    """Fewest held-out rows with which a p-value can be as small as ``fpr``: the smallest is ``1 / (n + 1)``.

    Args:
        fpr: Rate of false alarms, in (0, 1).

    Raises:
        ConfigError: If the rate is outside (0, 1).

    Example:
        >>> rows_needed(0.01), rows_needed(0.05)
        (99, 19)
    """
    check(0 < fpr < 1, ConfigError, f"fpr must be in (0, 1), got {fpr}.")
    return max(1, math.ceil(1 / fpr - 1e-9) - 1)


def false_alarm_rate(held_out: int, fpr: float, level: float = 0.9) -> tuple[float, float, float]:
    r"""Rate of false alarms that one set of held-out rows gives: its mean, and a central interval.

    Averaged over held-out sets the rate is :math:`k / (n + 1)` with :math:`k = \lfloor \alpha (n + 1) \rfloor`. Given one
    set it is the mass above an order statistic of the scores, Beta-distributed with parameters :math:`k` and
    :math:`n + 1 - k` (scores without ties). The interval says how far to trust the promise with so few rows.

    Args:
        held_out: Number n of held-out rows.
        fpr: Rate :math:`\alpha` that was asked for, in (0, 1).
        level: Mass of the interval.

    Returns:
        Mean, lower and upper end; zeros with fewer rows than ``rows_needed``.

    References:
        Testing for Outliers with Conformal p-values, Bates, Candès, Lei, Romano, Sesia 2021, arXiv:2104.08279, sec. 2.3.

    Example:
        >>> ["{:.4f}".format(rate) for rate in false_alarm_rate(999, 0.01)]
        ['0.0100', '0.0054', '0.0157']
        >>> ["{:.4f}".format(rate) for rate in false_alarm_rate(99, 0.01)]
        ['0.0100', '0.0005', '0.0298']
    """
    if held_out < rows_needed(fpr):
        return 0.0, 0.0, 0.0
    k = math.floor(fpr * (held_out + 1) + 1e-9)
    low, high = stats.beta(k, held_out + 1 - k).interval(level)
    return k / (held_out + 1), float(low), float(high)


def auroc(labels: ArrayLike, scores: ArrayLike, *, resamples: int = 200, seed: int = 0) -> tuple[float, float]:
    """Chance that an anomaly has a larger score than an ordinary row (ties count half), with its bootstrap standard error.

    Args:
        labels: ``(n,)`` 1 or True for anomalies, 0 or False for ordinary rows.
        scores: ``(n,)``; larger is more abnormal. Infinite scores are ranked, NaN is left out.
        resamples: Number of bootstrap samples, each drawn from anomalies and ordinary rows apart.
        seed: Seed of these.

    Raises:
        DataError: If there are not both kinds of rows.

    Example:
        >>> auroc([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.25, np.inf])[0]
        0.8333333333333334
    """
    s, odd = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    check(s.shape == odd.shape, DataError, f"labels have shape {odd.shape}, scores {s.shape}; give one for each row.")
    strange, ordinary = s[odd & ~np.isnan(s)], s[~odd & ~np.isnan(s)]
    both = len(strange) > 0 and len(ordinary) > 0
    check(both, DataError, "labels name one kind of rows only; an ROC needs ordinary rows (0) and anomalies (1).")
    rng = np.random.default_rng(seed)
    drawn = [_area(rng.choice(strange, len(strange)), rng.choice(ordinary, len(ordinary))) for _ in range(resamples)]
    return _area(strange, ordinary), float(np.std(drawn, ddof=1)) if resamples > 1 else math.nan


def _area(strange: NDArray[np.float64], ordinary: NDArray[np.float64]) -> float:
    known = np.sort(ordinary)
    below = np.searchsorted(known, strange, side="left") + np.searchsorted(known, strange, side="right")
    return float(below.mean() / (2 * len(known)))

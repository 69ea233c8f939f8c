"""From scores to p-values and decisions, with nothing assumed but exchangeable rows."""

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

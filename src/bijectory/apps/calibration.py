r"""Is a predictive distribution right? Scores and calibration from probabilities, quantiles and draws.

The *probability integral transform* :math:`F(y \mid x)` is uniform where the predictive distribution is right; intervals of
level :math:`\alpha` then hold :math:`\alpha` of the outcomes. The *continuous ranked probability score*

.. math:: \operatorname{CRPS}(F, y) = \int (F(t) - 1\{y \le t\})^2\, dt = E|Y - y| - \tfrac12 E|Y - Y'|
    = 2 \int_0^1 (1\{y < F^{-1}(u)\} - u)(F^{-1}(u) - y)\, du

is in the units of the outcome, lower is better, and is smallest in the mean for the true distribution.

References:
    Strictly Proper Scoring Rules, Prediction, and Estimation, Gneiting, Raftery 2007, JASA 102(477), eqs. 20 and 21.
    Probabilistic forecasts, calibration and sharpness, Gneiting, Balabdaoui, Raftery 2007, JRSS B 69(2).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from bijectory.errors import ConfigError, DataError, check

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.8, 0.9, 0.95, 0.99)
SUSPECT = 1e-3  # a Kolmogorov-Smirnov p-value below this speaks against the model


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Nominal against empirical coverage of central intervals, and a test of the PIT.

    Attributes:
        table: One row for each output and level: the part of outcomes inside, ``low`` and ``high`` of its 95 % interval
            (Clopper and Pearson), and ``ok``: whether that holds the level.
        statistic: For each output the Kolmogorov-Smirnov distance of the PIT from uniform.
        p_value: For each output its p-value; exact only for rows that ``fit`` has not seen.
        rows: Number of outcomes.

    Example:
        >>> found = calibration_of(np.linspace(0.0, 1.0, 101)[:, None], ["y"], levels=[0.5])
        >>> found.table.round(3).values.tolist(), found.ok
        ([['y', 0.5, 0.505, 0.404, 0.606, True]], True)
    """

    table: pd.DataFrame
    statistic: dict[str, float]
    p_value: dict[str, float]
    rows: int

    @property
    def ok(self) -> bool:
        """Whether no PIT is significantly far from uniform (p above 0.001)."""
        return min(self.p_value.values()) > SUSPECT

    def __str__(self) -> str:
        tests = [f"{k}: KS distance {self.statistic[k]:.3f}, p = {self.p_value[k]:.2g}" for k in self.p_value]
        return "\n".join([self.table.round(3).to_string(index=False), *tests])


def calibration_of(pit: np.ndarray, outputs: Sequence[str], *, levels: Sequence[float] = LEVELS) -> Calibration:
    """Coverage and uniformity from PIT values.

    Args:
        pit: ``(n, outputs)`` in [0, 1].
        outputs: Their names.
        levels: Nominal levels in (0, 1).

    Raises:
        ConfigError: If a level is not in (0, 1).
        DataError: If there are no rows.
    """
    check(len(pit) > 0, DataError, "calibration needs at least one row.")
    wanted = [probability(level, "levels") for level in levels]
    rows, statistic, p_value = [], {}, {}
    for k, name in enumerate(outputs):
        for level in wanted:
            inside = int((np.abs(pit[:, k] - 0.5) <= level / 2).sum())
            ends = stats.binomtest(inside, len(pit)).proportion_ci(0.95)
            held = bool(ends.low <= level <= ends.high)
            rows.append((name, level, inside / len(pit), float(ends.low), float(ends.high), held))
        test = stats.kstest(pit[:, k], "uniform")
        statistic[name], p_value[name] = float(test.statistic), float(test.pvalue)
    table = pd.DataFrame(rows, columns=["output", "level", "coverage", "low", "high", "ok"])
    return Calibration(table, statistic, p_value, len(pit))


def crps_of_draws(draws: np.ndarray, y: np.ndarray) -> np.ndarray:
    r"""CRPS from independent draws, without bias: :math:`\frac1m \sum |Y_i - y| - \frac1{2m(m-1)} \sum_{ij} |Y_i - Y_j|`.

    Args:
        draws: ``(..., m)``, at least 2.
        y: ``(...)`` outcomes.

    Example:
        >>> crps_of_draws(np.array([[0.0, 2.0]]), np.array([1.0]))
        array([0.])
    """
    m = draws.shape[-1]
    check(m >= 2, ConfigError, f"the CRPS needs at least 2 draws, got {m}.")
    # the sum over pairs of sorted values: the i-th of m is the larger one i times and the smaller one m - 1 - i times
    pairs = (np.sort(draws, axis=-1) * (2 * np.arange(m) - m + 1)).sum(-1)
    return np.abs(draws - y[..., None]).mean(-1) - pairs / (m * (m - 1))


def crps_of_quantiles(quantiles: np.ndarray, y: np.ndarray, u: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """CRPS by quadrature over probabilities.

    Args:
        quantiles: ``(..., k)`` quantiles at the nodes.
        y: ``(...)`` outcomes.
        u: ``(k,)`` probabilities of the nodes.
        weight: ``(k,)`` weights of the quadrature, sum 1.

    Example:
        >>> u = (np.arange(1000) + 0.5) / 1000  # the uniform distribution, outcome 0: the integral of (1 - t)^2 is 1/3
        >>> crps_of_quantiles(u[None], np.array([0.0]), u, np.full(1000, 1e-3)).round(4)
        array([0.3333])
    """
    gap = quantiles - y[..., None]
    return 2 * (((gap > 0) - u) * gap * weight).sum(-1)


def conformal_radius(scores: np.ndarray, level: float) -> np.ndarray:
    r"""The :math:`\lceil (n+1)\alpha \rceil`-th smallest score, ``(n, outputs) -> (outputs,)``; inf if there is none.

    A new score, exchangeable with these, is at most that with probability at least :math:`\alpha`.

    Example:
        >>> conformal_radius(np.arange(1.0, 20.0)[:, None], 0.9), conformal_radius(np.arange(1.0, 6.0)[:, None], 0.9)
        (array([18.]), array([inf]))
    """
    n = len(scores)
    rank = int(np.ceil((n + 1) * level - 1e-9))
    return np.full(scores.shape[1], np.inf) if rank > n else np.sort(scores, axis=0)[rank - 1]


def probability(value: float, name: str) -> float:
    """A number in (0, 1), or an error that names it."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be in (0, 1), got {value!r}.") from None
    check(0 < found < 1, ConfigError, f"{name} must be in (0, 1), got {value!r}; 90 % is 0.9.")
    return found

r"""Data units to standardised units and back, in float64, as ordinary transforms whose log-determinants are counted.

For every column :math:`z = (u((x - m)/w) - \mu)/\sigma`, where :math:`u` is the identity, the logit (bounded columns), the
logarithm (positive) or arsinh (heavy tails). Subtracting first and in float64 keeps the digits of columns such as
1.7e9 ± 1e3, which float32 would lose; the flow on top may then be trained in float32.
"""

from collections.abc import Sequence

import numpy as np
import torch

from bijectory.bijections import Arcsinh, Bijection, Log, Logit
from bijectory.errors import DataError, check
from bijectory.tables.schema import Column
from bijectory.transforms import Chain, Elementwise, Partition, Standardize, Transform

SMALLEST = 1e-150  # its square is still a number of float64
HEAVY = 30.0  # so many robust deviations from the median make a tail heavy
FAMILIES: dict[str, Bijection] = {"bounded": Logit(), "positive": Log(), "heavy": Arcsinh()}


def preprocess(columns: Sequence[Column]) -> Chain:
    """The transform from data units to standardised units for these columns, float64.

    Example:
        >>> prep = preprocess([Column(name="a", loc=1.7e9, scale=1e3), Column(name="b", kind="positive", low=0.0)])
        >>> z, ladj = prep(torch.tensor([1.7e9 + 1e3, 1.0], dtype=torch.float64))
        >>> z.tolist(), round(ladj.item(), 4)
        ([1.0, 0.0], -6.9078)
    """
    layers = unconstrain(columns)
    layers.append(Standardize(len(columns), _vector([c.loc for c in columns]), _vector([c.scale for c in columns])))
    return Chain(*layers).double()


def unconstrain(columns: Sequence[Column]) -> list[Transform]:
    """The first half of ``preprocess``: onto the whole real line; nothing at all for plain numeric columns."""
    if all(c.kind == "numeric" for c in columns):
        return []
    groups, parts = [], []
    for kind in dict.fromkeys(c.kind for c in columns):
        group = [k for k, c in enumerate(columns) if c.kind == kind]
        groups.append(group)
        parts.append(Elementwise(FAMILIES[kind], len(group)) if kind in FAMILIES else Chain())
    inner = Standardize(len(columns), _vector([c.centre for c in columns]), _vector([c.spread for c in columns]))
    return [inner, Partition(*parts, groups=groups)]


def measure(column: Column, x: np.ndarray, weight: np.ndarray | None = None, *, heavy: bool = True) -> Column:
    """Set ``centre``, ``spread``, ``loc`` and ``scale`` of a column from its training rows.

    Args:
        column: A column that is not constant.
        x: ``(n,)`` values.
        weight: ``(n,)`` weights or None.
        heavy: Turn a numeric column with extreme values into a heavy one.
    """
    if column.step is not None:
        x = x + 0.5 * column.step  # the middle of the cell that noise will fill
    low, high = column.support
    if column.kind == "bounded":
        column = column.model_copy(update={"centre": low, "spread": high - low})
    elif column.kind == "positive":
        column = column.model_copy(update={"centre": low})
    else:
        centre, spread = _robust(x, weight)
        extreme = heavy and spread > 0 and np.abs(x - centre).max() > HEAVY * spread
        if column.kind == "heavy" or extreme:
            spread = spread or float(np.abs(x - centre).mean())
            column = column.model_copy(update={"kind": "heavy", "centre": centre, "spread": spread})
    if column.kind == "numeric":
        loc, scale = _moments(x, weight)
    else:
        rows = torch.from_numpy(column.inside(x)[:, None])
        loc, scale = _moments(Chain(*unconstrain([column])).double()(rows)[0][:, 0].numpy(), weight)
    size = np.abs(x).max()
    large = f"column {column.name!r} holds {size:.3g}, too large to square in float64; divide it by a power of ten."
    check(bool(np.isfinite(scale)), DataError, large)
    remedy = "subtract an offset first" if size > SMALLEST else "multiply it by a power of ten first"
    check(
        column.kind != "numeric" or scale > 2 * np.spacing(size),
        DataError,
        f"column {column.name!r} varies by {scale:.3g} around {loc:.17g}, which float64 cannot resolve; {remedy}.",
    )
    return column.model_copy(update={"loc": loc, "scale": scale if scale > 0 else 1.0})


def noise_rows(columns: Sequence[Column], rows: int, seed: int) -> np.ndarray:
    """Uniform positions in [0, 1) within the cells of dequantized columns, ``(rows, columns)``; a half elsewhere."""
    rng = np.random.default_rng(seed)
    out = np.full((rows, len(columns)), 0.5)
    for k, column in enumerate(columns):
        if column.step is not None:
            out[:, k] = rng.random(rows)
    return out


def _moments(x: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    anchor = x[0]  # differences are exact where the squares of large values are not
    mean = float(np.average(x - anchor, weights=weight))
    with np.errstate(over="ignore"):  # an infinite spread is refused in words
        variance = float(np.average((x - anchor - mean) ** 2, weights=weight))
    return float(anchor + mean), float(np.sqrt(variance))


def weighted_quantile(x: np.ndarray, q: float, weight: np.ndarray | None = None) -> float:
    """Quantile in which a weight of 2 counts as the value twice: the middle of the step where the sum passes ``q``."""
    order = np.argsort(x, kind="stable")
    total = np.cumsum(np.ones(len(x)) if weight is None else weight[order])
    goal = q * total[-1]
    k = int(np.searchsorted(total, goal * (1 - 1e-12)))
    k = min(k, len(x) - 1)
    upper = min(k + 1, len(x) - 1) if abs(total[k] - goal) <= 1e-9 * total[-1] else k
    return float((x[order[k]] + x[order[upper]]) / 2)


def _robust(x: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Median and interquartile range divided by that of a standard normal, 1.349."""
    q1, q2, q3 = (weighted_quantile(x, q, weight) for q in (0.25, 0.5, 0.75))
    return q2, (q3 - q1) / 1.349


def _vector(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)

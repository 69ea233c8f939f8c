r"""Which column makes a row improbable, and which value would fit.

The contribution of column :math:`j` is the *deficit* of its value given all others,

.. math:: \Delta_j(x) = \max_v \log p(x_{-j}, v) - \log p(x) = \max_v \log p(v \mid x_{-j}) - \log p(x_j \mid x_{-j}) \ge 0,

the nats that the row would gain if this one column were repaired as well as possible. It does not depend on the units of
the column, it looks at the columns together (a value may be ordinary by itself and impossible beside its neighbours), and
the maximising value says what was expected. The values that are tried are 32 quantiles of the column among held-out rows,
then 16 between the neighbours of the best.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from bijectory.apps.table_flow import TableFlow
from bijectory.tables import Column, to_matrix

QUANTILES, BETWEEN = 32, 16


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What each column contributes to each row's being improbable; rows and columns are those of the table.

    Attributes:
        nats: Deficits, at least 0; infinite where the value is impossible whatever the others are.
        repairs: The value of each column that would fit the others of its row best.

    Example:
        >>> nats, repairs = pd.DataFrame({"a": [0.1], "b": [7.0]}), pd.DataFrame({"a": [1.0], "b": [2.5]})
        >>> Explanation(nats, repairs).text()
        ['b (7.0 nats; expected about 2.5), a (0.1 nats; expected about 1)']
    """

    nats: pd.DataFrame
    repairs: pd.DataFrame

    def ranking(self) -> pd.DataFrame:
        """Column names of each row, the largest contribution first."""
        order = np.argsort(-np.nan_to_num(self.nats.to_numpy(), nan=-1.0), axis=1, kind="stable")
        return pd.DataFrame(self.nats.columns.to_numpy()[order], index=self.nats.index)

    def text(self, columns: int = 3) -> list[str]:
        """For each row the columns that contribute most, with their nats and the values expected."""
        out = []
        pairs = zip(self.nats.to_dict("records"), self.repairs.to_dict("records"), strict=True)
        for names, (nats, repairs) in zip(self.ranking().to_numpy(), pairs, strict=True):
            known = [n for n in names[:columns] if not np.isnan(nats[n])]
            out.append(", ".join(f"{n} ({nats[n]:.1f} nats; expected about {repairs[n]:.4g})" for n in known))
        return out


def explain_rows(model: TableFlow, data: Any, reference: Any) -> Explanation:
    """Deficit of every modelled column of every row, see the module.

    Costs 48 evaluations of the density for each cell; pass the rows in question, not the whole table.

    Args:
        model: The density.
        data: Rows to explain; missing values give NaN in their row.
        reference: Ordinary rows, whose values are tried.
    """
    frame = model.schema.frame(data)
    columns = [*model.schema.targets, *model.schema.constants]
    columns = [c for c in model.schema.columns if c in columns]
    names = [c.name for c in columns]
    values, ordinary = to_matrix(frame, names), to_matrix(model.schema.frame(reference), names)
    impossible = np.stack([_impossible(c, values[:, k]) for k, c in enumerate(columns)], axis=1)
    middle = [float(np.median(ordinary[:, k]) if c.value is None else c.value) for k, c in enumerate(columns)]
    # An impossible cell would hide what the other columns contribute: these are judged beside an ordinary value.
    settled = frame.assign(**{n: np.where(impossible[:, k], middle[k], values[:, k]) for k, n in enumerate(names)})
    before = model.score_samples(settled, nonfinite="propagate")
    nats, repairs = np.zeros(values.shape), np.empty(values.shape)
    for k, column in enumerate(columns):
        if column.kind == "constant":
            repairs[:, k], after = middle[k], before
        else:
            repairs[:, k], after = _best(model, settled, column, ordinary[:, k])
        gain = np.maximum(after - before, 0.0)
        nats[:, k] = np.where(impossible[:, k], np.inf, gain)
    nats[np.isnan(before)] = repairs[np.isnan(before)] = np.nan
    index = frame.index
    return Explanation(pd.DataFrame(nats, index, names), pd.DataFrame(repairs, index, names))


def _best(model: TableFlow, frame: pd.DataFrame, column: Column, ordinary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value of a column that makes each row likeliest, and the log-likelihood with it."""
    grid = np.unique(np.quantile(ordinary, (np.arange(QUANTILES) + 0.5) / QUANTILES, method="nearest"))
    tried = np.broadcast_to(grid, (len(frame), len(grid)))
    scores = _scores(model, frame, column.name, tried)
    place = scores.argmax(1)
    if column.step is None and len(grid) > 2:
        low, high = grid[np.maximum(place - 1, 0)], grid[np.minimum(place + 1, len(grid) - 1)]
        between = low[:, None] + (high - low)[:, None] * (np.arange(BETWEEN) + 0.5) / BETWEEN
        tried = np.concatenate([tried, between], axis=1)
        scores = np.concatenate([scores, _scores(model, frame, column.name, between)], axis=1)
        place = scores.argmax(1)
    rows = np.arange(len(frame))
    return tried[rows, place], scores[rows, place]


def _scores(model: TableFlow, frame: pd.DataFrame, name: str, tried: np.ndarray) -> np.ndarray:
    many = frame.iloc[np.repeat(np.arange(len(frame)), tried.shape[1])]
    scores = model.score_samples(many.assign(**{name: tried.ravel()}), nonfinite="propagate")
    return np.nan_to_num(scores.reshape(tried.shape), nan=-np.inf)


def _impossible(column: Column, x: np.ndarray) -> np.ndarray:
    return (x != column.value) & ~np.isnan(x) if column.kind == "constant" else np.isinf(x) | column.outside(x)

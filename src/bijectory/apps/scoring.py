"""Scoring a file of any size: read, scored and written in parts, so that memory does not grow with the rows."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from bijectory.apps.table_flow import TableFlow
from bijectory.tables import read_parts, write_parts
from bijectory.tables.schema import NonFinite
from bijectory.tables.stream import PART_BYTES


@dataclasses.dataclass
class FileScores:
    """Log-likelihoods of a file in sum.

    Attributes:
        rows: Number of rows.
        mean_log_prob: Their mean in nats; rows without an answer (NaN) are left out. NaN if there is none.
        bits_per_dimension: The mean as a code length, for each column of the flow.
        lowest_row: Number of the row with the lowest log-likelihood (the first of several), None if there is none.
    """

    rows: int = 0
    mean_log_prob: float = math.nan
    bits_per_dimension: float = math.nan
    lowest_row: int | None = None


def score_file(
    model: TableFlow,
    path: str | Path,
    out: Path | None = None,
    *,
    write: bool = True,
    nonfinite: NonFinite = "raise",
    part_bytes: int = PART_BYTES,
) -> FileScores:
    """Score the rows of a file and write them with a column ``log_prob``, in bounded memory.

    Tables of ``.npy`` and Parquet are read in parts whatever their size, CSV too; see ``read_parts``. ``out`` takes its
    name only when it is complete.

    Args:
        model: The density.
        path: CSV, Parquet, ``.npy`` or ``.npz``.
        out: CSV or Parquet file; None for CSV on stdout.
        write: False only sums up.
        nonfinite: As in ``TableFlow.score_samples``.
        part_bytes: About the bytes of a part.

    Raises:
        NonFiniteError, DomainError, DataError: When the row is reached; what is on stdout by then stays there.

    Example:
        >>> import tempfile
        >>> from bijectory import Flow, Schema, Standardize, StandardNormal
        >>> from bijectory.tables import Column
        >>> path = Path(tempfile.mkdtemp()) / "x.npy"
        >>> np.save(path, np.array([[3.0], [5.0]]))
        >>> flow = Flow(Standardize(1, [3.0], [2.0]), StandardNormal(1)).double()
        >>> found = score_file(TableFlow(flow, Schema(columns=(Column(name="x0"),), rows=2)), path, write=False)
        >>> found.rows, round(found.mean_log_prob, 4), found.lowest_row
        (2, -1.8621, 1)
    """
    found = FileScores()
    total, counted, lowest = 0.0, 0, math.inf

    def scored() -> Iterator[pd.DataFrame]:
        nonlocal total, counted, lowest
        for part in model.score_parts(read_parts(path, part_bytes=part_bytes), nonfinite=nonfinite):
            scores = part["log_prob"].to_numpy()
            known = ~np.isnan(scores)
            total, counted = total + float(scores[known].sum()), counted + int(known.sum())
            if known.any():
                k = int(np.nanargmin(scores))
                if scores[k] < lowest or found.lowest_row is None:
                    lowest, found.lowest_row = float(scores[k]), found.rows + k
            found.rows += len(part)
            yield part

    if write:
        write_parts(scored(), out)
    else:
        for _ in scored():
            pass
    if counted:
        found.mean_log_prob = total / counted
        found.bits_per_dimension = -found.mean_log_prob / max(len(model.schema.targets), 1) / math.log(2)
    return found

"""Whatever holds a table into a pandas frame, and its columns into numbers."""

import difflib
from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from bijectory.errors import DataError, check


class DataWarning(UserWarning):
    """Something about the data that the user should know; also recorded in ``Schema.notes``.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", DataWarning)  # silences these and no others
    """


def to_frame(data: Any) -> pd.DataFrame:
    """Turn a pandas or polars frame (anything narwhals knows), a 2-D array or a mapping of columns into a pandas frame.

    Raises:
        DataError: If it is not a table, or column names repeat.
    """
    if isinstance(data, pd.DataFrame):
        frame = data
    elif isinstance(data, dict):
        try:
            frame = pd.DataFrame({k: np.atleast_1d(v) for k, v in data.items()})
        except ValueError:
            lengths = {k: np.size(v) for k, v in data.items()}
            raise DataError(f"the columns have different lengths {lengths}; give each as many values.") from None
    elif isinstance(data, (np.ndarray, list, tuple)) or (hasattr(data, "__array__") and not hasattr(data, "columns")):
        array = np.asarray(data)
        check(
            array.ndim == 2,
            DataError,
            f"expected a table (rows, columns), got shape {array.shape}; use x[:, None] or x[None].",
        )
        frame = pd.DataFrame(array, columns=generated_names(array.shape[1]), copy=False)
    else:
        try:
            native = nw.from_native(data)
            frame = (native.collect() if isinstance(native, nw.LazyFrame) else native).to_pandas()
        except (TypeError, ModuleNotFoundError):
            raise DataError(f"expected a data frame or a 2-D array, got {type(data).__name__}.") from None
    names = [str(name) for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    check(not repeated, DataError, f"column names repeat: {listing(repeated)}; rename them so that each is unique.")
    return frame if list(frame.columns) == names else frame.set_axis(names, axis=1)


def to_matrix(frame: pd.DataFrame, columns: Iterable[str] | None = None) -> np.ndarray:
    """The numbers of some columns as float64 ``(rows, columns)``.

    Raises:
        DataError: If a column is missing or is not numeric; the column, the row and the value are named.
    """
    names = list(frame.columns if columns is None else columns)
    check_columns(frame, names)
    out = np.empty((len(frame), len(names)), order="F")
    for k, name in enumerate(names):
        out[:, k] = _numbers(frame[name], name)
    return out


def check_columns(frame: pd.DataFrame, names: Iterable[str], purpose: str = "") -> None:
    """Check that columns exist; the message offers the nearest names."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], list(frame.columns), n=2, cutoff=0.6)
        hint = f"did you mean {listing(near)}?" if near else f"the table has {listing(frame.columns)}."
        plural = "s" if len(missing) > 1 else ""
        verb = "are" if plural else "is"
        raise DataError(f"there {verb} no column{plural} {listing(missing)}{purpose and f' ({purpose})'}; {hint}")


def generated_names(count: int) -> list[str]:
    """Names for columns without one: ``x0, x1, ...`` as in scikit-learn."""
    return [f"x{i}" for i in range(count)]


def _numbers(series: pd.Series, name: str) -> np.ndarray:
    kind = series.dtype.kind if isinstance(series.dtype, np.dtype) else getattr(series.dtype, "kind", "O")
    if kind in "biuf":
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind in "mM":
        raise DataError(
            f"column {name!r} holds dates or times; turn it into numbers (seconds, say) or drop it (--drop {name})."
        )
    check(kind != "c", DataError, f"column {name!r} holds complex data; split it into real and imaginary parts.")
    values = pd.to_numeric(series, errors="coerce")
    text = values.isna() & ~series.isna()
    if text.any():
        row = int(np.flatnonzero(text.to_numpy())[0])
        raise DataError(
            f"column {name!r} is text (row {row}: {str(series.iloc[row])[:40]!r}); drop it (--drop {name}) or encode it "
            "as numbers."
        )
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def listing(names: Iterable[str], limit: int = 8) -> str:
    """Names, quoted, at most ``limit`` of them."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more

"""Files into a pandas frame; every refusal names the file and the remedy."""

import contextlib
import csv
import dataclasses
import difflib
import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bijectory.errors import DataError, check
from bijectory.tables.frame import DataWarning, generated_names, listing, to_frame

SNIFF = 1 << 16  # bytes looked at before a CSV file is parsed
PARQUET = (".parquet", ".pq")
DELIMITERS = (",", ";", "\t", "|")


def read_table(path: str | Path, *, sep: str | None = None) -> pd.DataFrame:
    r"""Read a table from CSV (also ``.gz``), Parquet, ``.npy`` or ``.npz``.

    CSV: the delimiter (comma, semicolon, tab, bar), decimal commas beside semicolons, and the presence of a header are
    found from the first lines; without a header the columns are called ``x0, x1, ...``. Text columns are read and refused
    later, only where they are used.

    Args:
        path: The file.
        sep: Delimiter of a CSV file; None to find it.

    Raises:
        DataError: If the file is missing, empty, a folder, not a table, or has repeated column names.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> _ = path.write_text("a;b\n1,5;2\n")
        >>> read_table(path).to_dict("list")
        {'a': [1.5], 'b': [2]}
    """
    path = Path(path)
    with opened(path):
        suffix = path.suffix.lower()
        if suffix in PARQUET:
            frame = _read_parquet(path)
        elif suffix in (".npy", ".npz"):
            frame = _read_numpy(path)
        else:
            frame = _read_csv(path, sep)
    check(len(frame) > 0, DataError, f"{path} has {frame.shape[1]} columns but no rows; add at least two rows.")
    return to_frame(frame)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[None]:
    """Check that there is a file that is not empty; what the system refuses while it is read is one sentence."""
    if not path.exists():
        raise DataError(f"there is no file {path}; {_nearest(path)}")
    check(not path.is_dir(), DataError, f"{path} is a folder; pass a file in it (.csv, .csv.gz, .parquet, .npy, .npz).")
    try:
        check(path.stat().st_size > 0, DataError, f"{path} is empty (0 bytes); write a header and rows into it.")
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the file and its permissions."
        ) from None


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise DataError(
            f"{path} is Parquet, which needs pyarrow; pip install 'bijectory[data]', or convert it to CSV."
        ) from None
    except OSError:
        raise
    except Exception as error:  # pyarrow has its own family of errors
        raise damaged_parquet(path, error) from None


def damaged_parquet(path: Path, error: Exception) -> DataError:
    """Say in one sentence what pyarrow says in many."""
    return DataError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0][:120]}).")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy file, one called "array" of a ``.npy``; no pickle is ever opened.

    Raises:
        DataError: If the file is no such file, or holds anything but plain arrays.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"array": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(
            f"{path} is not a readable NumPy file ({str(error)[:120]}); save a plain numeric array."
        ) from None
    foreign = [
        name for name, array in arrays.items() if not isinstance(array, np.ndarray)
    ]  # NumPy hands over the bytes
    check(not foreign, DataError, f"{path} is not a readable NumPy file: {foreign[:1]} is no array; save plain arrays.")
    return arrays


def _read_numpy(path: Path) -> pd.DataFrame:
    arrays = read_arrays(path)
    if len(arrays) > 1 and len({a.shape for a in arrays.values()}) == 1 and all(a.ndim == 1 for a in arrays.values()):
        return pd.DataFrame(arrays)
    shapes = ", ".join(f"{k}: {a.shape}" for k, a in arrays.items())
    ok = len(arrays) == 1 and next(iter(arrays.values())).ndim == 2
    check(
        ok,
        DataError,
        f"{path} holds {shapes}; expected one array (rows, columns), or 1-D arrays of one length as columns.",
    )
    return to_frame(next(iter(arrays.values())))


def _read_csv(path: Path, sep: str | None) -> pd.DataFrame:
    layout = csv_layout(path, sep)
    with layout.reading():
        frame = pd.read_csv(path, **layout.options)
    return layout.tidy(frame)


@dataclasses.dataclass(frozen=True)
class CsvLayout:
    """How a CSV file is written, found from its first lines.

    Attributes:
        path: The file.
        options: What ``pandas.read_csv`` is told.
        first: The fields of the first line.
        header: Whether they are names.
    """

    path: Path
    options: dict[str, Any]
    first: list[str]
    header: bool

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what pandas raises into one sentence."""
        try:
            with warnings.catch_warnings():
                # pandas reads by chunks and warns where a column mixes numbers and text; that text is refused by name later.
                warnings.simplefilter("ignore", pd.errors.DtypeWarning)
                yield
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path} is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start}); convert it: "
                f"iconv -f latin1 -t utf-8 {self.path.name} > new.csv."
            ) from None
        except (pd.errors.ParserError, pd.errors.ParserWarning, EOFError, gzip.BadGzipFile) as error:
            reason = str(error).replace("Error tokenizing data. C error: ", "").strip()
            fields, sep = len(self.first), self.options["sep"]
            raise DataError(
                f"{self.path} is not a regular table: {reason}; every line needs {fields} fields ({sep!r} between)."
            ) from None

    def tidy(self, frame: pd.DataFrame, start: int = 0) -> pd.DataFrame:
        """Name the columns, and drop row numbers, of the rows from number ``start`` on."""
        if not self.header:
            return frame.set_axis(generated_names(frame.shape[1]), axis=1)
        frame.columns = [str(name).strip() for name in frame.columns]
        return _without_index(frame, self.first, self.path, start)


def csv_layout(path: Path, sep: str | None = None) -> CsvLayout:
    """Find delimiter, decimal sign, encoding, compression and header of a CSV file.

    Raises:
        DataError: If it is no CSV file, or names repeat.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    try:
        with opener(path, "rb") as file:
            head = file.read(SNIFF)
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile):
        raise DataError(f"{path} is a damaged gzip file; copy or compress it again.") from None
    check(head.strip() != b"", DataError, f"{path} is empty; write a header and rows into it.")
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    check(
        encoding == "utf-16" or b"\0" not in head,
        DataError,
        f"{path} is a binary file, not a table; expected CSV, Parquet (.parquet) or NumPy (.npy, .npz).",
    )
    lines = [line for line in head.decode(encoding, errors="replace").splitlines() if line.strip()]
    if len(head) == SNIFF and len(lines) > 1:
        lines.pop()  # cut in the middle
    sep = sep or _delimiter(lines)
    first = next(csv.reader(io.StringIO(lines[0]), delimiter=sep))
    header = not all(_is_number(cell) for cell in first)
    if header:
        cells = [cell.strip() for cell in first]
        repeated = sorted({cell for cell in cells if cell and cells.count(cell) > 1})
        check(
            not repeated,
            DataError,
            f"{path}: column names repeat: {listing(repeated)}; rename them in the first line.",
        )
    decimal = "," if sep == ";" and re.search(r"(?:^|;)\s*-?\d+,\d+\s*(?:;|$)", "\n".join(lines), re.M) else "."
    options = {"sep": sep, "header": 0 if header else None, "decimal": decimal, "encoding": encoding}
    options |= {"compression": "gzip" if packed else None, "skipinitialspace": True, "index_col": False}
    return CsvLayout(path, options, first, header)


def _without_index(frame: pd.DataFrame, first: list[str], path: Path, start: int) -> pd.DataFrame:
    """Drop the unnamed row numbers that data frames write when saved with their index."""
    unnamed = not first[0].strip() and frame.shape[1] > 1
    count = np.arange(start, start + len(frame))
    if unnamed and np.array_equal(pd.to_numeric(frame.iloc[:, 0], errors="coerce"), count):
        if start == 0:
            message = f"{path}: the first column has no name and counts the rows; it is left out."
            warnings.warn(message, DataWarning, stacklevel=5)
        return frame.iloc[:, 1:]
    return frame


def _delimiter(lines: list[str]) -> str:
    """The delimiter with the most fields among those that give every line the same number."""
    best, fields = ",", 1
    for candidate in DELIMITERS:
        counts = {len(row) for row in csv.reader(lines[:50], delimiter=candidate)}
        if len(counts) == 1 and (count := counts.pop()) > fields:
            best, fields = candidate, count
    if fields == 1:  # ragged lines: take what the first line shows; the parser names the line that does not fit
        best = max(DELIMITERS, key=lines[0].count)
    return best


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either."
    near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=1)
    return f"did you mean {path.parent / near[0]}?" if near else f"check the path (current folder: {Path.cwd()})."

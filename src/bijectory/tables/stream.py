"""Tables in parts: files larger than memory are read, and written, a bounded number of bytes at a time."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bijectory.errors import ConfigError, DataError, check
from bijectory.io.fs import rename, temporary
from bijectory.tables.frame import to_frame
from bijectory.tables.read import PARQUET, csv_layout, damaged_parquet, opened, read_table

PART_BYTES = 1 << 24  # numbers held of one part; CSV text and copies on the way take a few times as much


def read_parts(
    path: str | Path, *, sep: str | None = None, part_bytes: int = PART_BYTES, rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Read a table in consecutive parts: the same rows and columns as ``read_table``, in bounded memory.

    CSV is parsed in parts, ``.npy`` is mapped, Parquet is read by row groups; ``.npz`` and ``.npy`` without two dimensions
    are read whole. Each part is numbered from its first row on. What pandas infers from all rows of a CSV file, it infers
    here from those of a part: a column may be whole numbers in one and floating in the next.

    Args:
        path: The file.
        sep: Delimiter of a CSV file; None to find it.
        part_bytes: Bytes of a part, with 8 to a number.
        rows: Rows of a part, instead.

    Raises:
        DataError: As ``read_table`` does, or later, where a part cannot be read.
        ConfigError: If a part were to hold nothing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x.npy"
        >>> np.save(path, np.arange(6.0).reshape(3, 2))
        >>> [part.index.tolist() for part in read_parts(path, rows=2)]
        [[0, 1], [2]]
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    check(part_bytes > 0 and (rows is None or rows > 0), ConfigError, "part_bytes and rows must be positive.")

    def size(columns: int) -> int:
        return rows or max(1, part_bytes // (8 * max(columns, 1)))

    parts = _parquet if suffix in PARQUET else _numpy if suffix in (".npy", ".npz") else _csv
    start = 0
    with opened(path):
        for part in parts(path, sep, size):
            if len(part):
                yield to_frame(part).set_axis(pd.RangeIndex(start, start + len(part)), axis=0)
                start += len(part)
    check(start > 0, DataError, f"{path} has no rows; add at least two rows.")


def _csv(path: Path, sep: str | None, size: Any) -> Iterator[pd.DataFrame]:
    layout, start = csv_layout(path, sep), 0
    with layout.reading():
        reader = pd.read_csv(path, **layout.options, chunksize=size(len(layout.first)))
    with reader:
        while True:
            try:
                with layout.reading():
                    part = next(reader)
            except StopIteration:
                return
            tidy = layout.tidy(part, start)
            start += len(part)
            yield tidy


def _numpy(path: Path, sep: str | None, size: Any) -> Iterator[pd.DataFrame]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False) if path.suffix.lower() == ".npy" else None
    except (ValueError, EOFError):
        mapped = None  # read_table says what is wrong
    if mapped is None or mapped.ndim != 2:
        yield read_table(path)
        return
    rows, step = len(mapped), size(mapped.shape[1])
    del mapped
    for i in range(0, rows, step):
        # Mapped anew for each part, so that pages already read do not count as held.
        yield to_frame(np.array(np.load(path, mmap_mode="r", allow_pickle=False)[i : i + step]))


def _parquet(path: Path, sep: str | None, size: Any) -> Iterator[pd.DataFrame]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        yield read_table(path)  # says what to install, or finds another reader
        return
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            kept = [name for name in schema.names if name not in _stored_index(schema.pandas_metadata)]
            for group in range(file.num_row_groups):  # asked for all at once, arrow keeps those it has read
                for batch in file.iter_batches(size(len(schema.names)), row_groups=[group], columns=kept):
                    yield batch.to_pandas()
    except OSError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:  # pyarrow's own family derives from these
        raise damaged_parquet(path, error) from None


def _stored_index(metadata: dict[str, Any] | None) -> set[str]:
    """Columns in which pandas keeps the index of a frame."""
    return {name for name in (metadata or {}).get("index_columns", ()) if isinstance(name, str)}


class TableWriter:
    r"""A table written part by part: CSV to stdout, or a file whose suffix chooses between CSV and Parquet.

    A file takes its name when it is complete; after an error there is the old file or none.

    Args:
        out: The file; None or ``-``: stdout.

    Raises:
        DataError: On leaving, or from ``write``, if the file cannot be written or a part does not fit the first one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "x.csv"
        >>> with TableWriter(path) as writer:
        ...     for value in (1, 2):
        ...         writer.write(pd.DataFrame({"a": [value]}))
        >>> path.read_text()
        'a\n1\n2\n'
    """

    def __init__(self, out: Path | None) -> None:
        self.out = None if out is None or str(out) == "-" else out
        self._parts, self._parquet = 0, self.out is not None and self.out.suffix.lower() in PARQUET
        # A device, /dev/null say, cannot be replaced by a file of that name.
        plain = self.out is not None and (self.out.is_file() or not self.out.exists())
        self._target = temporary(self.out) if self.out is not None and plain else self.out
        self._file: Any = None

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._file is not None:
            self._file.close()
        if self.out is None or self._target is None or self._target == self.out or self._file is None:
            return
        if kind is None:
            rename(self._target, self.out)
        self._target.unlink(missing_ok=True)

    def write(self, frame: pd.DataFrame) -> None:
        """Append the rows of a frame; the index is not written."""
        first, self._parts = self._parts == 0, self._parts + 1
        if self._target is None:
            frame.to_csv(sys.stdout, index=False, header=first)
            return
        with _sentence(self.out):
            if self._parquet:
                self._write_parquet(frame)
                return
            if self._file is None:
                self._file = self._target.open("w", encoding="utf-8", newline="")
            frame.to_csv(self._file, index=False, header=first)

    def _write_parquet(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            self._file = pq.ParquetWriter(self._target, table.schema)
        try:
            table = pa.Table.from_pandas(frame, self._file.schema, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            table = self._widen(pa.Table.from_pandas(frame, preserve_index=False))
        self._file.write_table(table)

    def _widen(self, table: Any) -> Any:
        """Write the earlier parts again with types that hold these rows too: whole numbers became floating, say."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._file.close()
        try:
            schema = pa.unify_schemas([self._file.schema, table.schema], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            reason = str(error).splitlines()[0][:160]
            raise DataError(f"{self.out}: rows further down are of another type ({reason}); write .csv.") from None
        narrow = self._target.with_name(f"{self._target.name}.narrow")  # type: ignore[union-attr]  # a file
        self._target.rename(narrow)  # type: ignore[union-attr]
        try:
            self._file = pq.ParquetWriter(self._target, schema)
            with pq.ParquetFile(narrow) as old:
                for group in range(old.num_row_groups):
                    self._file.write_table(old.read_row_group(group).cast(schema))
        finally:
            narrow.unlink(missing_ok=True)
        return table.cast(schema)


@contextlib.contextmanager
def _sentence(out: Path | None) -> Iterator[None]:
    try:
        yield
    except ImportError:
        raise DataError(
            f"{out} is Parquet, which needs pyarrow; pip install 'bijectory[data]', or write .csv."
        ) from None


def write_parts(parts: Iterable[pd.DataFrame], out: Path | None) -> int:
    """Write a table part by part with a ``TableWriter``; the number of rows.

    Example:
        >>> import tempfile
        >>> write_parts([pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3]})], Path(tempfile.mkdtemp()) / "x.csv")
        3
    """
    rows = 0
    with TableWriter(out) as writer:
        for part in parts:
            writer.write(part)
            rows += len(part)
    return rows

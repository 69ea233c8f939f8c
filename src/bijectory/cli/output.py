"""What the verbs print: data to stdout or a file, everything else to stderr."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bijectory.errors import ConfigError, check

if TYPE_CHECKING:
    import pandas as pd


FOREIGN = {".xlsx", ".xls", ".ods", ".json", ".npy", ".npz", ".png"}


def say(text: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def rows(n: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{n} row{'' if n == 1 else 's'}"


def check_place(out: Path | None) -> None:
    """Make sure that rows can be written to ``out``."""
    if out is not None and str(out) != "-":
        check(not out.is_dir(), ConfigError, f"--out {out} is a folder; name a file in it, {out / 'rows.csv'}.")
        there = f"--out {out}: there is no folder {out.parent}; make it first, or name another file."
        check(out.parent.is_dir(), ConfigError, there)
        ours = out.suffix.lower() not in FOREIGN
        check(ours, ConfigError, f"--out {out}: rows are written as CSV or Parquet; name the file .csv or .parquet.")


def write_frame(frame: "pd.DataFrame", out: Path | None) -> None:
    """A table as CSV to stdout, or to a file whose suffix chooses between CSV and Parquet."""
    check_place(out)
    if out is None or str(out) == "-":
        frame.to_csv(sys.stdout, index=False)
    elif out.suffix in {".parquet", ".pq"}:
        frame.to_parquet(out, index=False)
    else:
        frame.to_csv(out, index=False)


def write_json(value: Any) -> None:
    """One JSON document on stdout; NaN and infinity are null."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """JSON-able: tuples as lists, paths as text, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if isinstance(value, (int, str, bool, type(None))) else str(value)


def print_table(columns: list[str], rows: list[list[str]], *, title: str = "") -> None:
    """A table on stdout: fitted to a terminal, and in whole lines where there is none."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, title=title or None, title_justify="left", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console(markup=False, highlight=False).print(table)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in [[title]] * bool(title) + [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())

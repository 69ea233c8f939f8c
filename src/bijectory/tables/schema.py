"""What is known about the columns of a table: one JSON file beside the model, enough to read rows again."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bijectory.errors import CheckpointError, ConfigError, DataError, DomainError, NonFiniteError, check
from bijectory.io.fs import atomic_write
from bijectory.tables.frame import check_columns, to_frame, to_matrix

EDGE = 1e-6  # a value exactly on a bound is read as this fraction of the width (or of the scale) inside it
Kind = Literal["numeric", "bounded", "positive", "heavy", "constant"]
Role = Literal["target", "given"]
NonFinite = Literal["raise", "propagate"]


class Column(BaseModel):
    """One column and its way to standardised units: ``z = (u((x - centre) / spread) - loc) / scale``.

    Attributes:
        name: Column name.
        role: "target" (modelled) or "given" (conditioned on).
        kind: Decides ``u``: "numeric" the identity, "bounded" the logit, "positive" the logarithm, "heavy" arsinh;
            "constant" columns stay outside the flow.
        low: Lower bound ("bounded", "positive").
        high: Upper bound ("bounded").
        value: The value of a "constant" column.
        centre: First shift.
        spread: First scale.
        loc: Mean after ``u``.
        scale: Standard deviation after ``u``.
        step: Lattice step of a dequantized column, or None.
        origin: A lattice point of a dequantized column.
        distinct: Number of different values seen.
        missing: Number of NaN seen.
        integer: Whether every value seen was an integer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    role: Role = "target"
    kind: Kind = "numeric"
    low: float | None = None
    high: float | None = None
    value: float | None = None
    centre: float = 0.0
    spread: float = 1.0
    loc: float = 0.0
    scale: float = 1.0
    step: float | None = None
    origin: float = 0.0
    distinct: int = 0
    missing: int = 0
    integer: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        positive = self.spread > 0 and self.scale > 0 and (self.step is None or self.step > 0)
        check(positive, ConfigError, f"column {self.name!r}: spread, scale and step must be positive.")
        needs = {"bounded": ("low", "high"), "positive": ("low",), "constant": ("value",)}.get(self.kind, ())
        for field in needs:
            check(
                getattr(self, field) is not None,
                ConfigError,
                f"column {self.name!r} is {self.kind} but has no {field}.",
            )
        return self

    @property
    def support(self) -> tuple[float, float]:
        """Ends of the support of the density: a dequantized value fills its cell."""
        low = -np.inf if self.low is None else self.low
        return low, np.inf if self.high is None else self.high + (self.step or 0.0)

    def outside(self, x: np.ndarray) -> np.ndarray:
        """Which values lie outside the declared bounds."""
        low, high = self.support[0], np.inf if self.high is None else self.high
        # A positive column has no lowest value, unless its cells [x, x + step) reach above it.
        open_end = self.kind == "positive" and self.step is None
        return ((x <= low) if open_end else (x < low)) | (x > high)

    def domain(self) -> str:
        """The declared bounds as text."""
        low, high = self.support[0], np.inf if self.high is None else self.high
        open_end = self.high is None and self.step is None
        return f"{'(' if open_end else '['}{low:g}, {high:g}{')' if self.high is None else ']'}"

    def inside(self, x: np.ndarray) -> np.ndarray:
        """Move values that lie exactly on an end of the support ``EDGE`` inside; all others stay."""
        low, high = self.support
        strip = EDGE * ((self.step or 0.0) if np.isinf(high) else high - low)
        x = np.where(x == low, low + strip, x)
        return np.where(x == high, high - strip, x)

    def settle(self, x: np.ndarray) -> np.ndarray:
        """Finish a draw: the lattice point whose cell ``[point, point + step)`` holds it, and never outside the bounds."""
        if self.step is not None:
            x = self.origin + np.floor((x - self.origin) / self.step) * self.step
        if self.low is not None or self.high is not None:
            x = np.clip(x, self.low, self.high)
        whole = self.step is not None and self.integer and np.abs(x).max(initial=0) < 2**53
        return x.round().astype(np.int64) if whole else x


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a table as a flow takes them.

    Attributes:
        x: Targets inside the flow, float64 ``(n, targets)``, in data units.
        c: Given columns, float64 ``(n, givens)``, or None.
        known: ``(n,)``: 0 where the flow decides, ``-inf`` for zero density, NaN for an unknown value.
        valid: ``(n,)``: whether all columns of the flow are finite and inside their bounds; others hold a stand-in.
    """

    x: np.ndarray
    c: np.ndarray | None
    known: np.ndarray
    valid: np.ndarray


class Schema(BaseModel):
    """The columns of a table, in order.

    Attributes:
        version: Version of this format.
        columns: One entry for each column.
        rows: Number of rows seen.
        notes: Warnings that were given while the table was read.

    Example:
        >>> schema = Schema(columns=(Column(name="a"), Column(name="b", role="given")), rows=10)
        >>> schema.names, [c.name for c in schema.targets], [c.name for c in schema.givens]
        (['a', 'b'], ['a'], ['b'])
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    columns: tuple[Column, ...]
    rows: int
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All column names in order."""
        return [c.name for c in self.columns]

    @property
    def targets(self) -> list[Column]:
        """Columns inside the flow."""
        return [c for c in self.columns if c.role == "target" and c.kind != "constant"]

    @property
    def givens(self) -> list[Column]:
        """Columns that the flow is conditioned on."""
        return [c for c in self.columns if c.role == "given" and c.kind != "constant"]

    @property
    def constants(self) -> list[Column]:
        """Constant targets: outside the flow, scored as an exact match."""
        return [c for c in self.columns if c.role == "target" and c.kind == "constant"]

    def frame(self, data: Any, columns: list[Column] | None = None) -> pd.DataFrame:
        """The rows as a frame that has the columns: frames are matched by name, arrays by position.

        Raises:
            DataError: If a column is missing, or an array has another number of columns.
        """
        names = [c.name for c in (self.columns if columns is None else columns)]
        frame = to_frame(data)
        if not (hasattr(data, "columns") or isinstance(data, dict)):
            width = frame.shape[1]
            expected = f"expected {len(names)}: {', '.join(names)}."
            check(width == len(names), DataError, f"the array has {width} columns, {expected}")
            frame = frame.set_axis(names, axis=1)
        check_columns(frame, names)
        return frame

    def encode(self, data: Any, nonfinite: NonFinite = "raise", *, first: int = 0) -> Rows:
        """Read rows for scoring.

        Args:
            data: A data frame (columns in any order, others ignored) or an array with the columns in order.
            nonfinite: "raise", or "propagate": NaN gives NaN, infinity and values outside the bounds give ``-inf``.
            first: Number of the first row, for messages about a part of a table.

        Raises:
            NonFiniteError, DomainError, DataError: With the first row, the column and the value.
        """
        check(nonfinite in ("raise", "propagate"), ConfigError, f"nonfinite={nonfinite!r}; use 'raise' or 'propagate'.")
        columns = self.targets + self.givens + self.constants
        names = [c.name for c in columns]
        values = to_matrix(self.frame(data), names)
        if nonfinite == "raise":
            check_finite(
                values, names, "Pass nonfinite='propagate' (--nonfinite propagate) to get NaN there.", first=first
            )
            check_domain(values, columns, first=first)
        unknown = np.isnan(values).any(axis=1)
        n, known = len(self.targets), np.zeros(len(values))
        valid = np.ones(len(values), dtype=bool)
        for k, column in enumerate(columns):
            x = values[:, k]
            if column.kind == "constant":
                known[x != column.value] = -np.inf
                continue
            bad = ~np.isfinite(x) | column.outside(x)
            known[bad] = -np.inf
            valid &= ~bad
            values[:, k] = np.where(bad, _safe(column), x)
        known[unknown] = np.nan
        return Rows(values[:, :n], self._context(values[:, n : n + len(self.givens)]), known, valid)

    def encode_given(self, data: Any) -> np.ndarray | None:
        """Read the given columns alone; None if the flow has none."""
        if not self.givens:
            return None
        names = [c.name for c in self.givens]
        values = to_matrix(self.frame(data, self.givens), names)
        check_finite(values, names, "Fill or drop these rows.")
        check_domain(values, self.givens)
        return self._context(values)

    def place(self, x: np.ndarray, u: np.ndarray | float = 0.5) -> np.ndarray:
        """Put targets ``(n, targets)`` into the support: at ``u`` in [0, 1] of the cell of each dequantized column."""
        u = np.broadcast_to(u, x.shape)
        moved = [c.inside(x[:, k] + u[:, k] * (c.step or 0.0)) for k, c in enumerate(self.targets)]
        return np.stack(moved, axis=1)

    def _context(self, values: np.ndarray) -> np.ndarray | None:
        if not self.givens:
            return None
        return np.stack([c.inside(values[:, k]) for k, c in enumerate(self.givens)], axis=1)

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        atomic_write(Path(path), [f"{self.model_dump_json(indent=2)}\n".encode()])

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing or is not such a schema.
        """
        path = Path(path)
        try:
            version = json.loads(path.read_text(encoding="utf-8")).get("version")
            check(
                version == 1,
                CheckpointError,
                f"{path} has format {version!r}, this version reads 1; upgrade bijectory, or fit again.",
            )
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; is {path.parent} a run folder?") from None
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise CheckpointError(f"{path} is not a valid schema: {where}: {problem['msg']}.") from None
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a JSON schema ({error}); restore it or fit again.") from None


def check_finite(values: np.ndarray, names: list[str], remedy: str, *, first: int = 0) -> None:
    """Refuse NaN and infinity; the message starts as in scikit-learn and names rows and columns."""
    finite = np.isfinite(values)
    if finite.all():
        return
    rows = np.flatnonzero(~finite.all(axis=1))
    columns = [names[k] for k in np.flatnonzero(~finite.all(axis=0))]
    row = values[rows[0]]
    k = int(np.flatnonzero(~np.isfinite(row))[0])
    what = "NaN" if np.isnan(values).any() else "infinity or a value too large for dtype('float64')"
    raise NonFiniteError(
        f"Input X contains {what}. {len(rows)} of {len(values)} rows are affected (first: row {first + rows[0]}, column "
        f"{names[k]!r} = {row[k]}), columns {', '.join(map(repr, columns[:8]))}. {remedy}"
    )


def check_domain(values: np.ndarray, columns: list[Column], *, first: int = 0) -> None:
    """Refuse values outside the declared bounds; row, column and value are named."""
    for k, column in enumerate(columns):
        bad = np.flatnonzero(column.outside(values[:, k]))
        if len(bad):
            raise DomainError(
                f"column {column.name!r} is {values[bad[0], k]:.10g} in row {first + bad[0]} ({len(bad)} such rows), "
                f"outside its declared range {column.domain()}; correct the rows or declare another range."
            )


def _safe(column: Column) -> float:
    """A value inside the support, for rows whose answer does not come from the flow."""
    low, high = column.support
    return column.centre if np.isinf(low) else low + column.spread if np.isinf(high) else (low + high) / 2

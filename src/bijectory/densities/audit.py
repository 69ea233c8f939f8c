"""The result of ``Flow.check``: named measurements, each with its bound and a verdict."""

import dataclasses
import math
from typing import Any

OK, FAIL, INFO, UNKNOWN = "ok", "fail", "info", "not measurable"


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        name: What was measured.
        value: The figure.
        bound: What it may not exceed (or fall below: ``name`` says so); None for information.
        verdict: ``"ok"``, ``"fail"``, ``"info"`` or ``"not measurable"``.
        note: Where it was worst, or why there is no verdict.
    """

    name: str
    value: float
    bound: float | None
    verdict: str
    note: str = ""


def at_most(name: str, value: float, bound: float, note: str = "") -> Row:
    """A row that holds if ``value <= bound``; NaN fails."""
    return Row(name, value, bound, OK if value <= bound else FAIL, note)


def at_least(name: str, value: float, bound: float, note: str = "") -> Row:
    """A row that holds if ``value >= bound``; NaN fails."""
    return Row(name, value, bound, OK if value >= bound else FAIL, note)


@dataclasses.dataclass(frozen=True)
class Audit:
    """What ``Flow.check`` found; ``print`` it for a table.

    Attributes:
        rows: The measurements, in order.

    Example:
        >>> audit = Audit((at_most("round trip", 2e-7, 1e-5), at_least("mass", 0.5, 0.9)))
        >>> audit.ok, audit["mass"].verdict
        (False, 'fail')
    """

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """True if no measurement fails; what could not be measured does not count against the flow."""
        return all(row.verdict != FAIL for row in self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row of that name."""
        return {row.name: row for row in self.rows}[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for strict JSON: a value that is not finite becomes text."""
        return {"ok": self.ok, "rows": [{**dataclasses.asdict(row), "value": _plain(row.value)} for row in self.rows]}

    def table(self) -> list[tuple[str, str, str, str]]:
        """The rows as text: ``(name, value, bound, verdict)``."""
        return [
            (
                row.name,
                f"{row.value:.3g}" + (f" ({row.note})" if row.note else ""),
                "" if row.bound is None else f"{row.bound:.3g}",
                row.verdict,
            )
            for row in self.rows
        ]

    def __str__(self) -> str:
        head = ("check", "value", "bound", "verdict")
        lines = [head, *self.table()]
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        body = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        failed = [row.name for row in self.rows if row.verdict == FAIL]
        return "\n".join([*body, "every check holds" if self.ok else f"fails: {', '.join(failed)}"])


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)

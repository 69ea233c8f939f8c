"""Look at a table before anything is fitted: kinds of columns, their scales, and what spoils a density."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bijectory.errors import ConfigError, DataError, check
from bijectory.tables import findings
from bijectory.tables.prepare import measure
from bijectory.tables.schema import Column, Schema, check_domain, check_finite

Bounds = Mapping[str, tuple[float, float]]


def infer_schema(
    names: Sequence[str],
    values: np.ndarray,
    *,
    given: Iterable[str] = (),
    bounded: Bounds | None = None,
    positive: Iterable[str] = (),
    heavy: Iterable[str] | Literal["auto"] = "auto",
    dequantize: Iterable[str] | Mapping[str, float | None] = (),
    constant: Literal["drop", "raise"] = "drop",
    train: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    missing: np.ndarray | None = None,
) -> Schema:
    """Describe the columns of a table; ``Schema.notes`` says what spoils a density.

    Args:
        names: Column names.
        values: ``(n, d)`` float64.
        given: Columns to condition on.
        bounded: ``name -> (low, high)``; ``high`` may be infinite.
        positive: Columns with values above 0.
        heavy: Columns whose tails are compressed by arsinh; "auto" takes unbounded columns with a value more than 30
            robust deviations from the median.
        dequantize: Columns to which uniform noise of one lattice step is added; a mapping gives the steps, otherwise the
            smallest gap between values is taken.
        constant: "drop" leaves constant columns outside the flow, "raise" refuses them.
        train: Row numbers from which location and scale are taken; None for all.
        weight: ``(n,)`` positive weights for location and scale.
        missing: Number of NaN of each column before rows were dropped.

    Raises:
        NonFiniteError, DomainError: With row, column and value.
        DataError: On unknown columns, no column to model, or constant columns where refused.
        ConfigError: On contradictory declarations.

    Example:
        >>> schema = infer_schema(["a", "b"], np.array([[1.0, 7.0], [2.0, 7.0], [4.0, 7.0]]), positive=["a"])
        >>> [(c.name, c.kind) for c in schema.columns]
        [('a', 'positive'), ('b', 'constant')]
        >>> print(schema.notes[0])
        column 'b' is constant (7): it has no density; it is dropped from the flow and scored as exact match.
    """
    given, positive = _names(given, "given"), _names(positive, "positive")
    declared_heavy = [] if heavy == "auto" else _names(heavy, "heavy")
    bounds = {**dict.fromkeys(positive, (0.0, np.inf)), **(bounded or {})}
    steps: Mapping[str, float | None] = (
        dequantize if isinstance(dequantize, Mapping) else dict.fromkeys(_names(dequantize, "dequantize"))
    )
    arguments = {
        "given": given,
        "bounded": bounded or {},
        "positive": positive,
        "heavy": declared_heavy,
        "dequantize": steps,
    }
    for argument, group in arguments.items():
        unknown = [name for name in group if name not in names]
        check(
            not unknown, DataError, f"{argument}: there is no column {unknown[:1]}; the table has {', '.join(names)}."
        )
    for name in names:
        kinds = [a for a in ("bounded", "positive", "heavy") if name in arguments[a]]
        check(len(kinds) <= 1, ConfigError, f"column {name!r} is declared both {' and '.join(kinds)}; choose one.")
    check_finite(
        values, list(names), "Fill these values, or pass missing='drop' (--missing drop) to leave rows with NaN out."
    )

    columns = []
    for k, name in enumerate(names):
        facts: dict[str, Any] = {"name": name, "role": "given" if name in given else "target"}
        facts["missing"] = 0 if missing is None else int(missing[k])
        kind = "heavy" if name in declared_heavy else "numeric"
        columns.append(_describe(values[:, k], kind, bounds.get(name), steps, facts))
    check_domain(values, columns)
    constants = [c for c in columns if c.kind == "constant"]
    if constants and constant == "raise":
        raise DataError(
            f"column {constants[0].name!r} is constant ({constants[0].value:g}): it has no density; drop it."
        )
    check(
        any(c.role == "target" and c.kind != "constant" for c in columns),
        DataError,
        "every column to model is constant or given; a density needs at least one column that varies.",
    )
    for k, column in enumerate(columns):
        if column.kind != "constant":
            rows = np.arange(len(values)) if train is None or np.ptp(values[train, k]) == 0 else train
            part = None if weight is None else weight[rows]
            columns[k] = measure(column, values[rows, k], part, heavy=heavy == "auto")
    notes = (
        *findings.constant_columns(columns),
        *findings.discrete_columns(columns, values),
        *findings.heavy_columns(columns, declared_heavy),
        *findings.far_rows(columns, values, train),
        *findings.singular_columns(columns, values),
    )
    return Schema(columns=tuple(columns), rows=len(values), notes=notes)


def _describe(
    x: np.ndarray, kind: str, bounds: Any, steps: Mapping[str, float | None], facts: dict[str, Any]
) -> Column:
    """One column without its scales."""
    distinct = np.unique(x)
    facts |= {"distinct": len(distinct), "integer": bool((distinct == np.round(distinct)).all())}
    if len(distinct) == 1:
        return Column(kind="constant", value=float(distinct[0]), **facts)
    low = high = None
    if bounds is not None:
        low, high = _bounds(facts["name"], bounds)
        kind = "positive" if high is None else "bounded"
    if facts["name"] in steps:
        wanted = steps[facts["name"]]
        step = float(np.diff(distinct).min() if wanted is None else wanted)
        check(
            np.isfinite(step) and step > 0, ConfigError, f"dequantize[{facts['name']!r}] is {step}; expected step > 0."
        )
        facts |= {"step": step, "origin": float(distinct[0] if low is None else low)}
    return Column(kind=kind, low=low, high=high, **facts)  # type: ignore[arg-type]


def _bounds(name: str, bounds: Any) -> tuple[float, float | None]:
    try:
        low, high = (float(v) for v in bounds)
    except (TypeError, ValueError):
        raise ConfigError(f"bounded[{name!r}] is {bounds!r}; expected a pair (low, high).") from None
    ok = np.isfinite(low) and low < high
    check(bool(ok), ConfigError, f"bounded[{name!r}] is ({low}, {high}); expected low < high, low finite.")
    return low, high if np.isfinite(high) else None


def _names(value: Iterable[str], argument: str) -> list[str]:
    check(not isinstance(value, str), ConfigError, f"{argument}={value!r}: pass a list of column names, [{value!r}].")
    return list(value)

"""A run folder in a few facts."""

import dataclasses
from pathlib import Path
from typing import Any

from bijectory.apps import SolverCheck, TableFlow
from bijectory.io import load_metadata
from bijectory.tables import Column


def summarise(run: Path) -> dict[str, Any]:
    """Facts, columns, scores and notes of a run.

    Raises:
        CheckpointError: If the folder is not a whole run.
    """
    model, metadata = TableFlow.load(run), load_metadata(run)
    scores = metadata.pop("scores", {})
    parameters = sum(p.numel() for p in model.flow.parameters())
    facts = {
        **metadata,
        "rows": model.schema.rows,
        "parameters": parameters,
    }
    return {
        "facts": facts,
        "columns": [_column(c) for c in model.schema.columns],
        "scores": scores,
        "notes": list(model.schema.notes),
    }


def readable_fact(value: Any) -> str:
    """A fact as one line of text; the check of a solver in words."""
    names = {field.name for field in dataclasses.fields(SolverCheck)}
    return str(SolverCheck(**value)) if isinstance(value, dict) and value.keys() == names else str(value)


def _column(column: Column) -> dict[str, Any]:
    centre, scale = (column.value, 0.0) if column.kind == "constant" else (column.loc, column.scale)
    domain = column.domain() if column.low is not None else ""
    return {
        "name": column.name,
        "role": column.role,
        "kind": column.kind,
        "range": domain,
        "centre": f"{centre:.6g}",
        "scale": f"{scale:.6g}",
    }

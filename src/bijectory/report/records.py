"""Records that a fit leaves in its run folder."""

import json
from pathlib import Path
from typing import Any

from bijectory.errors import CheckpointError


def history(path: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``."""
    found = [_json(path, line) for line in _text(path).splitlines()] if path.exists() else []
    if not all(isinstance(record, dict) for record in found):
        raise CheckpointError(f"{path} is damaged (a line is no record); fit again, or restore the file.")
    return found


def audit_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Rows ``(check, value, bound, verdict)`` of ``audit.json``."""
    if not path.exists():
        return []
    found = _json(path, _text(path))
    try:
        rows = found["rows"]
        return [(r["name"], _value(r), "" if r["bound"] is None else f"{r['bound']:.3g}", r["verdict"]) for r in rows]
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path} is not an audit; fit again, or restore the file.") from None


def _value(row: dict[str, Any]) -> str:
    value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.3g}"
    return value + (f" ({row['note']})" if row["note"] else "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None

"""Records that a fit leaves in its run folder."""

import json
from pathlib import Path
from typing import Any

from bijectory.errors import CheckpointError


def history(path: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``."""
    return [_json(path, line) for line in path.read_text().splitlines()] if path.exists() else []


def audit_rows(path: Path) -> list[tuple[str, str, str, str]]:
    """Rows ``(check, value, bound, verdict)`` of ``audit.json``."""
    if not path.exists():
        return []
    rows = _json(path, path.read_text())["rows"]
    return [(r["name"], _value(r), "" if r["bound"] is None else f"{r['bound']:.3g}", r["verdict"]) for r in rows]


def _value(row: dict[str, Any]) -> str:
    value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.3g}"
    return value + (f" ({row['note']})" if row["note"] else "")


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None

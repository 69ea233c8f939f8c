"""What a run folder holds."""

import json
from pathlib import Path
from typing import Literal

SCHEMA = "schema.json"


def run_kind(folder: str | Path) -> Literal["table", "image"]:
    """Whether a run folder holds the model of a table or of images; what is neither counts as a (broken) table.

    Example:
        >>> run_kind("nowhere")
        'table'
    """
    try:
        found = json.loads((Path(folder) / SCHEMA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "table"
    return "image" if isinstance(found, dict) and found.get("kind") == "image" else "table"

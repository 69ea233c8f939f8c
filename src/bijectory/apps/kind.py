"""What a run folder holds."""

import json
from pathlib import Path
from typing import Literal

SCHEMA = "schema.json"


def run_kind(folder: str | Path) -> Literal["table", "image", "posterior", "vae"]:
    """What a run folder holds: the model of a table or of images, a posterior, or an autoencoder ("vae").

    What is none of these counts as a (broken) table.

    Example:
        >>> run_kind("nowhere")
        'table'
    """
    try:
        found = json.loads((Path(folder) / SCHEMA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "table"
    kind = found.get("kind") if isinstance(found, dict) else None
    return kind if kind in ("image", "posterior", "vae") else "table"

"""``config.json``: what the model is, and the digests that hold the run folder together.

One top-level entry a line, and the last line is the SHA-256 of every byte before it; so the file is checked before it is
parsed, and no byte of it can change unnoticed.
"""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from bijectory.errors import CheckpointError, check
from bijectory.io.weights import MAX_TENSORS, Entry

NAME = "config.json"
VERSION = 1
MAX_BYTES = 16 * 2**20
_TAIL = re.compile(rb'"digest": "([0-9a-f]{64})"\n}\n\Z')


@dataclasses.dataclass(frozen=True)
class Config:
    """Contents of ``config.json``.

    Attributes:
        model: The specification.
        tensors: Table of the tensors in the weights file, in their order.
        derived: Table of the buffers that the constructors compute and the weights file does not hold.
        frozen: Parameters with ``requires_grad=False``.
        default_dtype: torch's default dtype under which the constructors ran.
        metadata: What the caller stored along.
        library_version: Version of the library that wrote the file.
    """

    model: Any
    tensors: dict[str, Entry]
    derived: dict[str, Entry]
    frozen: list[str]
    default_dtype: str
    metadata: Any
    library_version: str

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(e.nbytes for e in self.tensors.values())

    def encode(self) -> tuple[bytes, str]:
        """The file and its digest."""
        table: dict[str, Any] = {"format": "bijectory", "format_version": VERSION} | {
            field.name: getattr(self, field.name) for field in reversed(dataclasses.fields(self))
        }
        for part in ("tensors", "derived"):
            table[part] = {name: entry.to_json() for name, entry in getattr(self, part).items()}
        rows = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)},\n" for k, v in table.items())
        body = ("{\n" + "".join(rows)).encode()
        check(len(body) <= MAX_BYTES, CheckpointError, f"the description of the model exceeds {MAX_BYTES} bytes.")
        digest = hashlib.sha256(body).hexdigest()
        return body + f'"digest": "{digest}"\n}}\n'.encode(), digest


def read(folder: Path) -> tuple[Config, str]:
    """Read and verify ``config.json``; returns the contents and the digest.

    Raises:
        CheckpointError: If it is missing, altered, truncated, foreign or written by a newer library.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 200)
    except FileNotFoundError:
        what = "is missing" if folder.is_dir() else "cannot be read: there is no such folder"
        raise CheckpointError(f"{path} {what}; pass the folder that bijectory.save or a fit wrote.") from None
    except OSError as error:
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file, and a run folder is wanted here; mind the order.") from None
        raise CheckpointError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    try:
        return _parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _parse(data: bytes) -> tuple[Config, str]:
    check(len(data) <= MAX_BYTES + 100, CheckpointError, f"larger than {MAX_BYTES} bytes; this is not a saved model.")
    tail = _TAIL.search(data)
    if tail is None:
        raise CheckpointError(
            f"truncated, edited or not a saved model ({len(data)} bytes without the closing digest); use a backup or save "
            "the model again."
        )
    digest = hashlib.sha256(data[: tail.start()]).hexdigest()
    if digest != tail[1].decode():
        raise CheckpointError(
            f"changed after it was saved (sha256 {digest[:12]}…, expected {tail[1].decode()[:12]}…); hyper-parameters "
            "belong to the weights and cannot be edited: restore the file, or fit and save anew."
        )
    try:
        table = json.loads(data, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({error}).") from None
    check(isinstance(table, dict) and table.get("format") == "bijectory", CheckpointError, "not a Bijectory model.")
    version = table.get("format_version")
    if version != VERSION:
        newer = type(version) is int and version > VERSION
        raise CheckpointError(
            f"written in format {str(version)[:20]} by bijectory {str(table.get('library_version'))[:20]}, this library "
            f"reads format {VERSION}: {'upgrade bijectory' if newer else 'not a saved model'}."
        )
    return _checked(table), digest


def _checked(table: dict[str, Any]) -> Config:
    names = [f.name for f in dataclasses.fields(Config)]
    missing = [n for n in names if n not in table]
    check(not missing, CheckpointError, f"the entry {', '.join(missing)} is missing.")
    c = Config(**{n: table[n] for n in names})
    fits = (
        isinstance(c.tensors, dict)
        and len(c.tensors) <= MAX_TENSORS
        and isinstance(c.derived, dict)
        and isinstance(c.frozen, list)
        and all(isinstance(n, str) for n in c.frozen)
        and c.default_dtype in ("float16", "bfloat16", "float32", "float64")
    )
    check(fits, CheckpointError, "the table of tensors is malformed.")
    tensors, derived = ({n: Entry.from_json(n, row) for n, row in part.items()} for part in (c.tensors, c.derived))
    return dataclasses.replace(c, tensors=tensors, derived=derived)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key appears twice")
    return table

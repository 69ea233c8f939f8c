"""The weights file: the safetensors layout, written in one fixed way so that every byte of it can be checked.

``u64 header length | JSON header | data``. The header of a file of ours is a function of the table of tensors in
``config.json`` (names, dtypes, shapes, in that order) and of the config's digest, which it carries as metadata: a reader
computes the header it expects and compares bytes. So there are no offsets to validate: no overlap, gap, stride or duplicate
can occur. Any safetensors reader opens the file. Format: https://github.com/huggingface/safetensors, README, "Format".
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from typing import IO, Any

import torch
from torch import Tensor

from bijectory.errors import CheckpointError, check

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in CODES}
MAX_HEADER = 16 * 2**20
MAX_TENSORS = 100_000


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the file.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        sha256: Digest of its bytes (contiguous, little-endian).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    sha256: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Entry":
        """Entry of a live tensor."""
        if tensor.dtype not in CODES or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(
                f"{name}: a {tensor.dtype} tensor ({tensor.layout}, {tensor.device}) cannot be stored; dense tensors of "
                f"{', '.join(DTYPES)} can."
            )
        return cls(tensor.dtype, tuple(tensor.shape), hashlib.sha256(raw(tensor)).hexdigest())

    def to_json(self) -> dict[str, Any]:
        """Row of the table in ``config.json``."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "shape": list(self.shape), "sha256": self.sha256}

    @classmethod
    def from_json(cls, name: str, row: Any) -> "Entry":
        """Entry of a row of the table, checked."""
        fits = (
            isinstance(row, dict)
            and row.keys() == {"dtype", "shape", "sha256"}
            and isinstance(row["dtype"], str)
            and row["dtype"] in DTYPES
            and isinstance(row["sha256"], str)
            and isinstance(row["shape"], list)
            and len(row["shape"]) <= 32
            and all(type(n) is int and 0 <= n < 2**48 for n in row["shape"])
        )
        check(fits, CheckpointError, f"the entry of tensor {name!r} is malformed: {str(row)[:80]}.")
        return cls(DTYPES[row["dtype"]], tuple(row["shape"]), row["sha256"])


def raw(tensor: Tensor) -> memoryview:
    """Bytes of a tensor, contiguous; shares memory where it can."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def header(entries: dict[str, Entry], config_digest: str) -> bytes:
    """First bytes of the file, the length included; the data follow in the order of ``entries``."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt", "config_sha256": config_digest}}
    start = 0
    for name, entry in entries.items():
        end = start + entry.nbytes
        table[name] = {"dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    check(len(text) <= MAX_HEADER and len(entries) <= MAX_TENSORS, CheckpointError, "the model has too many tensors.")
    return len(text).to_bytes(8, "little") + text


def chunks(state: dict[str, Tensor], head: bytes) -> Iterator[bytes | memoryview]:
    """The file, piece by piece: one tensor in memory at a time."""
    yield head
    for tensor in state.values():
        yield raw(tensor)


def paired_with(file: IO[bytes]) -> str | None:
    """Digest of the config that a weights file belongs to, or None if it is not one of ours."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= MAX_HEADER:
        return None
    text = file.read(length)
    if len(text) != length:
        return None
    try:
        digest = json.loads(text)["__metadata__"]["config_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) else None


def read(file: IO[bytes], entry: Entry, name: str) -> Tensor:
    """Read the next tensor of an open file and check its digest."""
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    if entry.nbytes:
        view = tensor.view(-1).view(torch.uint8).numpy().data
        got = file.readinto(view)  # type: ignore[attr-defined]
        check(got == entry.nbytes, CheckpointError, f"the file ended inside tensor {name!r}.")
    digest = hashlib.sha256(raw(tensor)).hexdigest()
    if digest != entry.sha256:
        raise CheckpointError(
            f"tensor {name!r} was altered (sha256 {digest[:12]}…, expected {entry.sha256[:12]}…); use a backup."
        )
    return tensor

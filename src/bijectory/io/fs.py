"""Writing files so that a crash at any moment leaves the old file or the new one, never half of either.

A file is written under a temporary name in the same directory, flushed to the disk and renamed; the directory is flushed
after each rename, so that renames reach the disk in the order in which they were made.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from bijectory.errors import CheckpointError

# The three operations that can fail half-way; tests replace them to fail at every call.


def _write(file: IO[bytes], data: bytes | memoryview) -> None:
    file.write(data)


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)


def temporary(path: Path) -> Path:
    """Name under which ``path`` is written first; left behind only by a killed process, and overwritten by the next."""
    return path.with_name(f".{path.name}.tmp")


def rename(source: Path, target: Path) -> None:
    """Rename, durably."""
    _rename(source, target)
    if os.name == "posix":  # elsewhere a directory cannot be opened, nor flushed
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            _fsync(descriptor)
        finally:
            os.close(descriptor)


def atomic_write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write ``chunks`` to ``path``, all or nothing.

    Raises:
        OSError: As the system does; the old file is intact and the temporary one is removed.
    """
    temp = temporary(path)
    try:
        with temp.open("wb") as file:
            for chunk in chunks:
                _write(file, chunk)
            file.flush()
            _fsync(file.fileno())
        rename(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def guarded(action: Callable[[], None], folder: Path, needed: int, fate: Callable[[], str]) -> None:
    """Run ``action`` and turn a failure of the file system into one sentence.

    Args:
        action: What to do.
        folder: Where.
        needed: Bytes to be written.
        fate: What the folder holds now, asked after a failure.

    Raises:
        CheckpointError: If the file system refuses.
    """
    try:
        action()
    except OSError as error:
        try:
            space = f"need {size(needed)}, free {size(shutil.disk_usage(folder).free)}"
            outcome = fate()
        except OSError:  # the folder itself is gone, or cannot be read now
            space, outcome = f"need {size(needed)}", "what was saved there before was not touched"
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"model not saved in {folder}: {reason} ({space}); {outcome}.") from error


def size(n: int) -> str:
    """Bytes for people: ``24.1 MB``."""
    value = float(n)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def grouped(n: int) -> str:
    """An exact count for people: ``24 001 234``."""
    return f"{n:,}".replace(",", " ")

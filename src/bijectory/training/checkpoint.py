"""Checkpoints that survive kill -9, a full disk and flipped bits.

A checkpoint is two files, ``step-N.safetensors`` (every tensor) and ``step-N.json`` (every scalar, the size and SHA-256 of
the tensor file, and its own SHA-256). Each is written all or nothing and the JSON comes last, so a checkpoint exists if
and only if its JSON does, and then it is whole. Old ones are removed after that. No pickle anywhere.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from bijectory.errors import CheckpointError
from bijectory.io.fs import atomic_write, size

VERSION = 1


class Checkpoints:
    """The checkpoints of a run in ``folder``.

    Args:
        folder: Made on the first save.
        keep: How many to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._warned = False

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first."""
        return sorted((int(p.stem.removeprefix("step-")) for p in self.folder.glob("step-*.json")), reverse=True)

    def save(self, step: int, scalars: dict[str, Any], tensors: dict[str, Tensor]) -> bool:
        """Write one checkpoint; False, with one warning a run, if the disk refuses (the old ones stay)."""
        flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        data = dump_tensors(flat)
        name = f"step-{step:09d}.safetensors"
        manifest = {
            "version": VERSION,
            "file": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
            "scalars": scalars,
        }
        manifest["sha256"] = _self_digest(manifest)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self.folder / name, [data])
            atomic_write(self.folder / f"step-{step:09d}.json", [_dump(manifest)])
            self._prune(step)
        except OSError as error:
            self._warn(error, len(data))
            return False
        return True

    def load(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The newest whole checkpoint (a warning names the broken ones passed over), or None if there are none.

        Raises:
            CheckpointError: If there are checkpoints but every one is broken.
        """
        steps = self.steps()
        problems: list[str] = []
        for step in steps:
            try:
                found = self._read(step)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if problems:
                warnings.warn(f"{'; '.join(problems)}; going on from the last good one, step {step}.", stacklevel=3)
            return found
        if problems:
            raise CheckpointError(f"{'; '.join(problems)}; there is no other checkpoint: start again without resume.")
        return None

    def clear(self) -> None:
        """Remove every checkpoint and left-over temporary file."""
        for step in self.steps():
            self._remove(step)
        self._sweep(set())

    def _read(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        manifest = _parse_manifest(self.folder / f"step-{step:09d}.json")
        file = manifest["file"]
        path = self.folder / f"step-{step:09d}.safetensors"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None
        if len(data) != file["bytes"]:
            state = "truncated" if len(data) < file["bytes"] else "too long"
            raise CheckpointError(f"checkpoint {path} is {state}: {len(data)} of {file['bytes']} bytes")
        got = hashlib.sha256(data).hexdigest()
        if got != file["sha256"]:
            raise CheckpointError(f"checkpoint {path} was altered: SHA-256 is {got}, expected {file['sha256']}")
        try:
            return manifest["scalars"], parse_tensors(data)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path} is not a safetensors file: {error}") from None

    def _prune(self, newest: int) -> None:
        steps = self.steps()
        kept = [step for step in steps if step <= newest][: self.keep]
        for step in steps:
            if step not in kept:  # a later one is broken, or of a future that was given up
                self._remove(step)
        self._sweep({f"step-{step:09d}.safetensors" for step in kept})

    def _remove(self, step: int) -> None:
        for suffix in (".json", ".safetensors"):  # the JSON first: without it the rest does not count
            (self.folder / f"step-{step:09d}{suffix}").unlink(missing_ok=True)

    def _sweep(self, kept: set[str]) -> None:
        """Remove what a kill between two writes left behind."""
        for path in (*self.folder.glob(".step-*.tmp"), *self.folder.glob("step-*.safetensors")):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _warn(self, error: OSError, need: int) -> None:
        if self._warned:
            return
        self._warned = True
        steps = self.steps() if self.folder.exists() else []
        place = next(p for p in (self.folder, *self.folder.parents) if p.exists())
        free = shutil.disk_usage(place).free
        last = f"step {steps[0]}" if steps else "none yet"
        reason = (error.strerror or str(error)).lower()
        warnings.warn(
            f"checkpoint not saved: {reason} on {self.folder} (need {size(need)}, free {size(free)}); "
            f"training continues, last good: {last}",
            stacklevel=2,
        )


def _dump(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _self_digest(manifest: dict[str, Any]) -> str:
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _parse_manifest(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        version, digest = manifest["version"], manifest["sha256"]
        _ = manifest["file"]["bytes"], manifest["file"]["sha256"], manifest["scalars"]
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"checkpoint {path} is truncated or altered: not a manifest ({len(raw)} bytes)") from None
    # The bytes must be exactly what we write: no flipped bit passes, not even one that leaves the values as they are.
    if digest != (got := _self_digest(manifest)) or raw != _dump(manifest):
        raise CheckpointError(f"checkpoint {path} was altered: SHA-256 is {got}, expected {digest}")
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format {version}, this version reads {VERSION}: use the other version"
        )
    return manifest

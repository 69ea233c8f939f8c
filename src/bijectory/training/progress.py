"""Progress on stderr and ``metrics.jsonl``: what a person and a program read while a fit runs."""

import errno
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn

from bijectory.io.fs import atomic_write
from bijectory.training.callbacks import Callback
from bijectory.training.state import FitResult, Run

PAUSE = 0.1  # seconds between two updates of the bar, which draws itself as often


class Metrics:
    """``metrics.jsonl``: one JSON object a line, appended whole, so that a crash leaves a valid file.

    Args:
        path: The file.
        step: Keep the lines up to this step (of the part of the run that is continued), drop the rest.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._warned = False
        if path.exists():
            self._guarded(lambda: atomic_write(path, _lines_until(path, step)))

    def append(self, record: dict[str, Any]) -> None:
        """Write one line; a full disk gives one warning."""
        line = json.dumps({k: _plain(v) for k, v in record.items()}).encode() + b"\n"
        self._guarded(lambda: self._append(line))

    def _append(self, line: bytes) -> None:
        with open(self.path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                whole = file.write(line) == len(line)
            except OSError:
                file.truncate(size)
                raise
            if not whole:
                file.truncate(size)  # a line is there whole or not at all
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(f"{self.path} not written: {error.strerror}; training continues", stacklevel=4)


def _lines_until(path: Path, step: int) -> list[bytes]:
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith(b"\n"):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break  # the rest was cut off by a crash
    return kept


def _plain(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite becomes null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress(Callback):
    """One line per epoch; on a terminal, a live bar with the last of them instead.

    Args:
        fraction: ``run -> part done`` in [0, 1].
    """

    def __init__(self, fraction: Callable[[Run], float]) -> None:
        self.fraction = fraction
        self.console = Console(stderr=True, highlight=False)
        self.bar, self.shown = None, -math.inf
        if self.console.is_terminal:
            columns = (BarColumn(20), TaskProgressColumn(), TextColumn("step {task.fields[step]}  {task.description}"))
            self.bar = rich.progress.Progress(*columns, console=self.console, transient=True)
            self.task = self.bar.add_task("", total=1.0, step=0)

    def on_start(self, run: Run) -> None:
        if self.bar is not None:
            self.bar.start()

    def on_step(self, run: Run) -> None:
        if self.bar is not None and time.monotonic() - self.shown >= PAUSE:
            self.shown = time.monotonic()
            self.bar.update(self.task, completed=min(1.0, self.fraction(run)), step=run.step)

    def on_epoch(self, run: Run, record: dict[str, float]) -> None:
        line = describe(record, best=run.best_epoch == record["epoch"])
        if self.bar is not None:
            self.bar.update(self.task, completed=min(1.0, self.fraction(run)), step=run.step, description=line)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_stop(self, run: Run, result: FitResult) -> None:
        self.close()
        best = "" if math.isnan(result.best_val) else f", best validation {result.best_val:.4f}"
        reason = result.stop_reason.replace("_", " ")
        print(
            f"{reason} after {result.steps} steps, {result.seconds:.1f} s{best} (epoch {result.best_epoch})",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Give the terminal back, after an error too; further calls do nothing."""
        if self.bar is not None:
            self.bar.stop()


def describe(record: dict[str, Any], *, best: bool) -> str:
    """A record as one line for people."""
    parts = [f"epoch {record['epoch']}", f"step {record['step']}", f"train {record['train_loss']:.4f}"]
    if record["val_loss"] is not None:
        parts.append(f"val {record['val_loss']:.4f}{' *' if best else ''}")
    parts += [f"lr {record['lr']:.1e}", f"{record['seconds']:.1f} s"]
    if record["skipped"]:
        parts.append(f"{record['skipped']} steps skipped")
    return "  ".join(parts)

"""The run folder: begin a run or continue it, save it, write its metrics."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from bijectory.errors import CheckpointError, ConfigError, check
from bijectory.training.checkpoint import Checkpoints
from bijectory.training.config import FitConfig
from bijectory.training.progress import Metrics
from bijectory.training.resume import check_same, finite, pack, unpack
from bijectory.training.state import Run

FINISHED = ("completed", "early_stopping", "time_budget", "non_finite")
PROBE_TOLERANCE = (
    1e-3  # relative; another thread count or machine changes a loss by far less, another model by far more
)


class Session:
    """What a fit keeps on disk; without ``config.out`` nothing.

    Args:
        config: Settings of the run.
        identity: What a continuation must share: ``{"config": ..., "data": ..., "objective": ...}``.

    Raises:
        ConfigError: If ``resume`` is on without a folder, or the folder cannot be made.
    """

    def __init__(self, config: FitConfig, identity: dict[str, Any]) -> None:
        check(config.out is not None or not config.resume, ConfigError, "resume=True needs out, the folder of the run.")
        self.config, self.identity = config, identity
        self.store: Checkpoints | None = None
        self.metrics: Metrics | None = None
        self._probe: float | None = None
        if config.out is None:
            return
        try:
            config.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"out={str(config.out)!r} cannot be made: {error.strerror}; choose another folder."
            ) from None
        self.store = Checkpoints(config.out / "checkpoint", config.keep)

    def resume(self, run: Run) -> bool:
        """Set ``run`` to the newest whole checkpoint; False if a new run begins instead.

        Raises:
            CheckpointError: If every checkpoint is broken or belongs to another run, or if ``resume`` is off and the
                folder holds an unfinished run.
        """
        if self.store is None:
            return False
        saved = self.store.load() if self.config.resume else None
        if saved is None:
            if self.config.resume:
                warnings.warn(f"no checkpoint in {self.config.out}: starting from the beginning.", stacklevel=5)
            else:
                _refuse_unfinished(self.store)
            self.store.clear()
        else:
            self._continue(run, *saved)
        self.metrics = Metrics(self.store.folder.parent / "metrics.jsonl", run.step)
        return saved is not None

    def _continue(self, run: Run, scalars: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        folder = self.config.out
        try:
            check_same(scalars["identity"], self.identity)
            unpack(run, scalars, tensors)
            self._probe = scalars["probe"]
            _compare_environment(scalars["environment"])
        except CheckpointError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"cannot resume: the checkpoint in {folder} is whole but not one of a training run "
                f"({type(error).__name__}: {error}); start again without resume."
            ) from None
        if not finite(run):
            raise CheckpointError(f"cannot resume: the checkpoint in {folder} holds NaN; start again without resume.")

    def check_probe(self, probe: float) -> None:
        """Refuse to go on if the saved weights give another loss than when they were saved.

        Raises:
            CheckpointError: Then the model has the same weights but was built with other settings.
        """
        was = self._probe
        if was is not None and not abs(probe - was) <= PROBE_TOLERANCE * (1 + abs(was)):
            raise CheckpointError(
                f"cannot resume: with the saved weights the model gives a loss of {probe:.6g} on the first rows, it was "
                f"{was:.6g}: the model was built with other settings. Build it as in the first part."
            )

    def save(self, run: Run, reason: str | None, probe: float) -> None:
        """Write a checkpoint, unless the state is not finite."""
        if self.store is None:
            return
        if not finite(run):
            warnings.warn(f"checkpoint at step {run.step} not saved: the state is not finite", stacklevel=2)
            return
        scalars, tensors = pack(run)
        scalars |= {"identity": self.identity, "stop_reason": reason, "environment": _environment()}
        scalars["probe"] = probe if math.isfinite(probe) else None
        self.store.save(run.step, scalars, tensors)

    def record(self, record: dict[str, Any]) -> None:
        """Append to ``metrics.jsonl``."""
        if self.metrics is not None:
            self.metrics.append(record)


def _refuse_unfinished(store: Checkpoints) -> None:
    try:
        found = store.load()
    except CheckpointError:
        return  # nothing that could be continued
    if found and found[0]["stop_reason"] not in FINISHED:
        raise CheckpointError(
            f"{store.folder} holds an unfinished run (step {found[0]['step']}); pass resume=True to go on, use another "
            "folder, or delete it."
        )


def _environment() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _compare_environment(saved: dict[str, Any]) -> None:
    now = _environment()
    changed = [f"{k} was {saved.get(k)}, is now {now[k]}" for k in now if saved.get(k) != now[k]]
    if changed:
        warnings.warn(f"resume will not be exact bit for bit: {'; '.join(changed)}.", stacklevel=6)

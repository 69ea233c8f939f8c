"""What a run knows: everything that must survive an interruption, in one place."""

import contextlib
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.training.ema import EMA

COUNTERS = (
    "epoch", "cursor", "step", "seconds", "skipped", "bad_streak", "restores", "lr", "lr_scale",
    "best_val", "best_epoch", "best_step", "plateau_step", "epoch_skipped",
)  # fmt: skip


@dataclasses.dataclass
class Run:
    """The state of a fit, shown to callbacks.

    Attributes:
        model: The model in training; between steps it holds the raw (not averaged) weights.
        optimizer: AdamW.
        ema: Averaged weights or None.
        best: ``state_dict`` of the best weights so far (of the average if there is one).
        order: Generator of the row permutations.
        order_state: Its state before the permutation of the current epoch was drawn.
        epoch: Finished epochs.
        cursor: Batches of the current epoch that are done.
        step: Steps taken, skipped ones included.
        seconds: Training time, that of earlier parts included.
        skipped: Steps skipped because of a non-finite loss or gradient.
        bad_streak: Skipped steps in a row.
        restores: How often the best weights were restored after such a streak.
        lr: Learning rate of the last step that was not skipped.
        lr_scale: Product of all halvings of the learning rate.
        best_val: Best validation loss.
        best_epoch: Its epoch, counted from 1; 0 before the first validation.
        best_step: Its step.
        plateau_step: Step from which the plateau schedule counts.
        epoch_loss: Sum of loss times rows in this epoch.
        epoch_rows: Sum of rows.
        epoch_skipped: Steps skipped in this epoch.
        compiled: Whether steps run compiled; None before that is decided.
        history: Records so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    best: dict[str, Tensor]
    order: torch.Generator
    order_state: Tensor
    epoch: int = 0
    cursor: int = 0
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    bad_streak: int = 0
    restores: int = 0
    lr: float = 0.0
    lr_scale: float = 1.0
    best_val: float = math.inf
    best_epoch: int = 0
    best_step: int = 0
    plateau_step: int = 0
    epoch_loss: float = 0.0
    epoch_rows: float = 0.0
    epoch_skipped: int = 0
    compiled: bool | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model holds the averaged weights, if there is an average."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def counters(self) -> dict[str, Any]:
        """The scalars, JSON-able (an infinite best is None)."""
        out = {name: getattr(self, name) for name in COUNTERS}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in out.items()}


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What came out of a fit.

    Attributes:
        model: The model with the best weights, in evaluation mode.
        history: One record per validation: epoch, step, train_loss, val_loss, lr, seconds, skipped.
            The losses are those of the objective, in its unit.
        best_epoch: Epoch of the returned weights.
        best_val: Their validation loss (NaN without validation).
        steps: Steps taken.
        seconds: Training time.
        stop_reason: "completed", "early_stopping", "time_budget", "interrupted", "callback" or "non_finite".
        signal: Number of the signal that interrupted, or None.
        skipped: Steps skipped because of a non-finite loss or gradient.
        report: For "non_finite": what was seen where.
        compilation: Whether steps ran compiled at the end, and why.

    Example:
        >>> from bijectory import FitConfig, fit, real_nvp
        >>> result = fit(real_nvp(1, layers=1), torch.zeros(9, 1), config=FitConfig(epochs=3, progress=False))
        >>> result.steps, len(result.history), sorted(result.history[0])[:3]
        (3, 3, ['epoch', 'lr', 'seconds'])
    """

    model: nn.Module
    history: list[dict[str, Any]]
    best_epoch: int
    best_val: float
    steps: int
    seconds: float
    stop_reason: str
    signal: int | None = None
    skipped: int = 0
    report: str | None = None
    compilation: str = ""

"""How to train: every setting with its range, checked when it is made."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bijectory.errors import ConfigError

DEFAULT_EPOCHS, DEFAULT_STEPS = 100, 2000  # with neither epochs nor a budget: at least both of these
# Settings that may change between an interrupted run and its continuation: they say when and where, not what.
FREE_ON_RESUME = frozenset(
    {"epochs", "time_budget", "patience", "checkpoint_every", "keep", "out", "resume", "progress", "compile"}
)


class FitConfig(BaseModel):
    """Settings of ``fit``.

    Attributes:
        epochs: Passes over the training rows. None: until ``time_budget``, or, without one, the larger of 100 epochs and
            the epochs that make 2000 steps.
        time_budget: Seconds of training, saved time of earlier parts included. The schedule follows whichever of
            ``epochs`` and ``time_budget`` ends first.
        batch_size: Rows per step; the last, smaller batch of an epoch is kept and weighs as many rows as it has.
        lr: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        schedule: "cosine" (to 0 at the end), "plateau" (halved when validation stalls for ``plateau_patience`` epochs) or
            "constant"; all after a linear warm-up.
        warmup_steps: Steps of linear warm-up, at most a tenth of the run where its length in steps is known.
        plateau_patience: Epochs without improvement before a halving.
        clip_norm: Largest global gradient norm; None for no clipping.
        ema_decay: Decay of an exponential moving average of the weights, which is then what is validated and returned.
        patience: Stop after so many epochs without a better validation loss (an epoch of fewer than 20 steps counts as a
            part of 20 steps); None to go on to the end. The best weights are restored in every case.
        validation_fraction: Part of the rows held out, at least one row; 0 for none.
        seed: Seed of the split, of the order of the rows and of all noise during training.
        checkpoint_every: Seconds between checkpoints (written to ``out``).
        keep: Number of checkpoints kept.
        out: Run folder for ``metrics.jsonl`` and ``checkpoint/``; None writes nothing.
        resume: Go on from the last good checkpoint in ``out``.
        progress: Show progress on stderr.
        compile: "always" runs in native kernels what they know (see ``Flow.compiled``), and compiles models of which they
            know nothing as a whole with ``torch.compile``, which takes minutes for deep ones. "auto" takes the kernels if
            the run is long enough to pay for their compilation: some twenty seconds of plain steps, by counting. It
            decides before the first step, and a continued run goes on as it began. Both fall back to plain steps with a
            warning. On a GPU both also capture the step of an exact flow under ``nll`` as a CUDA graph, which then takes
            the place of ``torch.compile``.
        precision: "full" computes in the dtype of the model; "bf16" lets the networks of a float32 model compute in bfloat16
            while training (autocast). Parameters, gradients and moments, the way of the data through the layers,
            log-determinants and validation stay in float32. It pays on a GPU, seldom on a CPU.

    Raises:
        ConfigError: On an unknown name (the nearest known one is offered), a wrong type, or a value out of range.

    Example:
        >>> FitConfig(epochs=5).batch_size
        256
        >>> FitConfig(learning_rate=1e-3)
        Traceback (most recent call last):
        ...
        bijectory.errors.ConfigError: FitConfig has no setting 'learning_rate'; did you mean 'lr'?
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)

    epochs: int | None = Field(None, ge=1)
    time_budget: float | None = Field(None, gt=0)
    batch_size: int = Field(256, ge=1)
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    plateau_patience: int = Field(5, ge=1)
    clip_norm: float | None = Field(5.0, gt=0)
    ema_decay: float | None = Field(None, ge=0, lt=1)
    patience: int | None = Field(30, ge=1)
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    seed: int = Field(0, ge=0, lt=2**63)
    checkpoint_every: float = Field(60.0, ge=0)
    keep: int = Field(2, ge=1)
    out: Path | None = None
    resume: bool = False
    progress: bool = True
    compile: Literal["never", "auto", "always"] = "auto"
    precision: Literal["full", "bf16"] = "full"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_explain(error, type(self).model_fields)) from None

    def replace(self, **changes: Any) -> Self:
        """A checked copy with some settings changed."""
        return type(self)(**{**self.model_dump(), **changes})

    def total_steps(self, steps_per_epoch: int) -> int | None:
        """Steps of the whole run, or None when only the clock ends it."""
        if self.epochs is not None:
            return self.epochs * steps_per_epoch
        if self.time_budget is not None:
            return None
        return max(DEFAULT_EPOCHS, -(-DEFAULT_STEPS // steps_per_epoch)) * steps_per_epoch

    def identity(self) -> dict[str, Any]:
        """The settings that a continued run must share with its first part, JSON-able."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in FREE_ON_RESUME}


ALIASES = {
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "random_state": "seed",
    "early_stopping": "patience",
}


def _explain(error: ValidationError, fields: Mapping[str, Any]) -> str:
    """One sentence for the first problem of a pydantic error."""
    problem = error.errors()[0]
    name = str(problem["loc"][0]) if problem["loc"] else "?"
    if problem["type"] == "extra_forbidden":
        near = [ALIASES[name]] if name in ALIASES else difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known settings: {', '.join(fields)}."
        return f"FitConfig has no setting {name!r}; {hint}"
    message = problem["msg"].replace("Input should be", "it should be")
    return f"{name}={problem['input']!r} is not valid: {message}."

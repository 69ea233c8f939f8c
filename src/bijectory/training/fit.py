"""The training loop."""

import contextlib
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.errors import CheckpointError, ConfigError, check
from bijectory.objectives import Batch, nll
from bijectory.training import guard, rng
from bijectory.training.callbacks import Callback
from bijectory.training.checkpoint import Checkpoints
from bijectory.training.config import FitConfig
from bijectory.training.data import CHUNK, Data, as_data, digest, prepare
from bijectory.training.ema import EMA
from bijectory.training.progress import Metrics, Progress
from bijectory.training.resume import check_same, finite, pack, unpack
from bijectory.training.schedule import learning_rate
from bijectory.training.signals import Interrupts
from bijectory.training.state import FitResult, Run

Objective = Callable[[nn.Module, Batch], Tensor]
FINISHED = ("completed", "early_stopping", "time_budget", "non_finite")
INIT_ROWS = 16384  # rows for the data-dependent initialisation: bounds its memory, statistics are within 1 %
PATIENCE_STEPS = 20  # an epoch of fewer steps counts as a part of so many for patience
DEFAULTS = FitConfig()


def fit(
    model: nn.Module,
    data: Tensor | tuple[Tensor | None, ...] | Data,
    *,
    objective: Objective = nll,
    config: FitConfig = DEFAULTS,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train a model in place on in-memory data.

    Works for every module and objective; if the model has a method ``initialize(x, c)``, it is called once with all training
    rows before the first step. Afterwards the model holds the best weights by validation loss (the last ones without
    validation) and is in evaluation mode. The global random generators are seeded inside and as before afterwards.

    A run stopped by Ctrl-C, SIGTERM or a crash goes on with ``config.replace(resume=True)``. Where only steps end the
    run (no ``time_budget``) the result equals that of an uninterrupted one bit for bit, on the same machine with the same
    library versions and number of threads. With a budget the seconds already spent
    are counted, but the rates depend on the clock.

    Args:
        model: The module to train.
        data: ``x`` ``(n, *event)``, or ``(x, c)``, or ``(x, c, weight)``, or ``Data``.
        objective: ``(model, batch) -> scalar``, a (weighted) mean over the rows of the batch.
        config: Settings.
        callbacks: Watchers, called in order.

    Raises:
        NonFiniteError: If the data contain NaN or infinity.
        DataError, ShapeError, DtypeError: If the data cannot be used.
        ConfigError: If the model has nothing to train or ``resume`` has no folder.
        CheckpointError: If the folder holds an unfinished run and ``resume`` is off, or another run and it is on.

    Example:
        >>> from bijectory import real_nvp
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
        >>> result = fit(real_nvp(2, layers=2, hidden=(8,)), x, config=FitConfig(epochs=2, progress=False))
        >>> result.stop_reason, result.steps
        ('completed', 2)
    """
    with Interrupts() as interrupts, rng.isolated(config.seed):
        return Trainer(model, data, objective, config, callbacks, interrupts).run_to_end()


class Trainer:
    """One fit: the loop and its parts, in the order in which they happen."""

    def __init__(
        self,
        model: nn.Module,
        data: Tensor | tuple[Tensor | None, ...] | Data,
        objective: Objective,
        config: FitConfig,
        callbacks: Sequence[Callback],
        interrupts: Interrupts,
    ) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        check(bool(self.params), ConfigError, f"{type(model).__name__} has no parameter that requires a gradient.")
        self.device = self.params[0].device
        self.model, self.config, self.interrupts = model, config, interrupts
        self.train, self.valid = prepare(data, config, self.device)
        self.batch_size = min(config.batch_size, len(self.train))
        self.batches = -(-len(self.train) // self.batch_size)
        self.total_steps = config.total_steps(self.batches)
        self.objective = objective
        self.loss = compiled(objective) if config.compile == "always" else objective
        self.identity = {
            "config": config.identity(),
            "objective": getattr(objective, "__qualname__", type(objective).__qualname__),
            "data": digest(as_data(data)) if config.out else {},
        }
        order = torch.Generator().manual_seed(config.seed)
        self.run = Run(
            model=model,
            optimizer=torch.optim.AdamW(
                self.params, lr=config.lr, weight_decay=config.weight_decay, fused=self.device.type in ("cpu", "cuda")
            ),
            ema=EMA(model, config.ema_decay) if config.ema_decay is not None else None,
            best={},
            order=order,
            order_state=order.get_state(),
            epoch_sums=torch.zeros(2, dtype=torch.float64, device=self.device),
        )
        self.report: str | None = None
        self.signum: int | None = None
        self.callbacks = [*callbacks, *([Progress(self.done)] if config.progress else [])]
        self.started = self.saved = time.monotonic()
        self._open()

    # ---- before the first step ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Continue the run in the folder, or begin a new one."""
        config, run = self.config, self.run
        check(config.out is not None or not config.resume, ConfigError, "resume=True needs out, the folder of the run.")
        self.store = Checkpoints(config.out / "checkpoint", config.keep) if config.out else None
        saved = self.store.load() if self.store and config.resume else None
        self.model.train()
        if saved is None:
            self._begin()
        else:
            scalars, tensors = saved
            check_same(scalars.pop("identity"), self.identity)
            run.best = guard.snapshot(self.model)
            unpack(run, scalars, tensors)
        self.earlier = run.seconds
        self.metrics = Metrics(config.out / "metrics.jsonl", run.step) if config.out else None

    def _begin(self) -> None:
        if self.config.resume:
            warnings.warn(f"no checkpoint in {self.config.out}: starting from the beginning.", stacklevel=5)
        elif self.store:
            refuse_unfinished(self.store)
            self.store.clear()
        initialize = getattr(self.model, "initialize", None)
        if initialize is not None:
            rows = self.train
            if len(rows) > INIT_ROWS:
                rows = rows.subset(torch.randperm(len(rows)).to(self.device)[:INIT_ROWS].sort().values)
            with torch.no_grad():
                initialize(rows.x, rows.c)
        if self.run.ema is not None:
            self.run.ema.reset()
        self.run.best = guard.snapshot(self.model)

    # ---- the loop -----------------------------------------------------------------------------------------------------

    def run_to_end(self) -> FitResult:
        """Epochs of steps until there is a reason to stop."""
        run = self.run
        for callback in self.callbacks:
            callback.on_start(run)
        reason = self._why_stop()
        while reason is None:
            for rows in self._remaining_rows():
                self._step(self.train.take(rows))
                reason = self._after_step()
                if reason is not None:
                    break
            if run.cursor == self.batches or reason == "time_budget":
                ended = self._end_epoch()
                reason = reason or ended
        return self._stop(reason)

    def _remaining_rows(self) -> Iterator[Tensor]:
        """Row numbers of the batches left in this epoch; the permutation follows from the generator's saved state."""
        run = self.run
        run.order.set_state(run.order_state)
        order = torch.randperm(len(self.train), generator=run.order).to(self.device)
        return iter(order.split(self.batch_size)[run.cursor :])

    def _step(self, batch: Batch) -> None:
        """One step of the optimiser, or a skipped one."""
        run, config = self.run, self.config
        rows = self.train.weigh(batch)
        run.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model, batch)
        # Every row weighs the same over an epoch, those of a small last batch and of a light one too.
        (loss * (rows / self.batch_size)).backward()
        if config.clip_norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(self.params, config.clip_norm)
        if guard.is_finite(loss, norm):
            for group in run.optimizer.param_groups:
                group["lr"] = self._lr()
            run.optimizer.step()
            if run.ema is not None:
                run.ema.update()
            run.epoch_sums += torch.stack([loss.detach().double() * rows, torch.as_tensor(rows, device=self.device)])
            run.bad_streak = 0
        else:
            self._skip(batch, loss)
        run.step += 1
        run.cursor += 1
        run.seconds = self.earlier + time.monotonic() - self.started

    def _skip(self, batch: Batch, loss: Tensor) -> None:
        run = self.run
        run.skipped += 1
        run.epoch_skipped += 1
        run.bad_streak += 1
        guard.repair_buffers(run)
        if run.bad_streak < guard.MAX_STREAK:
            return
        if run.restores == guard.MAX_RESTORES:
            self.report = guard.diagnose(run, batch, loss)
        else:
            guard.restore_best(run)

    def _after_step(self) -> str | None:
        run = self.run
        if self.report is not None:
            return "non_finite"
        asked = self._tell("on_step", run)
        reason = self._why_stop() or asked
        if reason is None and self.store and time.monotonic() - self.saved >= self.config.checkpoint_every:
            self._save(None)
        return reason

    def _end_epoch(self) -> str | None:
        """Validate, keep the best, write the record; the epoch is over unless the clock cut it short."""
        run = self.run
        val = self.evaluate()
        whole = run.cursor == self.batches
        epoch = run.epoch + 1
        loss, rows = run.epoch_sums.tolist()
        record = {
            "epoch": epoch,
            "step": run.step,
            "train_nll": loss / rows if rows > 0 else None,
            "val_nll": val,
            "lr": run.optimizer.param_groups[0]["lr"],
            "seconds": round(run.seconds, 3),
            "skipped": run.epoch_skipped,
        }
        if val is None or val < run.best_val:
            self._keep_best(val, epoch)
        elif self.config.schedule == "plateau":
            wait = self.config.plateau_patience * max(self.batches, PATIENCE_STEPS)
            if run.step - max(run.plateau_step, run.best_step) >= wait:
                run.lr_scale *= 0.5
                run.plateau_step = run.step
        run.history.append(record)
        if self.metrics is not None:
            self.metrics.append(record)
        if whole:
            run.epoch, run.cursor, run.epoch_skipped = epoch, 0, 0
            run.epoch_sums.zero_()
            run.order_state = run.order.get_state()
        return self._tell("on_epoch", run, record) or self._why_stop()

    def _keep_best(self, val: float | None, epoch: int) -> None:
        run = self.run
        with run.ema.applied() if run.ema else contextlib.nullcontext():
            run.best = guard.snapshot(self.model)
        run.best_epoch, run.best_step = epoch, run.step
        if val is not None:
            run.best_val = val

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Validation loss of the averaged weights, in chunks, always with the same noise; None without validation."""
        if self.valid is None:
            return None
        run, noise = self.run, rng.capture()
        torch.manual_seed(self.config.seed)
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        with run.ema.applied() if run.ema else contextlib.nullcontext():
            for batch in self.valid.chunks(max(CHUNK, self.batch_size)):
                rows = torch.as_tensor(self.valid.weigh(batch), dtype=torch.float64, device=self.device)
                total += torch.stack([self.loss(self.model, batch).double() * rows, rows])
        self.model.train()
        rng.restore(noise)
        loss, rows_seen = total.tolist()
        return loss / rows_seen

    # ---- decisions ----------------------------------------------------------------------------------------------------

    def done(self, run: Run) -> float:
        """Part of the run that is done, in [0, 1]."""
        steps = 0.0 if self.total_steps is None else run.step / self.total_steps
        return max(steps, run.seconds / self.config.time_budget if self.config.time_budget else 0.0)

    def _lr(self) -> float:
        run = self.run
        return learning_rate(self.config, run.step, self.total_steps, run.seconds, run.lr_scale)

    def _why_stop(self) -> str | None:
        run, config = self.run, self.config
        if self.interrupts.signum is not None:
            self.signum = self.interrupts.signum
            return "interrupted"
        if run.cursor == 0 and self.total_steps is not None and run.step >= self.total_steps:
            return "completed"
        if config.time_budget is not None and run.seconds >= config.time_budget:
            return "time_budget"
        if run.cursor == 0 and self.valid is not None and config.patience is not None:
            wait = config.patience * max(self.batches, PATIENCE_STEPS)
            if run.step - run.best_step >= wait:
                return "early_stopping"
        return None

    def _tell(self, hook: str, *args: Any) -> str | None:
        """Call the hook of every callback; a KeyboardInterrupt there counts as Ctrl-C."""
        try:
            asked = [getattr(callback, hook)(*args) for callback in self.callbacks]
        except KeyboardInterrupt:
            self.signum = signal.SIGINT
            return "interrupted"
        return "callback" if any(answer is True for answer in asked) else None

    # ---- after the last step ------------------------------------------------------------------------------------------

    def _save(self, reason: str | None) -> None:
        self.saved = time.monotonic()
        if self.store is None:
            return
        if not finite(self.run):
            warnings.warn(f"checkpoint at step {self.run.step} not saved: the state is not finite", stacklevel=2)
            return
        scalars, tensors = pack(self.run)
        self.store.save(self.run.step, scalars | {"identity": self.identity, "stop_reason": reason}, tensors)

    def _stop(self, reason: str) -> FitResult:
        run = self.run
        self._save(reason)
        if reason != "non_finite" and (self.valid is None or run.best_epoch == 0):
            self._keep_best(None, run.best_epoch)  # nothing to choose by: the last weights
        self.model.load_state_dict(run.best)
        self.model.eval()
        result = FitResult(
            model=self.model,
            history=run.history,
            best_epoch=run.best_epoch,
            best_val=run.best_val if math.isfinite(run.best_val) else math.nan,
            steps=run.step,
            seconds=run.seconds,
            stop_reason=reason,
            signal=self.signum,
            skipped=run.skipped,
            report=self.report,
        )
        for callback in self.callbacks:
            callback.on_stop(run, result)
        if reason == "interrupted" and self.store and self.config.progress:
            print(f"saved in {self.config.out}; go on with resume=True (--resume)", file=sys.stderr, flush=True)
        return result


def refuse_unfinished(store: Checkpoints) -> None:
    """Raise CheckpointError if the newest checkpoint is of a run that did not come to its end."""
    try:
        found = store.load()
    except CheckpointError:
        return  # nothing that could be continued
    if found and found[0]["stop_reason"] not in FINISHED:
        raise CheckpointError(
            f"{store.folder} holds an unfinished run (step {found[0]['step']}); pass resume=True to go on, use another "
            "folder, or delete it."
        )


def compiled(objective: Objective) -> Objective:
    """The objective under ``torch.compile``; the first failure falls back to eager execution with one warning."""
    fast: Objective = torch.compile(objective, dynamic=True)
    broken = False

    def call(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal broken
        if not broken:
            try:
                return fast(model, batch)
            except Exception as error:  # an error of the model itself comes again from the eager call
                broken = True
                text = str(error).strip().splitlines()
                warnings.warn(f"compile failed, going on without ({text[0] if text else error!r})", stacklevel=2)
        return objective(model, batch)

    return call

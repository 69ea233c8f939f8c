"""The training loop: ``fit`` sets the table, ``Loop`` goes through epochs and steps."""

import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.errors import ConfigError, check
from bijectory.nets.redrawn import redrawn, redrawn_parts
from bijectory.objectives import Batch, ReverseKL, nll
from bijectory.objectives.batch import Objective
from bijectory.training import guard, rng
from bijectory.training.callbacks import Callback
from bijectory.training.compilation import Compilation
from bijectory.training.config import FitConfig
from bijectory.training.data import CHUNK, CHUNK_VALUES, Data, Rows, as_data, digest, prepare
from bijectory.training.ema import EMA
from bijectory.training.evaluate import mean_loss, quietly
from bijectory.training.gradients import Gradients
from bijectory.training.progress import Progress
from bijectory.training.schedule import Schedule
from bijectory.training.session import Session
from bijectory.training.signals import Interrupts
from bijectory.training.state import FitResult, Run
from bijectory.training.update import Update, shorten
from bijectory.transforms import Chain, Transform
from bijectory.transforms.chain import sink_of

INIT_ROWS = 16384  # rows for the data-dependent initialisation: bounds its memory, statistics are within 1 %
INIT_VALUES = 1 << 20  # the same for events as large as images, whose pixels add to the statistics
PROBE_ROWS = 256  # rows whose loss ties a checkpoint to the model that wrote it
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

    Works for every module and objective; if the model has a method ``initialize(x, c)``, it is called once with training
    rows before the first step. Afterwards the model holds the best weights by validation loss (the last ones without
    validation) and is in evaluation mode. The global random generators are seeded inside and as before afterwards.

    A run stopped by Ctrl-C, SIGTERM or a crash goes on with ``config.replace(resume=True)``. Where only steps end the
    run (no ``time_budget``) the result equals that of an uninterrupted one bit for bit, on the same machine with the same
    library versions and number of threads. With a budget the seconds already spent are counted, but the rates depend on
    the clock. Compiled steps equal plain ones to rounding only, so what ``compile="auto"`` decides at the start holds for
    every continuation; ``torch.compile`` (``"always"`` for models without kernels) need not make the same code twice.

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
        params = [p for p in model.parameters() if p.requires_grad]
        check(bool(params), ConfigError, f"{type(model).__name__} has no parameter that requires a gradient.")
        train, valid = prepare(data, config, params[0].device)
        identity = {
            "config": config.identity(),
            "objective": getattr(objective, "__qualname__", type(objective).__qualname__),
            "data": digest(as_data(data)) if config.out else {},
        }
        session = Session(config, identity)
        loop = Loop(model, params, train, valid, objective, config, session, interrupts, callbacks)
        try:
            loop.open()
            return loop.close(loop.train_until_reason())
        finally:
            loop.update.lend(None)
            loop.compilation.stop()
            if loop.progress is not None:
                loop.progress.close()


class Loop:
    """One fit: open, epochs of steps, close. All that must survive an interruption is in ``run``."""

    def __init__(
        self,
        model: nn.Module,
        params: list[nn.Parameter],
        train: Rows,
        valid: Rows | None,
        objective: Objective,
        config: FitConfig,
        session: Session,
        interrupts: Interrupts,
        callbacks: Sequence[Callback],
    ) -> None:
        self.model, self.params, self.train, self.valid = model, params, train, valid
        self.config, self.session, self.interrupts = config, session, interrupts
        self.objective = objective
        self.compilation = Compilation(config.compile, model, objective)
        self.batch_size = min(config.batch_size, len(train))
        self.batches = -(-len(train) // self.batch_size)  # per epoch
        self.total_steps = config.total_steps(self.batches)
        self.schedule = Schedule(config, self.total_steps)
        self.progress = Progress(self.done) if config.progress else None
        self.callbacks = [*callbacks, *([self.progress] if self.progress else [])]
        self.signum: int | None = None
        self.report: str | None = None
        self.run = new_run(model, params, config)
        self.update = Update(self.run.optimizer, params)
        sample = next(train.chunks(self.batch_size))
        self.gradients = Gradients(model, params, sample, config.precision, self.update)

    def open(self) -> None:
        """Continue the run in the folder, or begin a new one."""
        run = self.run
        self.started = time.monotonic()
        self.noisy = redrawn_parts(self.model)
        self.model.train()
        if self.session.resume(run):
            self.session.check_probe(self.probe())
        else:
            initialize(self.model, self.train)
            if run.ema is not None:
                run.ema.reset()
            run.best = guard.snapshot(self.model)
        self.begin_compiled()
        self.earlier = self.saved = run.seconds  # of the parts before this one
        for callback in self.callbacks:
            callback.on_start(run)

    def begin_compiled(self) -> None:
        """Compile the steps if asked for, or if the work ahead is worth it."""
        run, config = self.run, self.config
        steps = math.inf if self.total_steps is None else self.total_steps
        budget = math.inf if config.time_budget is None else config.time_budget
        run.compiled = self.compilation.begin(steps, self.batch_size, budget, earlier=run.compiled)
        if run.compiled and type(self.model) is Flow and _pulled_once(self.objective):
            self.update.lend(sink_of(self.model.transform))
        if config.compile == "auto" and config.progress:
            print(self.compilation, file=sys.stderr, flush=True)

    def train_until_reason(self) -> str:
        """Epochs of steps until there is a reason to stop."""
        run = self.run
        reason = self.why_stop()
        while reason is None:
            for batch in self.remaining_batches():
                self.step(batch)
                reason = self.after_step()
                if reason is not None:
                    break
            if run.cursor == self.batches or reason == "time_budget":
                ended = self.end_epoch()
                reason = reason or ended
        return reason

    def remaining_batches(self) -> Iterator[Batch]:
        """The batches left in this epoch; the permutation follows from the generator's saved state."""
        run = self.run
        run.order.set_state(run.order_state)
        order = torch.randperm(len(self.train), generator=run.order).to(self.train.x.device)
        return self.train.batches(order, self.batch_size, run.cursor)

    def step(self, batch: Batch) -> None:
        """One step of the optimiser, or a skipped one."""
        run, config = self.run, self.config
        rows = float(self.train.weigh(batch))
        loss, norm = self.pull_gradients(batch, rows / self.batch_size)
        loss_value, norm_value = guard.values(loss, norm)
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            if config.clip_norm is not None and norm_value + 1e-6 > config.clip_norm:
                shorten(self.update.gradients(), config.clip_norm, norm, norm_value)
            run.lr = self.schedule(run.step, run.seconds, run.lr_scale)
            self.update.step(run.lr)
            if run.ema is not None:
                run.ema.update()
            run.epoch_loss += loss_value * rows
            run.epoch_rows += rows
            run.bad_streak = 0
        else:
            self.report = guard.skip(run, batch, loss)
        run.step += 1
        run.cursor += 1
        run.seconds = self.earlier + time.monotonic() - self.started

    def pull_gradients(self, batch: Batch, share: float) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the norm of its gradients, which are left in the parameters."""
        compilation = self.compilation
        try:
            with redrawn(self.noisy):  # until the backward pass is done, which may look at the noise again
                return self.gradients(compilation.loss, batch, share, capture=compilation.captures)
        except Exception as error:
            if not compilation.give_up(error):
                raise
            self.run.compiled = False
            self.update.lend(None)
            return self.pull_gradients(batch, share)

    def after_step(self) -> str | None:
        """Tell the callbacks, look for a reason to stop, save if it is time."""
        if self.report is not None:
            return "non_finite"
        asked = self.tell("on_step", self.run)
        reason = self.why_stop() or asked
        if reason is None and self.run.seconds - self.saved >= self.config.checkpoint_every:
            self.save(None)
        return reason

    def end_epoch(self) -> str | None:
        """Validate, keep the best, write the record; the epoch is over unless the clock cut it short."""
        run = self.run
        val, epoch = self.validate(), run.epoch + 1
        record = {
            "epoch": epoch,
            "step": run.step,
            "train_loss": run.epoch_loss / run.epoch_rows if run.epoch_rows > 0 else None,
            "val_loss": val,
            "lr": run.lr,
            "seconds": round(run.seconds, 3),
            "skipped": run.epoch_skipped,
        }
        if val is None or val < run.best_val:
            self.keep_best(val, epoch)
        elif self.config.schedule == "plateau" and self.stalled(self.config.plateau_patience, run.plateau_step):
            run.lr_scale *= 0.5
            run.plateau_step = run.step
        run.history.append(record)
        self.session.record(record)
        if run.cursor == self.batches:
            run.epoch, run.cursor, run.epoch_skipped = epoch, 0, 0
            run.epoch_loss = run.epoch_rows = 0.0
            run.order_state = run.order.get_state()
        asked = self.tell("on_epoch", run, record)
        return self.why_stop() or asked

    def keep_best(self, val: float | None, epoch: int) -> None:
        """Remember the present weights (their average, if there is one) as the best."""
        run = self.run
        with run.averaged():
            run.best = guard.snapshot(self.model)
        run.best_epoch, run.best_step = epoch, run.step
        if val is not None:
            run.best_val = val

    def validate(self) -> float | None:
        """Validation loss of the averaged weights, in chunks of bounded size; None without validation."""
        if self.valid is None:
            return None
        size = max(self.valid.within(CHUNK, CHUNK_VALUES), self.batch_size)
        with quietly(self.model, self.config.seed), self.run.averaged():
            return mean_loss(self.compilation.loss, self.model, self.valid, self.valid.chunks(size))

    def probe(self) -> float:
        """Loss of the raw weights on the first training rows."""
        with quietly(self.model, self.config.seed):
            return float(self.objective(self.model, next(self.train.chunks(PROBE_ROWS))))

    def save(self, reason: str | None) -> None:
        """Write a checkpoint, if the run has a folder."""
        self.saved = self.run.seconds
        if self.session.store is not None:
            self.session.save(self.run, reason, self.probe())

    def done(self, run: Run) -> float:
        """Part of the run that is done, in [0, 1]."""
        steps = 0.0 if self.total_steps is None else run.step / self.total_steps
        return max(steps, run.seconds / self.config.time_budget if self.config.time_budget else 0.0)

    def stalled(self, patience: int, since: int = 0) -> bool:
        """Whether validation has not improved for ``patience`` epochs, counted from step ``since`` at the earliest."""
        return self.run.step - max(self.run.best_step, since) >= patience * max(self.batches, PATIENCE_STEPS)

    def why_stop(self) -> str | None:
        """The reason to stop before the next step, if there is one."""
        run, config = self.run, self.config
        if self.interrupts.signum is not None:
            self.signum = self.interrupts.signum
            return "interrupted"
        if config.time_budget is not None and run.seconds >= config.time_budget:
            return "time_budget"
        if run.cursor > 0:
            return None
        if self.total_steps is not None and run.step >= self.total_steps:
            return "completed"
        if self.valid is not None and config.patience is not None and self.stalled(config.patience):
            return "early_stopping"
        return None

    def tell(self, hook: str, *args: object) -> str | None:
        """Call the hook of every callback; a KeyboardInterrupt there counts as Ctrl-C."""
        try:
            answers = [getattr(callback, hook)(*args) for callback in self.callbacks]
        except KeyboardInterrupt:
            self.signum = signal.SIGINT
            return "interrupted"
        return "callback" if any(answer is True for answer in answers) else None

    def close(self, reason: str) -> FitResult:
        """Save, put the best weights into the model, and say what happened."""
        run = self.run
        self.save(reason)
        if reason != "non_finite" and (self.valid is None or run.best_epoch == 0):
            self.keep_best(None, run.best_epoch)  # nothing to choose by: the last weights
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
            compilation=str(self.compilation),
        )
        for callback in self.callbacks:
            callback.on_stop(run, result)
        if reason == "interrupted" and self.session.store and self.config.progress:
            print(f"saved in {self.config.out}; go on with resume=True (--resume)", file=sys.stderr, flush=True)
        return result


def new_run(model: nn.Module, params: list[nn.Parameter], config: FitConfig) -> Run:
    """A run at step 0."""
    order = torch.Generator().manual_seed(config.seed)
    fused = params[0].device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in params)
    return Run(
        model=model,
        optimizer=torch.optim.AdamW(params, lr=config.lr, weight_decay=config.weight_decay, fused=fused),
        ema=EMA(model, config.ema_decay) if config.ema_decay is not None else None,
        best=guard.snapshot(model),
        order=order,
        order_state=order.get_state(),
    )


def _pulled_once(objective: Objective) -> bool:
    """Whether a loss is differentiated by one ``backward`` and no more, so that gradients may go past the graph."""
    return objective is nll or type(objective) is ReverseKL


def initialize(model: nn.Module, train: Rows) -> None:
    """Data-dependent initialisation, for models that have one."""
    method = getattr(model, "initialize", None)
    if method is None or (type(model) is Flow and not any(map(_looks_at_data, model.modules()))):
        return
    rows = train.all()
    few = train.within(INIT_ROWS, INIT_VALUES)
    if len(train) > few:
        rows = train.take(torch.randperm(len(train))[:few].sort().values.to(train.x.device))
    with torch.no_grad():
        method(rows.x, rows.c)


def _looks_at_data(module: nn.Module) -> bool:
    """Whether a layer takes something from the rows; a chain, which leads them through all layers, does not by itself."""
    return isinstance(module, Transform) and type(module).initialize not in (Transform.initialize, Chain.initialize)

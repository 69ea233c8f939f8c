"""Learning rate as a pure function of progress: nothing to save, nothing to get out of step."""

import math

from bijectory.training.config import FitConfig


def learning_rate(config: FitConfig, step: int, total_steps: int | None, elapsed: float, scale: float) -> float:
    """Learning rate of a step.

    Warm-up is linear in steps. The cosine follows the fraction of the run that is done: of its steps, of its seconds,
    or the larger of both when both end it. Only the first is reproducible bit for bit.

    Args:
        config: Settings of the run.
        step: Number of the step, from 0.
        total_steps: Length of the run, None if only the clock ends it.
        elapsed: Seconds of training so far.
        scale: Product of the halvings (plateaus, restored states).
    """
    warmup = config.warmup_steps if total_steps is None else min(config.warmup_steps, total_steps // 10)
    lr = config.lr * scale * min(1.0, (step + 1) / (warmup + 1))
    if config.schedule != "cosine":
        return lr
    done = 0.0 if total_steps is None else max(0, step - warmup) / max(1, total_steps - warmup)
    if config.time_budget is not None:
        done = max(done, elapsed / config.time_budget)
    return lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

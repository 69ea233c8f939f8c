"""Learning rate as a pure function of progress: nothing to save, nothing to get out of step."""

import math

from bijectory.training.config import FitConfig


class Schedule:
    """Learning rate of every step of a run.

    Warm-up is linear in steps. The cosine follows the fraction of the run that is done: of its steps, of its seconds,
    or the larger of both when both end it. Only the first is reproducible bit for bit.

    Args:
        config: Settings of the run.
        total_steps: Length of the run, None if only the clock ends it.
    """

    def __init__(self, config: FitConfig, total_steps: int | None) -> None:
        self.lr, self.cosine, self.budget = config.lr, config.schedule == "cosine", config.time_budget
        self.warmup = config.warmup_steps if total_steps is None else min(config.warmup_steps, total_steps // 10)
        self.rest = None if total_steps is None else max(1, total_steps - self.warmup)

    def __call__(self, step: int, elapsed: float, scale: float) -> float:
        """Learning rate of a step.

        Args:
            step: Number of the step, from 0.
            elapsed: Seconds of training so far.
            scale: Product of the halvings (plateaus, restored states).
        """
        lr, after = self.lr * scale, step - self.warmup
        if after < 0:
            lr *= (step + 1) / (self.warmup + 1)
        if not self.cosine:
            return lr
        done = 0.0 if after < 0 or self.rest is None else min(after / self.rest, 1.0)
        if self.budget is not None:
            done = max(done, min(elapsed / self.budget, 1.0))
        return lr * 0.5 * (1 + math.cos(math.pi * done))

"""Annealing of variational training."""

from typing import TYPE_CHECKING

from bijectory.errors import ConfigError, check
from bijectory.objectives import AlphaDivergence, NegativeElbo, ReverseKL
from bijectory.training.callbacks import Callback

if TYPE_CHECKING:
    from bijectory.training.state import Run


class Anneal(Callback):
    r"""Raises the weight of the target (of the KL term), :math:`\beta_t = \min(1, \beta_0 + t / T)` at step :math:`t`.

    With a small :math:`\beta` the model first spreads over the modes, and an autoencoder first learns to reconstruct.
    Validation, and with it the choice of the best weights, is always at :math:`\beta = 1`.

    Args:
        objective: The objective in training.
        steps: :math:`T`, the steps until (almost) 1; the paper takes 10,000.
        start: :math:`\beta_0`.

    Raises:
        ConfigError: If ``steps < 1`` or ``start`` is not between 0 and 1.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 20.

    Example:
        >>> objective = ReverseKL(lambda x: -x.square().sum(-1))
        >>> Anneal(objective, steps=1000).start, objective.beta
        (0.01, 0.01)
    """

    def __init__(
        self, objective: ReverseKL | AlphaDivergence | NegativeElbo, steps: int = 10_000, start: float = 0.01
    ) -> None:
        check(steps >= 1, ConfigError, f"steps must be at least 1, got {steps}.")
        check(0 <= start <= 1, ConfigError, f"start must be between 0 and 1, got {start}.")
        self.objective, self.steps, self.start = objective, steps, start
        self._set(0)

    def _set(self, step: int) -> None:
        self.objective.beta = min(1.0, self.start + step / self.steps)

    def on_start(self, run: "Run") -> None:
        self._set(run.step)

    def on_step(self, run: "Run") -> None:
        self._set(run.step)

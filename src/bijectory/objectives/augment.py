"""Objectives on altered batches: noise on the data, contexts left out."""

import dataclasses
import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, ContextError, check
from bijectory.objectives.batch import Batch, Objective
from bijectory.objectives.likelihood import nll


@dataclasses.dataclass(frozen=True)
class NoisyData:
    r"""Another objective on :math:`\tilde x = x + \sigma \varepsilon` with standard normal noise, drawn anew each time.

    The model becomes one of noisy data; ``denoise`` takes the noise off its draws. In validation the noise is there too.

    Args:
        sigma: Standard deviation of the noise, in the units of the data.
        objective: What to compute.

    Raises:
        ConfigError: If ``sigma`` is negative or not finite.

    References:
        Normalizing Flows are Capable Generative Models (TarFlow), Zhai+ 2024, arXiv:2412.06329.

    Example:
        >>> from bijectory import StandardNormal
        >>> batch = Batch(torch.zeros(10_000, 1))
        >>> loss = NoisyData(1.0)(StandardNormal(1), batch)  # 0.9189 + E[noise^2] / 2
        >>> bool(abs(loss - 1.4189) < 0.1)
        True
    """

    sigma: float
    objective: Objective = nll

    def __post_init__(self) -> None:
        ok = math.isfinite(self.sigma) and self.sigma >= 0
        check(ok, ConfigError, f"sigma must be a finite number of at least 0, got {self.sigma!r}.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Evaluate the objective on noisy rows."""
        return self.objective(model, batch._replace(x=batch.x + self.sigma * torch.randn_like(batch.x)))


@dataclasses.dataclass(frozen=True)
class ContextDropout:
    """Another objective on contexts of which a part, drawn anew each time, is replaced by the empty one.

    The model then knows the density without context as well, which ``guided_sample`` needs. Only in training mode:
    validation sees every context.

    Args:
        probability: Part of the rows whose context is left out.
        null: The empty context, shaped like one row of contexts; None: zeros.
        objective: What to compute.

    Raises:
        ConfigError: If ``probability`` is not in ``[0, 1]``.
        ContextError: When called on a batch without context.

    References:
        Classifier-Free Diffusion Guidance, Ho, Salimans 2022, arXiv:2207.12598, alg. 1.

    Example:
        >>> from bijectory import tarflow
        >>> flow = tarflow(2, context=3, layers=2, width=8)
        >>> ContextDropout(0.1)(flow, Batch(torch.zeros(5, 2), torch.eye(3)[[0, 1, 2, 0, 1]])).shape
        torch.Size([])
    """

    probability: float = 0.1
    null: Tensor | None = None
    objective: Objective = nll

    def __post_init__(self) -> None:
        ok = 0 <= self.probability <= 1
        check(ok, ConfigError, f"probability must lie in [0, 1], got {self.probability!r}.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Evaluate the objective with a part of the contexts left out."""
        c = batch.c
        if c is None:
            raise ContextError("there is no context to leave out; pass (x, c) as data.")
        if model.training:
            null = torch.zeros_like(c[:1]) if self.null is None else self.null.to(c)
            left_out = torch.rand(len(c), *(1,) * (c.dim() - 1), device=c.device) < self.probability
            batch = batch._replace(c=torch.where(left_out, null, c))
        return self.objective(model, batch)

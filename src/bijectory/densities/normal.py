"""Normal bases."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.densities.base import Density
from bijectory.ops.shape import draw_shape, sum_event


class StandardNormal(Density):
    r"""Standard normal :math:`N(0, I)` on events of any shape.

    Args:
        event_shape: An int (number of features) or a shape.

    Example:
        >>> StandardNormal(2).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    _like: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self.register_buffer("_like", torch.empty(0), persistent=False)  # carries dtype and device

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi) * self.event_shape.numel()
        return -0.5 * sum_event(x.square(), len(self.event_shape)) - constant

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = draw_shape(shape, c, self.event_shape)
        return torch.randn(size, generator=generator, dtype=self._like.dtype, device=self._like.device)

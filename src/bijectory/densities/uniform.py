"""Uniform base on a box."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.densities.base import Density, as_event_shape
from bijectory.errors import ConfigError, check
from bijectory.ops.shape import draw_shape, sum_event

Bound = float | Sequence["Bound"]


class BoxUniform(Density):
    r"""Uniform density on the closed box :math:`\prod_i [l_i, u_i]`.

    Inside, :math:`\log p = -\sum_i \log(u_i - l_i)`; outside it is :math:`-\infty`, and NaN at NaN.

    Args:
        event_shape: An int (number of features) or a shape.
        lower: A number, or nested sequences that broadcast to ``event_shape``.
        upper: Likewise.

    Raises:
        ConfigError: If the bounds do not broadcast, are not finite, or not ``lower < upper``.

    Example:
        >>> BoxUniform(2, upper=(1.0, 2.0)).log_prob(torch.tensor([[0.5, 1.5], [1.5, 0.5]]))
        tensor([-0.6931,    -inf])
    """

    _like: Tensor

    def __init__(self, event_shape: int | Sequence[int], lower: Bound = 0.0, upper: Bound = 1.0) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.lower, self.upper = lower, upper
        try:
            low, high = (torch.tensor(b, dtype=torch.float64).expand(self.event_shape) for b in (lower, upper))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"lower and upper must be numbers or broadcast to {tuple(self.event_shape)}.") from error
        ok = bool((low.isfinite() & high.isfinite() & (low < high)).all())
        check(ok, ConfigError, f"the box needs finite lower < upper, got lower={lower!r}, upper={upper!r}.")
        self._log_volume = float((high - low).log().sum())
        self.register_buffer("_like", torch.empty(0), persistent=False)  # carries dtype and device

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        # From the numbers, not from a buffer: a float32 buffer of 0.1 would stay wrong after ``.double()``.
        low, high = (torch.tensor(b, dtype=like.dtype, device=like.device) for b in (self.lower, self.upper))
        return low, high

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        low, high = self._bounds(x)
        inside = (x >= low) & (x <= high)
        flat = torch.where(inside, x, 0.0) * 0.0  # zero, but part of the graph: the score of a uniform density is zero
        outside = torch.where(x.isnan(), x, -math.inf)
        return sum_event(torch.where(inside, flat, outside), len(self.event_shape)) - self._log_volume

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        low, high = self._bounds(self._like)
        size = draw_shape(shape, c, self.event_shape)
        u = torch.rand(size, generator=generator, dtype=self._like.dtype, device=self._like.device)
        return torch.lerp(low, high, u)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        low, high = self._bounds(self._like)
        return torch.lerp(low, high, u.to(low.dtype))

"""Normal bases."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, as_event_shape, open_unit
from bijectory.densities.validate import check_context
from bijectory.errors import ConfigError, ContextError, check
from bijectory.nets import MLP
from bijectory.ops.scalar import soft_bound
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
        self.event_shape = as_event_shape(event_shape)
        self.register_buffer("_like", torch.empty(0), persistent=False)  # carries dtype and device

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self._log_prob(x)

    def _log_prob(self, x: Tensor) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi) * self.event_shape.numel()
        return torch.rsub(sum_event(x.square(), len(self.event_shape)), -constant, alpha=0.5)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = draw_shape(shape, c, self.event_shape)
        return torch.randn(size, generator=generator, dtype=self._like.dtype, device=self._like.device)

    def rsample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.rsample(shape, c, generator=generator)
        return x, self._log_prob(x)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        return torch.special.ndtri(open_unit(u)).to(self._like.dtype)


class DiagonalNormal(Density):
    r"""Normal :math:`N(\mu, \operatorname{diag}(e^{2s}))` with learned mean and log-scale, or with both read from a context.

    .. math:: \log p(x) = -\tfrac12 \sum_i \left(\frac{x_i - \mu_i}{e^{s_i}}\right)^2 - \sum_i s_i - \tfrac d2 \log 2\pi

    The log-scale is softly bounded, :math:`s = S\tanh(a/S)`. Starts as the standard normal (near it, with a context).

    Args:
        event_shape: An int (number of features) or a shape.
        context: Width of the context; 0 makes ``loc`` and ``log_scale`` plain weights.
        hidden: Hidden widths of the conditioner (with context only).
        net: A conditioner of your own, ``net(c[..., :0], c) -> (*batch, 2 * event_shape.numel())``: means, then log-scales.
        max_log_scale: The bound ``S > 0`` on ``|s|``.

    Raises:
        ConfigError: If ``max_log_scale`` is not a positive finite number.
        ContextError: From every method, if the context is missing.

    Example:
        >>> DiagonalNormal(2).log_prob(torch.zeros(2))
        tensor(-1.8379, grad_fn=<SubBackward0>)
        >>> DiagonalNormal(2, context=3).sample(5, torch.zeros(7, 3)).shape
        torch.Size([5, 7, 2])
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        max_log_scale: float = 10.0,
    ) -> None:
        super().__init__()
        check(
            math.isfinite(max_log_scale) and max_log_scale > 0,
            ConfigError,
            f"max_log_scale must be a positive finite number, got {max_log_scale!r}.",
        )
        self.event_shape = as_event_shape(event_shape)
        self.context, self.hidden, self.max_log_scale = context, tuple(hidden), max_log_scale
        self.register_parameter("loc", None if context else nn.Parameter(torch.zeros(self.event_shape)))
        self.register_parameter("log_scale", None if context else nn.Parameter(torch.zeros(self.event_shape)))
        self.net = (net or MLP(0, 2 * self.event_shape.numel(), hidden, context)) if context else None

    def moments(self, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and (bounded) log-scale, ``(*batch of c, *event)`` each."""
        if self.net is None:
            return self.loc, soft_bound(self.log_scale, self.max_log_scale)
        if c is None:
            raise ContextError(f"this density was built with context={self.context} but got context=None.")
        check_context(self, c, self.context)
        loc, raw = self.net(c[..., :0], c).unflatten(-1, (2, *self.event_shape)).unbind(-1 - len(self.event_shape))
        return loc, soft_bound(raw, self.max_log_scale)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        loc, s = self.moments(c)
        return self._log_prob((x - loc) * (-s).exp(), s)

    def _log_prob(self, noise: Tensor, s: Tensor) -> Tensor:
        constant = 0.5 * math.log(2 * math.pi) * self.event_shape.numel()
        return -sum_event(0.5 * noise.square() + s, len(self.event_shape)) - constant

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self._draw(shape, c, generator)[0]

    def rsample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        x, noise, s = self._draw(shape, c, generator)
        return x, self._log_prob(noise, s)

    def _draw(
        self, shape: int | tuple[int, ...], c: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        loc, s = self.moments(c)
        size = draw_shape(shape, c, self.event_shape)
        noise = torch.randn(size, generator=generator, dtype=loc.dtype, device=loc.device)
        return loc + noise * s.exp(), noise, s

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        loc, s = self.moments(c)
        return loc + torch.special.ndtri(open_unit(u)).to(loc.dtype) * s.exp()

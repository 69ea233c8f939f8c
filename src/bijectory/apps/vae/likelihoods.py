r"""What a decoder says about an event: conditional distributions :math:`p(x|z)` whose parameters a network puts out.

Values are independent given the latent. A network is any module ``z (n, latent) -> raw parameters``, ``n_params`` for each
value of the event: ``(n, n_params, *event)``, or any shape with as many numbers in that order.
"""

import abc
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from bijectory.densities import Density
from bijectory.densities.base import as_event_shape
from bijectory.errors import ConfigError, ContextError, ShapeError, check, check_type
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import draw_shape, sum_event
from bijectory.spec import register

Scales = Literal["shared", "value", "decoded"]
MAX_LOG_SCALE = 7.0


class Likelihood(Density, abc.ABC):
    """Distribution of events given a latent: the decoder of a ``VAE``.

    ``log_prob(x, z)`` and ``sample(shape, z)`` are those of every density with the latent as its context; ``mean(z)`` is
    the mean of the events. For one of your own derive from this class, or give a network to one of the classes here.

    Args:
        event_shape: Shape of an event, or a number of features.
        latent: Width of the latent.
        net: The decoder network.

    Attributes:
        n_params: Numbers that the network puts out for each value.
    """

    n_params: int = 1

    def __init__(self, event_shape: int | Sequence[int], latent: int, net: nn.Module) -> None:
        super().__init__()
        check(latent >= 1, ConfigError, f"latent must be at least 1, got {latent}.")
        check_type(net, nn.Module, "net")
        self.event_shape, self.latent, self.context, self.net = as_event_shape(event_shape), latent, latent, net

    @abc.abstractmethod
    def mean(self, c: Tensor) -> Tensor:
        """Mean of the events given latents: ``(*batch, latent) -> (*batch, *event)``."""

    def phi(self, c: Tensor | None) -> tuple[Tensor, ...]:
        """Raw parameters of every value, ``n_params`` tensors ``(*batch, *event)``.

        Raises:
            ContextError: If the latent is missing.
            ShapeError: If the network puts out another number of values.
        """
        if c is None:
            raise ContextError(f"this likelihood was built with latent={self.latent} but got no latent.")
        rows = math.prod(c.shape[:-1])
        raw = self.net(c.reshape(rows, self.latent))
        per_row = self.n_params * self.event_shape.numel()
        check(
            raw.numel() == rows * per_row and raw.shape[:1] == (rows,),
            ShapeError,
            f"the decoder turns latents ({rows}, {self.latent}) into {tuple(raw.shape)}, expected ({rows}, "
            f"{self.n_params}, {', '.join(map(str, self.event_shape))}), or any shape of {per_row} numbers a row.",
        )
        return raw.reshape(*c.shape[:-1], self.n_params, *self.event_shape).unbind(-1 - len(self.event_shape))

    def _sum(self, value: Tensor) -> Tensor:
        return sum_event(value, len(self.event_shape))

    def _repeated(self, shape: int | tuple[int, ...], c: Tensor | None, *phi: Tensor) -> list[Tensor]:
        size = draw_shape(shape, c, self.event_shape)
        return [t.expand(size) for t in phi]


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    eps = torch.finfo(like.dtype).eps
    u = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return u.clamp(eps, 1 - eps)


@register
class BernoulliPixels(Likelihood):
    r"""Binary values with decoded logits :math:`a`: :math:`\log p = \sum_i x_i a_i - \log(1 + e^{a_i})`.

    Args:
        event_shape: Shape of an event.
        latent: Width of the latent.
        net: The decoder network, one number a value.

    Example:
        >>> from bijectory.nets import DenseDecoder
        >>> pixels = BernoulliPixels((1, 4, 4), 2, DenseDecoder(2, (1, 4, 4), hidden=(8,)))
        >>> pixels.log_prob(torch.ones(5, 1, 4, 4), torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        (logit,) = self.phi(c)
        x = x.expand(torch.broadcast_shapes(x.shape, logit.shape))
        return -self._sum(binary_cross_entropy_with_logits(logit.expand_as(x), x, reduction="none"))

    def mean(self, c: Tensor) -> Tensor:
        return torch.sigmoid(self.phi(c)[0])

    @torch.no_grad()
    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws; they are whole numbers, so there is no gradient."""
        (logit,) = self._repeated(shape, c, *self.phi(c))
        return (_uniform(logit, generator) < torch.sigmoid(logit)).to(logit.dtype)


@register
class GaussianValues(Likelihood):
    r"""Real values, :math:`x_i \sim N(\mu_i, e^{2 s_i})`, the log-scales softly bounded by 7.

    Args:
        event_shape: Shape of an event.
        latent: Width of the latent.
        net: The decoder network: means, and for "decoded" scales log-scales behind them.
        scales: One learned scale for all values ("shared"), one for each ("value"), or one for each that depends on the
            latent ("decoded").

    References:
        Probabilistic principal component analysis, Tipping, Bishop 1999: the case of a linear network and a shared scale.

    Example:
        >>> from torch import nn
        >>> GaussianValues(3, 2, nn.Linear(2, 3)).sample(7, torch.zeros(5, 2)).shape
        torch.Size([7, 5, 3])
    """

    log_scale: Tensor | None

    def __init__(
        self, event_shape: int | Sequence[int], latent: int, net: nn.Module, scales: Scales = "shared"
    ) -> None:
        super().__init__(event_shape, latent, net)
        check(scales in get_args(Scales), ConfigError, f"scales={scales!r}; use one of {', '.join(get_args(Scales))}.")
        self.scales, self.n_params = scales, 2 if scales == "decoded" else 1
        free = {"shared": torch.zeros(()), "value": torch.zeros(self.event_shape)}.get(scales)
        self.register_parameter("log_scale", None if free is None else nn.Parameter(free))

    def moments(self, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-scale, ``(*batch, *event)`` both."""
        mean, *raw = self.phi(c)
        s = soft_bound(raw[0] if self.log_scale is None else self.log_scale, MAX_LOG_SCALE)
        return mean, s.expand_as(mean)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        mean, s = self.moments(c)
        return -self._sum(0.5 * ((x - mean) * (-s).exp()).square() + s + 0.5 * math.log(2 * math.pi))

    def mean(self, c: Tensor) -> Tensor:
        return self.moments(c)[0]

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        mean, s = self._repeated(shape, c, *self.moments(c))
        return mean + s.exp() * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)


@register
class LogisticLevels(Likelihood):
    r"""Whole numbers ``0 ... levels - 1``: a logistic distribution, decoded location and scale, in cells of width 1.

    The first and the last cell reach to infinity. With :math:`a = (x + \tfrac12 - \mu)/s` and :math:`b = a - 1/s`

    .. math:: \log\bigl(\sigma(a) - \sigma(b)\bigr) = \log\sigma(a) + \log\sigma(-b) + \log(1 - e^{-1/s}),

    which does not cancel.

    Args:
        event_shape: Shape of an event.
        latent: Width of the latent.
        net: The decoder network: locations in half ranges from the middle, then log-scales.
        levels: Number of levels.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow, Kingma+ 2016, arXiv:1606.04934, sec. 5.2;
        PixelCNN++, Salimans+ 2017, arXiv:1701.05517, eq. 2 (one component).

    Example:
        >>> from bijectory.nets import DenseDecoder
        >>> pixels = LogisticLevels((1, 4, 4), 2, DenseDecoder(2, (1, 4, 4), 2), levels=16)
        >>> pixels.sample(7, torch.zeros(5, 2)).shape
        torch.Size([7, 5, 1, 4, 4])
    """

    n_params = 2

    def __init__(self, event_shape: int | Sequence[int], latent: int, net: nn.Module, levels: int = 256) -> None:
        super().__init__(event_shape, latent, net)
        check(levels >= 2, ConfigError, f"levels must be at least 2, got {levels}.")
        self.levels = levels

    def _located(self, c: Tensor | None) -> tuple[Tensor, Tensor]:
        raw, log_scale = self.phi(c)
        half = (self.levels - 1) / 2
        return half * (1 + raw), soft_bound(log_scale, MAX_LOG_SCALE) + math.log(self.levels / 8)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        location, log_scale = self._located(c)
        inverse = (-log_scale).exp()
        a, b = (x + 0.5 - location) * inverse, (x - 0.5 - location) * inverse
        below, above = logsigmoid(a), logsigmoid(-b)
        inside = below + above + torch.log(-torch.expm1(-inverse))
        value = torch.where(x <= 0, below, torch.where(x >= self.levels - 1, above, inside))
        return self._sum(value)

    def mean(self, c: Tensor) -> Tensor:
        """Mean of the events, ``sum_k P(x >= k)``."""
        location, log_scale = self._located(c)
        edges = torch.arange(1, self.levels, dtype=location.dtype, device=location.device) - 0.5
        total = torch.zeros_like(location)
        for edge in edges:
            total = total + torch.sigmoid((location - edge) * (-log_scale).exp())
        return total

    @torch.no_grad()
    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws; they are whole numbers, so there is no gradient."""
        location, log_scale = self._repeated(shape, c, *self._located(c))
        return (
            (location + log_scale.exp() * torch.logit(_uniform(location, generator))).round().clamp(0, self.levels - 1)
        )


@register
class CategoricalLevels(Likelihood):
    """Whole numbers ``0 ... levels - 1`` with decoded logits of every level: any distribution of a value, at its cost.

    Args:
        event_shape: Shape of an event.
        latent: Width of the latent.
        net: The decoder network, ``levels`` numbers a value: ``(n, levels, *event)``.
        levels: Number of levels.

    Example:
        >>> from bijectory.nets import DenseDecoder
        >>> pixels = CategoricalLevels((1, 2, 2), 2, DenseDecoder(2, (1, 2, 2), 16), levels=16)
        >>> pixels.log_prob(torch.ones(5, 1, 2, 2), torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, event_shape: int | Sequence[int], latent: int, net: nn.Module, levels: int = 256) -> None:
        super().__init__(event_shape, latent, net)
        check(levels >= 2, ConfigError, f"levels must be at least 2, got {levels}.")
        self.levels = self.n_params = levels

    def _log_p(self, c: Tensor | None) -> Tensor:
        return torch.stack(self.phi(c), -1).log_softmax(-1)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        log_p = self._log_p(c)
        shape = torch.broadcast_shapes(x.shape, log_p.shape[:-1])
        chosen = x.detach().round().long().clamp(0, self.levels - 1).expand(shape).unsqueeze(-1)
        return self._sum(log_p.expand(*shape, self.levels).gather(-1, chosen).squeeze(-1))

    def mean(self, c: Tensor) -> Tensor:
        log_p = self._log_p(c)
        return log_p.exp() @ torch.arange(self.levels, dtype=log_p.dtype, device=log_p.device)

    @torch.no_grad()
    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws; they are whole numbers, so there is no gradient."""
        log_p = self._log_p(c)
        size = draw_shape(shape, c, self.event_shape)
        u = _uniform(log_p[..., 0].expand(size), generator).unsqueeze(-1)
        return (log_p.exp().cumsum(-1)[..., :-1] < u).sum(-1).to(log_p.dtype)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliPixels,
    "gaussian": GaussianValues,
    "logistic": LogisticLevels,
    "categorical": CategoricalLevels,
}
"""By the names that ``fit_vae`` and the command line take."""

r"""Surjections: densities of data that a map with many preimages takes to the data of another density.

Here the data are mapped down, :math:`z = f(x)` many to one, and the model draws what was lost: with :math:`p(x|z)` on the
preimages of ``z`` the likelihood :math:`p(x) = p(f(x))\,p(x|f(x))` is exact. (The other direction gives a bound: see
``Augmented``.)

References:
    SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows, Nielsen, Jaini, Hoogeboom, Winther, Welling 2020,
    arXiv:2007.02731, table 1-2 and app. D.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bijectory.densities.augmented import _shape
from bijectory.densities.base import Density, refuse_gradients
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MLP
from bijectory.ops.shape import expand_to_context, sum_event


class Slice(Density):
    r"""The first features by one density, the rest given them by another: :math:`p(x) = p(x_A)\,p(x_B | x_A)`, exact.

    Args:
        kept: Density of the first features.
        rest: Density of the others; its context is the first features (then those of ``kept``, if it reads more).

    Raises:
        ConfigError: If ``rest`` is not a density of vectors with the context it gets.

    References:
        SurVAE Flows, Nielsen et al. 2020, arXiv:2007.02731, app. D (tensor slicing, inference direction).

    Example:
        >>> from bijectory import DiagonalNormal, StudentT
        >>> p = Slice(StudentT(2), DiagonalNormal(3, context=2))
        >>> p.sample(4).shape, p.log_prob(torch.zeros(5, 5)).shape
        (torch.Size([4, 5]), torch.Size([5]))
    """

    def __init__(self, kept: Density, rest: Density) -> None:
        super().__init__()
        check_type(kept, Density, "kept")
        check_type(rest, Density, "rest")
        ok = len(kept.event_shape) == len(rest.event_shape) == 1
        check(ok, ConfigError, "Slice takes densities of vectors.")
        n = kept.event_shape[0]
        check(
            rest.context in (n, n + kept.context),
            ConfigError,
            f"rest must have context={n} (the kept features) or {n + kept.context} (with the context), got {rest.context}.",
        )
        self.kept, self.rest = kept, rest
        self.event_shape, self.context = torch.Size((n + rest.event_shape[0],)), kept.context
        self.exact = kept.exact and rest.exact

    def _given(self, a: Tensor, c: Tensor | None) -> Tensor:
        if c is None or self.rest.context == a.shape[-1]:
            return a
        batch = torch.broadcast_shapes(a.shape[:-1], c.shape[:-1])
        return torch.cat((a.expand(*batch, a.shape[-1]), c.expand(*batch, c.shape[-1])), -1)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = c if self.context else None
        n = self.kept.event_shape[0]
        a, b = x[..., :n], x[..., n:]
        return self.kept.log_prob(a, c) + self.rest.log_prob(b, self._given(a, c))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        lead, c = _shape(self.kept, shape, c)
        a = self.kept.rsample(lead, c, generator=generator)
        return torch.cat((a, self.rest.rsample((), self._given(a, c), generator=generator)), -1)


class Absolute(Density):
    r"""Signs on top of a density of absolute values, exact.

    .. math:: p(x) = p(|x|) \prod_i P(\operatorname{sign} x_i\,|\,|x|)

    Without ``signs`` both signs are equally likely, independently for each feature: symmetric by construction. With it the
    logits of the signs are a network of :math:`|x|` (and the context); draws then carry no gradient and ``rsample`` refuses.

    Args:
        flow: Density of positive vectors, for example a flow whose first layer is ``Elementwise(Log(), d)``.
        signs: Whether the signs are learned.
        hidden: Hidden widths of their network.
        net: A network of your own, ``net(|x|, c) -> (*batch, d)``: logits of a positive sign.

    Raises:
        ConfigError: If the density is not one of vectors, or a ``net`` comes without ``signs``.

    References:
        SurVAE Flows, Nielsen et al. 2020, arXiv:2007.02731, app. D (absolute value, inference direction).

    Example:
        >>> from bijectory import Elementwise, Flow, Log, StandardNormal
        >>> p = Absolute(Flow(Elementwise(Log(), 1), StandardNormal(1)))  # a log-normal on both sides
        >>> p.log_prob(torch.tensor([[2.0], [-2.0]]))
        tensor([-2.5455, -2.5455])
    """

    def __init__(
        self,
        flow: Density,
        *,
        signs: bool = False,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_type(flow, Density, "flow")
        check(len(flow.event_shape) == 1, ConfigError, f"Absolute takes a density of vectors, got {flow.event_shape}.")
        check(signs or net is None, ConfigError, "a net for the signs needs signs=True.")
        self.flow, self.signs, self.hidden = flow, signs, tuple(hidden)
        self.event_shape, self.context, self.exact = flow.event_shape, flow.context, flow.exact
        n = self.event_shape[0]
        self.net = (net or MLP(n, n, hidden, self.context)) if signs else None

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = c if self.context else None
        size = x.abs()
        log_p = self.flow.log_prob(size, c)
        if self.net is None:
            return log_p - self.event_shape[0] * math.log(2)
        logit = self.net(expand_to_context(size, c, 1), c)
        return log_p + sum_event(logsigmoid(torch.where(x < 0, -logit, logit)), 1)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if self.net is not None:
            refuse_gradients(self.net, "use sample(), or Absolute(signs=False).")
        lead, c = _shape(self.flow, shape, c)
        size = self.flow.rsample(lead, c, generator=generator)
        u = torch.rand(size.shape, generator=generator, dtype=size.dtype, device=size.device)
        positive = torch.full_like(u, 0.5) if self.net is None else self.net(size, c).sigmoid()
        return torch.where(u < positive, size, -size)


class MaxPool(Density):
    r"""A density of maxima, and the values below them: max-pooling undone, exact.

    Vectors are pooled over runs of ``size`` neighbours, images ``(channels, height, width)`` over squares of ``size`` times
    ``size`` pixels. With :math:`m` values in a pool, the place of the maximum is uniform and the others lie below by
    independent exponential gaps of a learned scale for each pool,

    .. math::
        p(x) = p(z)\prod_{\text{pools}} \frac1m \prod_{j \ne k} \frac1s\, e^{-(z - x_j)/s}, \qquad z = \max_j x_j = x_k .

    Args:
        flow: Density of the maxima, on vectors or images.
        size: Width of a pool, at least 2.

    Raises:
        ConfigError: If ``size < 2`` or the events are neither vectors nor images.

    References:
        SurVAE Flows, Nielsen et al. 2020, arXiv:2007.02731, app. D (max, inference direction).

    Example:
        >>> from bijectory import StandardNormal
        >>> MaxPool(StandardNormal((1, 4, 4)), 2).sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, flow: Density, size: int = 2) -> None:
        super().__init__()
        check_type(flow, Density, "flow")
        check(size >= 2, ConfigError, f"size must be at least 2, got {size}.")
        shape = tuple(flow.event_shape)
        check(len(shape) in (1, 3), ConfigError, f"MaxPool takes a density of vectors or images, got events {shape}.")
        self.flow, self.size = flow, size
        self.context, self.exact = flow.context, flow.exact
        self.event_shape = torch.Size(
            (shape[0] * size,) if len(shape) == 1 else (shape[0], *(n * size for n in shape[1:]))
        )
        self.log_scale = nn.Parameter(torch.zeros(flow.event_shape))

    @property
    def _members(self) -> int:
        return self.size ** max(1, len(self.event_shape) - 1)

    def _pools(self, x: Tensor) -> Tensor:
        """``(*batch, *event) -> (*batch, *event of the maxima, members)``."""
        if len(self.event_shape) == 1:
            return x.unflatten(-1, (-1, self.size))
        x = x.unflatten(-1, (-1, self.size)).unflatten(-3, (-1, self.size))  # (..., H, size, W, size)
        return x.transpose(-3, -2).flatten(-2)

    def _spread(self, pools: Tensor) -> Tensor:
        """The inverse of `_pools`."""
        if len(self.event_shape) == 1:
            return pools.flatten(-2)
        x = pools.unflatten(-1, (self.size, self.size)).transpose(-3, -2)
        return x.flatten(-2).flatten(-3, -2)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        pools = self._pools(x)
        z = pools.amax(-1)
        gaps = (z.unsqueeze(-1) - pools).sum(-1)  # the maximum itself adds none
        below = gaps * (-self.log_scale).exp() + (self._members - 1) * self.log_scale + math.log(self._members)
        return self.flow.log_prob(z, c if self.context else None) - sum_event(below, len(self.event_shape))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        lead, c = _shape(self.flow, shape, c)
        z = self.flow.rsample(lead, c, generator=generator).unsqueeze(-1)
        gaps = torch.empty((*z.shape[:-1], self._members), dtype=z.dtype, device=z.device).exponential_(
            generator=generator
        )
        top = torch.randint(self._members, z.shape, generator=generator, device=z.device)
        gaps = gaps.scatter(-1, top, 0.0) * self.log_scale.exp().unsqueeze(-1)
        return self._spread(z - gaps)

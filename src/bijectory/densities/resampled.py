"""Learned accept-reject sampling as a base."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bijectory.densities.base import Density, refuse_gradients
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MLP
from bijectory.ops.scalar import log1mexp
from bijectory.ops.shape import draw_shape


class Resampled(Density):
    r"""Resampled base (LARS): proposals of a fixed density :math:`q` are accepted with a learned probability :math:`a(z)`.

    The first accepted of at most ``T`` proposals is the draw, the last one whatever happens, so (Bauer, Mnih, eq. 4)

    .. math:: p(z) = q(z)\left((1 - \alpha)\frac{a(z)}{Z} + \alpha\right), \qquad \alpha = (1 - Z)^{T - 1},\;
        Z = \int q(z) a(z)\,dz .

    ``Z`` is the mean of ``a`` over points drawn from ``q`` once and kept in the buffer ``_points``, instead of an average
    that moves with training. So the log-density depends on weights and buffers only and its gradient is that of the
    estimate; being one, it says ``exact = False``. Its error is that of :math:`\log Z`, of the order
    :math:`1/\sqrt M`; ``normalizer`` measures it on fresh points. An acceptance that has adapted to the points makes
    ``Z`` too small: call ``refresh`` now and then in long training, and before a report.

    Args:
        base: The proposal :math:`q`, without weights to learn and without context (put a flow on top instead).
        truncation: The largest number ``T`` of proposals, at least 2.
        hidden: Hidden widths of the network of the acceptance.
        points: Number ``M`` of points.
        net: A network of your own, ``net(z) -> (*batch, 1)`` for flat ``z``: the logit of the acceptance.

    Raises:
        ConfigError: If an argument is out of range, or the proposal has weights or a context.
        FlowError: From ``rsample``, if gradients are enabled: the choice of a proposal has none.

    References:
        Resampled Priors for Variational Autoencoders, Bauer, Mnih 2018, arXiv:1810.11428, eq. 4-5.
        Resampling Base Distributions of Normalizing Flows, Stimper, Schölkopf, Hernández-Lobato 2021, arXiv:2110.15828.

    Example:
        >>> from bijectory import StandardNormal
        >>> p = Resampled(StandardNormal(2), hidden=(8,))
        >>> p.sample(3).shape, p.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([3, 2]), torch.Size([5]))
    """

    exact = False
    _points: Tensor

    def __init__(
        self,
        base: Density,
        truncation: int = 100,
        hidden: Sequence[int] = (128, 128),
        points: int = 2048,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_type(base, Density, "base")
        fixed = base.context == 0 and not any(p.requires_grad for p in base.parameters())
        check(
            fixed, ConfigError, "the proposal must have no context and no weights to learn; put a flow on top instead."
        )
        check(truncation >= 2, ConfigError, f"truncation must be at least 2, got {truncation}.")
        check(points >= 2, ConfigError, f"points must be at least 2, got {points}.")
        self.base, self.truncation, self.hidden, self.points = base, truncation, tuple(hidden), points
        self.event_shape = base.event_shape
        self.net = net or MLP(self.event_shape.numel(), 1, hidden)
        self.register_buffer("_points", base.sample(points))

    def refresh(self, generator: torch.Generator | None = None) -> None:
        """Draw the points of the estimate of ``Z`` anew, in place."""
        self._points.copy_(self.base.sample(self.points, generator=generator))

    def normalizer(self, size: int = 2**16, *, generator: torch.Generator | None = None) -> tuple[float, float]:
        """An estimate of ``log Z`` from ``size`` fresh points, and its standard error."""
        with torch.no_grad():
            a = self._logit(self.base.sample(size, generator=generator)).double().sigmoid()
            mean = a.mean()
            return float(mean.log()), float(a.std() / mean / math.sqrt(size))

    def _logit(self, z: Tensor) -> Tensor:
        return self.net(z.flatten(z.dim() - len(self.event_shape))).squeeze(-1)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        at = self._logit(self._points)
        log_z, log_rest = (torch.logsumexp(logsigmoid(v), 0) - math.log(self.points) for v in (at, -at))
        log_alpha = (self.truncation - 1) * log_rest
        chosen = logsigmoid(self._logit(x)) - log_z + log1mexp(-log_alpha)
        return self.base.log_prob(x) + torch.logaddexp(chosen, log_alpha)

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        batch = draw_shape(shape, c, torch.Size())
        with torch.no_grad():
            x = self.base.sample(batch, generator=generator)
            open_ = torch.ones(batch, dtype=torch.bool, device=x.device)
            for _ in range(self.truncation - 1):
                a = self._logit(x).sigmoid()
                open_ = open_ & (torch.rand(batch, generator=generator, dtype=a.dtype, device=a.device) >= a)
                if not bool(open_.any()):
                    break
                fresh = self.base.sample(batch, generator=generator)
                x = torch.where(open_.reshape(*batch, *(1,) * len(self.event_shape)), fresh, x)
            return x

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_gradients(self, "use sample(), or train by likelihood.")
        return self.sample(shape, c, generator=generator)

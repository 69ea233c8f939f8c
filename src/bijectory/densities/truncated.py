"""A normal base on a box."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, as_event_shape, open_unit
from bijectory.densities.uniform import Bound
from bijectory.errors import ConfigError, check
from bijectory.ops.gauss import log_ndtr, log_ndtr_quantile
from bijectory.ops.scalar import log1mexp, soft_bound
from bijectory.ops.shape import draw_shape, sum_event

_NOWHERE = 1e6  # in standard deviations: an infinite bound


class TruncatedNormal(Density):
    r"""Independent normal law for each feature, cut to :math:`[l_i, u_i]`, with learned mean and scale.

    .. math:: \log p(x) = \sum_i \log\varphi\left(\tfrac{x_i - \mu_i}{\sigma_i}\right) - \log\sigma_i -
        \log\left(\Phi\left(\tfrac{u_i - \mu_i}{\sigma_i}\right) - \Phi\left(\tfrac{l_i - \mu_i}{\sigma_i}\right)\right)

    inside, :math:`-\infty` outside. Masses are taken in the lower tail and in logarithms, so the box may lie far from the
    mean. Draws are exact and differentiable, by the inverse distribution function. The log-scale is softly bounded.

    Args:
        event_shape: An int (number of features) or a shape.
        lower: A number or ``-inf``, or nested sequences of them that broadcast to ``event_shape``.
        upper: Likewise, ``inf`` allowed.
        max_log_scale: The bound ``S > 0`` on :math:`|\log\sigma|`.

    Raises:
        ConfigError: If the bounds do not broadcast or are not ``lower < upper``, or ``max_log_scale`` is not positive.

    Example:
        >>> p = TruncatedNormal(1, lower=0.0, upper=math.inf)  # the half-normal law
        >>> p.log_prob(torch.tensor([[0.0], [-0.1]]))
        tensor([-0.2258,    -inf], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        lower: Bound = -1.0,
        upper: Bound = 1.0,
        max_log_scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.lower, self.upper, self.max_log_scale = lower, upper, max_log_scale
        try:
            low, high = (torch.tensor(b, dtype=torch.float64).expand(self.event_shape) for b in (lower, upper))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"lower and upper must be numbers or broadcast to {tuple(self.event_shape)}.") from error
        check(bool((low < high).all()), ConfigError, f"the box needs lower < upper, got {lower!r} and {upper!r}.")
        ok = math.isfinite(max_log_scale) and max_log_scale > 0
        check(ok, ConfigError, f"max_log_scale must be a positive finite number, got {max_log_scale!r}.")
        self.loc = nn.Parameter(torch.zeros(self.event_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.event_shape))

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Mean, log-scale, whether the box is mirrored, and both ends in deviations, the lower tail first; float64."""
        loc, s = self.loc.double(), soft_bound(self.log_scale, self.max_log_scale).double()
        ends = []
        for bound in (self.lower, self.upper):
            value = torch.tensor(bound, dtype=torch.float64, device=loc.device)
            finite = torch.where(value.isfinite(), value, 0.0)
            ends.append(torch.where(value.isfinite(), (finite - loc) * (-s).exp(), value.sign() * _NOWHERE))
        mirrored = ends[0] + ends[1] > 0
        low, high = torch.where(mirrored, -ends[1], ends[0]), torch.where(mirrored, -ends[0], ends[1])
        return loc, s, mirrored, low, high

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        loc, s, _, low, high = self._scaled()
        top = log_ndtr(high)
        constant = (top + log1mexp(top - log_ndtr(low)) + s + 0.5 * math.log(2 * math.pi)).to(x.dtype)
        least, most = (torch.tensor(b, dtype=x.dtype, device=x.device) for b in (self.lower, self.upper))
        outside = (x < least) | (x > most)
        noise = (torch.where(outside, 0.0, x) - loc.to(x.dtype)) * (-s).exp().to(x.dtype)
        value = -0.5 * noise.square() - constant
        return sum_event(torch.where(outside, -math.inf, value), len(self.event_shape))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = draw_shape(shape, c, self.event_shape)
        return self.from_uniform(torch.rand(size, generator=generator, dtype=torch.float64, device=self.loc.device), c)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        loc, s, mirrored, low, high = self._scaled()
        dtype = self.loc.dtype
        # Mirrored boxes are drawn from their upper end, so that the masses stay in the lower tail.
        u = open_unit(u)
        u = torch.where(mirrored, 1 - u, u)
        top = log_ndtr(high)
        z = log_ndtr_quantile(top + (u + (1 - u) * (log_ndtr(low) - top).exp()).log())
        x = (loc + torch.where(mirrored, -z, z) * s.exp()).to(dtype)
        least, most = (torch.tensor(b, dtype=dtype, device=x.device) for b in (self.lower, self.upper))
        return torch.minimum(torch.maximum(x, least), most)

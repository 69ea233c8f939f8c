"""A base with a normal body and Pareto tails."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.special import ndtri

from bijectory.densities.base import Density, as_event_shape
from bijectory.errors import ConfigError, check
from bijectory.ops.gauss import tail_exponent
from bijectory.ops.scalar import expm1_ratio, log1p_ratio, soft_bound
from bijectory.ops.shape import draw_shape, sum_event


class ParetoTailed(Density):
    r"""Standard normal body with generalised Pareto tails, independently for each feature, tail indices learned.

    Beyond the threshold ``u``, where each normal tail has mass ``q``, the tail of that mass is replaced by a generalised
    Pareto law of index :math:`\xi` that takes over with the same density, hence with scale
    :math:`\sigma = q/\varphi(u)`:

    .. math:: p(x) = \varphi(u)\left(1 + \xi_\pm \frac{|x| - u}{\sigma}\right)^{-1/\xi_\pm - 1}, \qquad |x| > u .

    Continuous, of mass one, and sampled by the inverse distribution function: exactly, and with gradients in the indices,
    :math:`\xi = \xi_0 \exp(D\tanh(a/D))`. The tail on a side falls as :math:`P(|X| > t) \propto t^{-1/\xi}`.

    Args:
        event_shape: An int (number of features) or a shape.
        tail: Starting index :math:`\xi_0 > 0` of both sides.
        mass: Probability ``q`` of each tail, in ``(0, 1/2)``.
        max_log_ratio: The bound ``D > 0`` on :math:`|\log\xi/\xi_0|`.

    Raises:
        ConfigError: If a number is out of range.

    References:
        An Introduction to Statistical Modeling of Extreme Values, Coles 2001, sec. 4.2.

    Example:
        >>> p = ParetoTailed(1, tail=0.5)
        >>> p.log_prob(torch.tensor([[0.0], [100.0]]))  # the normal law has -5000.9 there
        tensor([ -0.9189, -16.1595], grad_fn=<SumBackward1>)
    """

    def __init__(
        self, event_shape: int | Sequence[int], tail: float = 0.2, mass: float = 0.05, max_log_ratio: float = 3.0
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.tail, self.mass, self.max_log_ratio = tail, mass, max_log_ratio
        for name in ("tail", "max_log_ratio"):
            value = getattr(self, name)
            ok = math.isfinite(value) and value > 0
            check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")
        check(0 < mass < 0.5, ConfigError, f"mass must lie between 0 and 1/2, got {mass!r}.")
        self.log_ratio = nn.Parameter(torch.zeros(2, *self.event_shape))  # left, right
        self._threshold = -float(ndtri(torch.tensor(mass, dtype=torch.float64)))
        self._log_density = -0.5 * self._threshold**2 - 0.5 * math.log(2 * math.pi)  # at the threshold
        self._scale = mass / math.exp(self._log_density)

    def _index(self, negative: Tensor) -> Tensor:
        left, right = self.tail * soft_bound(self.log_ratio, self.max_log_ratio).exp()
        return torch.where(negative, left, right)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        far, index = x.abs() > self._threshold, self._index(x < 0)
        t = (torch.where(far, x.abs(), self._threshold) - self._threshold) / self._scale
        tail = self._log_density - (1 + index) * t * log1p_ratio(index * t)
        body = -0.5 * torch.where(far, 0.0, x).square() - 0.5 * math.log(2 * math.pi)
        return sum_event(torch.where(far, tail, body), len(self.event_shape))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        like = self.log_ratio
        size = draw_shape(shape, c, self.event_shape)
        z = torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)
        far, index = z.abs() > self._threshold, self._index(z < 0)
        # -log of the share of the tail beyond z: an exponential draw where z is in it.
        start = tail_exponent(torch.tensor(self._threshold, dtype=like.dtype, device=like.device))
        e = torch.where(far, tail_exponent(z.abs()) - start, 0.0)
        size_far = self._threshold + self._scale * e * expm1_ratio(index * e)
        return torch.where(far, z.sign() * size_far, z)

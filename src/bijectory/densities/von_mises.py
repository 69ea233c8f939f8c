"""A base on the circle."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, as_event_shape
from bijectory.errors import ConfigError, check
from bijectory.ops.circle import log_bessel, von_mises, von_mises_cdf, wrap
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import draw_shape, sum_event


class VonMises(Density):
    r"""Independent von Mises law for each angle in :math:`[-B, B]`, the normal law of the circle.

    .. math:: \log p(x) = \sum_i \kappa_i (\cos\theta_i - 1) - \log(2B\, e^{-\kappa_i} I_0(\kappa_i)), \qquad
        \theta_i = \pi (x_i - \mu_i) / B

    Periodic and smooth across the seam; outside the box it is :math:`-\infty`, so wrap angles first. Concentration and mean
    are learned, :math:`\kappa = \kappa_0 \exp(D\tanh(a/D))`. (The uniform law of the circle is ``BoxUniform``.) Draws are
    exact, by Best and Fisher's rejection, and differentiable: in the mean directly, in the concentration implicitly, with
    the distribution function held fixed.

    Args:
        event_shape: An int (number of features) or a shape.
        concentration: Starting :math:`\kappa_0 > 0`.
        bound: Half circumference ``B``.
        max_log_ratio: The bound ``D > 0`` on :math:`|\log\kappa/\kappa_0|`.

    Raises:
        ConfigError: If a number is not positive and finite.

    References:
        Efficient Simulation of the von Mises Distribution, Best, Fisher 1979, Applied Statistics 28(2).
        Implicit Reparameterization Gradients, Figurnov, Mohamed, Mnih 2018, arXiv:1805.08498.

    Example:
        >>> p = VonMises(1, concentration=4.0)
        >>> p.log_prob(torch.tensor([[0.0], [3.0], [4.0]]))
        tensor([-0.2628, -8.2228,    -inf], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        concentration: float = 1.0,
        bound: float = math.pi,
        max_log_ratio: float = 6.0,
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.concentration, self.bound, self.max_log_ratio = concentration, bound, max_log_ratio
        for name in ("concentration", "bound", "max_log_ratio"):
            value = getattr(self, name)
            ok = math.isfinite(value) and value > 0
            check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")
        self.loc = nn.Parameter(torch.zeros(self.event_shape))
        self.log_ratio = nn.Parameter(torch.zeros(self.event_shape))

    def _kappa(self) -> Tensor:
        return self.concentration * soft_bound(self.log_ratio, self.max_log_ratio).exp()

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        kappa = self._kappa()
        outside = x.abs() > self.bound
        half = (torch.where(outside, 0.0, x) - self.loc) * (math.pi / (2 * self.bound))
        value = -2 * kappa * half.sin().square() - log_bessel(kappa) - math.log(2 * self.bound)
        return sum_event(torch.where(outside, -math.inf, value), len(self.event_shape))

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        with torch.no_grad():
            angle = von_mises(draw_shape(shape, c, self.event_shape), self._kappa(), generator)
            return self._place(angle)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        kappa = self._kappa()
        with torch.no_grad():
            angle = von_mises(draw_shape(shape, c, self.event_shape), kappa, generator)
            density = (-2 * kappa * (angle / 2).sin().square() - log_bessel(kappa)).exp() / (2 * math.pi)
        mass = von_mises_cdf(angle, kappa)
        return self._place(angle - (mass - mass.detach()) / density)

    def _place(self, angle: Tensor) -> Tensor:
        return wrap(self.loc + angle * (self.bound / math.pi), self.bound)

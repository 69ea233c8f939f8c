r"""Gaussian paths from data to noise, :math:`z_t = \alpha(t)\, x + \sigma(t)\, \varepsilon`; :math:`t = 0` is the data.

A schedule is a formula without weights. Flow matching, stochastic interpolants and score models share it, because along
such a path everything is linear in the unknowns :math:`x` and :math:`\varepsilon`.
With :math:`w = \alpha\sigma' - \alpha'\sigma`,

.. math::
    v = \alpha' x + \sigma' \varepsilon, \qquad
    \varepsilon = \frac{\alpha v - \alpha' z_t}{w}, \qquad
    x = \frac{\sigma' z_t - \sigma v}{w}, \qquad
    \nabla \log p_t(z_t) = -\frac{\mathbb E[\varepsilon | z_t]}{\sigma}.

The same marginals have the stochastic equation :math:`dz = f z\, dt + g\, dw` with :math:`f = \alpha'/\alpha` and
:math:`g^2 = 2\sigma\sigma' - 2 f \sigma^2`, so the variance-preserving, variance-exploding and sub-VP equations are
schedules.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations, Song+ 2020, arXiv:2011.13456, eq. 9-12, 29-33.
    Flow Matching for Generative Modeling, Lipman+ 2022, arXiv:2210.02747, eq. 10-23.
    Stochastic Interpolants, Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797, sec. 4.
"""

import abc
import dataclasses
import math

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check


def like(t: Tensor, z: Tensor) -> Tensor:
    """Times ``(*batch,)`` with trailing dimensions of size one, to multiply ``(*batch, *event)``; a scalar as it is."""
    return t.reshape((*t.shape, *(1,) * (z.dim() - t.dim()))) if t.dim() else t


class Schedule(abc.ABC):
    """How much data and how much noise there is at each time.

    The weights and their slopes take times of any shape and return tensors of that shape. The conversions are those of
    the module's formulas, between conditional means given ``z``, so they hold for trained networks.

    Attributes:
        start: First time at which the velocity is finite; the path is used on ``[start, 1]``.
    """

    start: float = 0.0

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise."""

    @abc.abstractmethod
    def alpha_slope(self, t: Tensor) -> Tensor:
        """Derivative of ``alpha``."""

    @abc.abstractmethod
    def sigma_slope(self, t: Tensor) -> Tensor:
        """Derivative of ``sigma``."""

    def at(self, t: Tensor, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Point ``z`` and velocity ``v`` of the path from ``x`` to ``e``: ``(*batch, *event)`` each.

        Args:
            t: A scalar, or ``(*batch,)``; so in all methods below.
            x: Data ``(*batch, *event)``.
            e: Noise ``(*batch, *event)``.
        """
        t = like(t, x)
        return self.alpha(t) * x + self.sigma(t) * e, self.alpha_slope(t) * x + self.sigma_slope(t) * e

    def wronskian(self, t: Tensor) -> Tensor:
        """The determinant ``w``, positive on the path."""
        return self.alpha(t) * self.sigma_slope(t) - self.alpha_slope(t) * self.sigma(t)

    def noise_from_velocity(self, t: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Mean of the noise given ``z``."""
        t = like(t, z)
        return (self.alpha(t) * v - self.alpha_slope(t) * z) / self.wronskian(t)

    def velocity_from_noise(self, t: Tensor, z: Tensor, e: Tensor) -> Tensor:
        """Velocity of the mean of the noise; not finite where ``alpha`` is 0."""
        t = like(t, z)
        return (self.alpha_slope(t) * z + self.wronskian(t) * e) / self.alpha(t)

    def data_from_velocity(self, t: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Mean of the data given ``z``: the denoiser."""
        t = like(t, z)
        return (self.sigma_slope(t) * z - self.sigma(t) * v) / self.wronskian(t)

    def velocity_from_data(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Velocity of the mean of the data; not finite where ``sigma`` is 0."""
        t = like(t, z)
        return (self.sigma_slope(t) * z - self.wronskian(t) * x) / self.sigma(t)

    def score_from_velocity(self, t: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Gradient of the log-density at time ``t``, for standard normal noise; not finite where ``sigma`` is 0."""
        return -self.noise_from_velocity(t, z, v) / self.sigma(like(t, z))

    def velocity_from_score(self, t: Tensor, z: Tensor, score: Tensor) -> Tensor:
        """Velocity of a score, for standard normal noise: ``f z - g**2 / 2 score``; not finite where ``alpha`` is 0."""
        return self.velocity_from_noise(t, z, -self.sigma(like(t, z)) * score)

    def drift(self, t: Tensor) -> Tensor:
        """Factor ``f`` of the stochastic equation ``dz = f z dt + g dw``; not finite where ``alpha`` is 0."""
        return self.alpha_slope(t) / self.alpha(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Square ``g**2`` of the diffusion of the stochastic equation."""
        sigma = self.sigma(t)
        return 2 * sigma * (self.sigma_slope(t) - self.drift(t) * sigma)


@dataclasses.dataclass(frozen=True)
class Straight(Schedule):
    r"""Straight lines, :math:`\alpha = 1 - t`, :math:`\sigma = t`: rectified flow, conditional optimal transport.

    Example:
        >>> float(Straight().alpha(torch.tensor(0.25)))
        0.75
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_slope(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    r"""A quarter of a circle, :math:`\alpha = \cos(\pi t / 2)`, :math:`\sigma = \sin(\pi t / 2)`: the variance is preserved.

    Example:
        >>> t = torch.tensor(0.3)
        >>> round(float(Cosine().alpha(t) ** 2 + Cosine().sigma(t) ** 2), 6)
        1.0
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_slope(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(math.pi / 2 * t)


@dataclasses.dataclass(frozen=True)
class VariancePreserving(Schedule):
    r"""The VP equation: :math:`\alpha = e^{-\frac12 \int_0^t \beta}`, :math:`\sigma^2 = 1 - \alpha^2`, linear :math:`\beta`.

    Args:
        beta_min: :math:`\beta(0)`.
        beta_max: :math:`\beta(1)`.
        start: First time that is used.

    Raises:
        ConfigError: If the rates are not positive and in order, or ``start`` is not in (0, 1).

    Example:
        >>> float(VariancePreserving().alpha(torch.tensor(1.0))) < 0.01
        True
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    start: float = 1e-3

    def __post_init__(self) -> None:
        ok = 0 < self.beta_min <= self.beta_max < math.inf
        check(ok, ConfigError, f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}.")
        check(0 < self.start < 1, ConfigError, f"start must lie in (0, 1), got {self.start}.")

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t.square()

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._integral(t))).sqrt()

    def alpha_slope(self, t: Tensor) -> Tensor:
        return -self._beta(t) / 2 * self.alpha(t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        return self._beta(t) / 2 * torch.exp(-self._integral(t)) / self.sigma(t)


@dataclasses.dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    r"""The sub-VP equation: :math:`\alpha` of ``VariancePreserving`` and :math:`\sigma = 1 - \alpha^2`, which is smaller.

    Args:
        beta_min: :math:`\beta(0)`.
        beta_max: :math:`\beta(1)`.
        start: First time that is used.

    Example:
        >>> t = torch.tensor(0.2)
        >>> bool(SubVariancePreserving().sigma(t) < VariancePreserving().sigma(t))
        True
    """

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def sigma_slope(self, t: Tensor) -> Tensor:
        return self._beta(t) * torch.exp(-self._integral(t))


@dataclasses.dataclass(frozen=True)
class VarianceExploding(Schedule):
    r"""The VE equation: :math:`\alpha = 1`, :math:`\sigma = \sigma_{\min} (\sigma_{\max} / \sigma_{\min})^t`.

    The noise at the end has standard deviation ``sigma_max``, and so must the base of a flow along this path. There is noise
    of size ``sigma_min`` at the start: the density is that of the data with this noise.

    Args:
        sigma_min: At the start.
        sigma_max: At the end, several times the size of the data.

    Raises:
        ConfigError: If the sizes are not positive and in order.

    Example:
        >>> round(float(VarianceExploding().sigma(torch.tensor(1.0))), 2)
        50.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        ok = 0 < self.sigma_min < self.sigma_max < math.inf
        check(ok, ConfigError, f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}.")

    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate() * t)

    def alpha_slope(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_slope(self, t: Tensor) -> Tensor:
        return self._rate() * self.sigma(t)

r"""Paths from data to the base, and the noise that a stochastic path adds on its way.

A path is conditional on its two ends, a row of data ``x`` at :math:`t = 0` and a draw ``e`` of the base at :math:`t = 1`. On
it, and on its velocity, a field is trained. ``Interpolant`` is linear in the two,

.. math:: z_t = \alpha(t)\, x + \sigma(t)\, \varepsilon + \gamma(t)\, \eta, \qquad
    v = \alpha'(t)\, x + \sigma'(t)\, \varepsilon + \gamma'(t)\, \eta,

with :math:`\varepsilon = e / \sigma(1)` and :math:`\eta` standard normal. Without :math:`\gamma` this is conditional flow
matching; a constant one is the path of constant width of I-CFM; one that vanishes at both ends is a stochastic interpolant,
:math:`\gamma = \sigma \sqrt{t (1 - t)}` the Brownian bridge of the Schrödinger bridge. All have the same marginals at the
ends (but for the width), so the trained field carries the base to the data.

References:
    Flow Matching for Generative Modeling, Lipman+ 2022, arXiv:2210.02747, theorem 2.
    Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport, Tong+ 2023, arXiv:2302.00482.
    Stochastic Interpolants, Albergo, Boffi, Vanden-Eijnden 2023, arXiv:2303.08797, def. 2.1.
"""

import abc
import dataclasses
import math

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.nets.schedules import Schedule, Straight, like


class PathNoise(abc.ABC):
    r"""Width :math:`\gamma(t)` of the noise that a stochastic path adds.

    Attributes:
        margin: Part of the time at either end that training leaves out, where the slope is not finite.
    """

    margin: float = 0.0

    @abc.abstractmethod
    def width(self, t: Tensor) -> Tensor:
        r""":math:`\gamma(t)`, of the shape of ``t``."""

    @abc.abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        r""":math:`\gamma'(t)`."""


def _check_sigma(sigma: float) -> None:
    check(0 < sigma < math.inf, ConfigError, f"sigma must be a positive finite number, got {sigma!r}.")


@dataclasses.dataclass(frozen=True)
class ConstantNoise(PathNoise):
    r"""A path of constant width, :math:`\gamma = \sigma`; the flow learns data blurred by ``sigma``.

    Args:
        sigma: Standard deviation, in the units of the continuous layer.

    Raises:
        ConfigError: If ``sigma`` is not positive and finite.

    Example:
        >>> ConstantNoise(0.1).slope(torch.tensor(0.5)).item()
        0.0
    """

    sigma: float = 0.05

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def width(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma)

    def slope(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclasses.dataclass(frozen=True)
class BrownianBridge(PathNoise):
    r"""A Brownian motion pinned at both ends, :math:`\gamma = \sigma \sqrt{t (1 - t)}`.

    Args:
        sigma: Diffusion of the motion.
        margin: Part of the time at either end that training leaves out: the slope is infinite there.

    Raises:
        ConfigError: If ``sigma`` is not positive and finite, or ``margin`` is not in (0, 0.5).

    Example:
        >>> BrownianBridge(2.0).width(torch.tensor(0.5)).item()
        1.0
    """

    sigma: float = 1.0
    margin: float = 1e-3

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)
        check(0 < self.margin < 0.5, ConfigError, f"margin must lie in (0, 0.5), got {self.margin!r}.")

    def width(self, t: Tensor) -> Tensor:
        return self.sigma * (t * (1 - t)).sqrt()

    def slope(self, t: Tensor) -> Tensor:
        return self.sigma * (1 - 2 * t) / (2 * (t * (1 - t)).sqrt())


@dataclasses.dataclass(frozen=True)
class SineSquared(PathNoise):
    r"""A smooth width that vanishes at both ends with its slope, :math:`\gamma = \sigma \sin^2 \pi t`.

    Args:
        sigma: Largest standard deviation.

    Raises:
        ConfigError: If ``sigma`` is not positive and finite.

    Example:
        >>> SineSquared(2.0).width(torch.tensor(0.5)).item()
        2.0
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)

    def width(self, t: Tensor) -> Tensor:
        return self.sigma * torch.sin(math.pi * t).square()

    def slope(self, t: Tensor) -> Tensor:
        return self.sigma * math.pi * torch.sin(2 * math.pi * t)


class Path(abc.ABC):
    """A path for each pair of ends, with its velocity; on a space of your own, write one.

    Attributes:
        start: First time of training.
        end: Last time of training.
    """

    start: float = 0.0
    end: float = 1.0

    @abc.abstractmethod
    def at(self, t: Tensor, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Point and velocity at time ``t``, ``(n, *event)`` each.

        Args:
            t: Times ``(n,)``.
            x: Data ``(n, *event)``.
            e: Draws of the base ``(n, *event)``.
        """

    def cost(self, x: Tensor, e: Tensor) -> Tensor:
        """What couplings by transport minimise, ``(n, m)``: here the squares of the distances."""
        return squared_distances(x, e)


def squared_distances(x: Tensor, e: Tensor) -> Tensor:
    """Squares of the Euclidean distances between ``(n, *event)`` and ``(m, *event)``."""
    return torch.cdist(x.flatten(1), e.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").square()


@dataclasses.dataclass(frozen=True)
class Interpolant(Path):
    r"""The path that is linear in its ends, with or without noise: see the module's formula.

    The base is the end of the path: a standard normal one but for ``VarianceExploding``, whose base must have the standard
    deviation ``sigma_max``. Where the schedule leaves something of the data at :math:`t = 1` the base is so much off.

    Args:
        schedule: Weights of data and noise.
        noise: What a stochastic path adds; None for nothing.

    Example:
        >>> z, v = Interpolant().at(torch.tensor([0.25]), torch.zeros(1, 2), torch.ones(1, 2))
        >>> z.tolist(), v.tolist()
        ([[0.25, 0.25]], [[1.0, 1.0]])
    """

    schedule: Schedule = dataclasses.field(default_factory=Straight)
    noise: PathNoise | None = None

    @property
    def start(self) -> float:  # type: ignore[override]
        """First time at which the velocity is finite."""
        return max(self.schedule.start, self.noise.margin if self.noise else 0.0)

    @property
    def end(self) -> float:  # type: ignore[override]
        """Last time at which the velocity is finite."""
        return 1 - (self.noise.margin if self.noise else 0.0)

    def at(self, t: Tensor, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        z, v = self.schedule.at(t, x, e / self.schedule.sigma(torch.ones_like(t[:1])).reshape(()))
        if self.noise is not None:
            n, t = torch.randn_like(x), like(t, x)
            z, v = z + self.noise.width(t) * n, v + self.noise.slope(t) * n
        return z, v

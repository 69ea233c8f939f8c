"""Normals bent out of shape: the funnel and the banana."""

import math

import torch
from torch import Tensor

from bijectory.densities.targets.base import Target
from bijectory.errors import ConfigError, check

_LOG_ROOT = 0.5 * math.log(2 * math.pi)


class Funnel(Target):
    r"""Neal's funnel: :math:`v \sim N(0, s^2)` and :math:`x_i \sim N(0, e^v)`. Normalised: ``log_z = 0``.

    The first feature is ``v``. Its neck and its mouth have scales that differ by orders of magnitude.

    Args:
        features: Number of features, ``v`` included.
        scale: Standard deviation ``s`` of ``v``.

    Raises:
        ConfigError: If ``features < 2`` or ``scale`` is not positive and finite.

    References:
        Slice sampling, Neal 2003, Annals of Statistics 31(3), sec. 8.

    Example:
        >>> Funnel().sample(5).shape
        torch.Size([5, 10])
    """

    def __init__(self, features: int = 10, scale: float = 3.0) -> None:
        check(features >= 2, ConfigError, f"a funnel needs at least 2 features, got {features}.")
        check(math.isfinite(scale) and scale > 0, ConfigError, f"scale must be positive and finite, got {scale!r}.")
        super().__init__(features)
        self.features, self.scale = features, scale

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        v, rest = x[..., 0], x[..., 1:]
        # Clamped well below overflow: 0 * inf would be NaN.
        noise = rest * (-0.5 * v).clamp(max=math.log(torch.finfo(x.dtype).max) - 1).exp().unsqueeze(-1)
        n = self.features - 1
        value = -0.5 * (v / self.scale).square() - 0.5 * n * v - 0.5 * noise.square().sum(-1)
        return value - math.log(self.scale) - self.features * _LOG_ROOT

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        v, rest = self._normal((*batch, self.features), generator).split((1, self.features - 1), -1)
        v = self.scale * v
        return torch.cat((v, rest * (0.5 * v).exp()), -1)


class Banana(Target):
    r"""Banana: :math:`x_1 \sim N(0, s^2)` and :math:`x_2 \sim N(b(x_1^2 - s^2), 1)`. Normalised: ``log_z = 0``.

    Args:
        curvature: The bend ``b``.
        scale: Standard deviation ``s`` of the first feature.

    Raises:
        ConfigError: If ``scale`` is not positive and finite.

    References:
        Adaptive proposal distribution for random walk Metropolis algorithm, Haario, Saksman, Tamminen 1999,
        Computational Statistics 14.

    Example:
        >>> Banana().sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(self, curvature: float = 0.5, scale: float = 2.0) -> None:
        check(math.isfinite(scale) and scale > 0, ConfigError, f"scale must be positive and finite, got {scale!r}.")
        super().__init__(2)
        self.curvature, self.scale = curvature, scale

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = x.unbind(-1)
        noise = b - self.curvature * (a.square() - self.scale**2)
        return -0.5 * ((a / self.scale).square() + noise.square()) - math.log(self.scale) - 2 * _LOG_ROOT

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        a, b = self._normal((*batch, 2), generator).unbind(-1)
        a = self.scale * a
        return torch.stack((a, b + self.curvature * (a.square() - self.scale**2)), -1)

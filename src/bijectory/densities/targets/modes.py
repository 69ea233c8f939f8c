"""Equal mixtures of round normals with known centres."""

import math

import torch
from torch import Tensor

from bijectory.densities.targets.base import Target
from bijectory.errors import ConfigError, check


class _Modes(Target):
    """Equally weighted normals of one scale around fixed centres; normalised."""

    scale: float

    def __init__(self, features: int, centres: list[tuple[float, ...]], scale: float) -> None:
        super().__init__(features)
        check(math.isfinite(scale) and scale > 0, ConfigError, f"scale must be positive and finite, got {scale!r}.")
        self._centres, self.scale = centres, scale

    def _points(self, like: Tensor) -> Tensor:
        return torch.tensor(self._centres, dtype=like.dtype, device=like.device)

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        distance = ((x.unsqueeze(-2) - self._points(x)) / self.scale).square().sum(-1)
        constant = self.event_shape.numel() * math.log(self.scale * math.sqrt(2 * math.pi)) + math.log(
            len(self._centres)
        )
        return torch.logsumexp(-0.5 * distance, -1) - constant

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        k = self._choice(len(self._centres), batch, generator)
        return self._points(self._like)[k] + self.scale * self._normal((*batch, *self.event_shape), generator)


class GaussianRing(_Modes):
    """Equal normals in two dimensions, evenly spaced on a circle. Normalised: ``log_z = 0``.

    Args:
        modes: Number of normals.
        radius: Radius of the circle.
        scale: Standard deviation of each.

    Raises:
        ConfigError: If ``modes < 1`` or ``scale`` is not positive and finite.

    Example:
        >>> GaussianRing().sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(self, modes: int = 8, radius: float = 2.0, scale: float = 0.2) -> None:
        check(modes >= 1, ConfigError, f"modes must be at least 1, got {modes}.")
        angles = [2 * math.pi * k / modes for k in range(modes)]
        super().__init__(2, [(radius * math.cos(t), radius * math.sin(t)) for t in angles], scale)
        self.modes, self.radius = modes, radius


class GaussianGrid(_Modes):
    """Equal normals in two dimensions on a square grid around the origin. Normalised: ``log_z = 0``.

    Args:
        side: Number of normals along each axis.
        spacing: Distance between neighbours.
        scale: Standard deviation of each.

    Raises:
        ConfigError: If ``side < 1`` or ``scale`` is not positive and finite.

    Example:
        >>> GaussianGrid().sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(self, side: int = 5, spacing: float = 1.0, scale: float = 0.1) -> None:
        check(side >= 1, ConfigError, f"side must be at least 1, got {side}.")
        axis = [spacing * (k - (side - 1) / 2) for k in range(side)]
        super().__init__(2, [(a, b) for a in axis for b in axis], scale)
        self.side, self.spacing = side, spacing

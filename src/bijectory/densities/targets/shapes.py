"""Shapes in the plane with exact densities: two moons, rings, checkerboard."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bijectory.densities.targets.base import Target
from bijectory.errors import ConfigError, check


class TwoMoons(Target):
    r"""Two interleaved half circles with normal noise: the density of ``sklearn.datasets.make_moons``.

    .. math::
        p(x) = \tfrac12\,q(x) + \tfrac12\,q\big((1, \tfrac12) - x\big), \qquad
        q(x) = \frac1\pi \int_0^\pi N\big(x; (\cos t, \sin t), s^2 I\big)\,dt

    Normalised: ``log_z = 0``. The integral is a Gauss-Legendre sum, exact to rounding for :math:`\|x\| \le 4`; far
    outside the value is that of the nearest node, a little low.

    Args:
        noise: Standard deviation ``s``.

    Raises:
        ConfigError: If ``noise`` is not in ``[0.01, 10]``.

    Example:
        >>> TwoMoons().sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(self, noise: float = 0.1) -> None:
        check(0.01 <= noise <= 10, ConfigError, f"noise must be in [0.01, 10], got {noise!r}.")
        super().__init__(2)
        self.noise = noise
        nodes, weights = np.polynomial.legendre.leggauss(math.ceil(16 / noise) + 16)
        angles = (nodes + 1) * math.pi / 2
        self._nodes: list[list[float]] = np.stack((np.cos(angles), np.sin(angles), np.log(weights / 2))).tolist()

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        cos, sin, log_weight = torch.tensor(self._nodes, dtype=x.dtype, device=x.device).unbind(0)
        both = torch.stack((x, torch.tensor((1.0, 0.5), dtype=x.dtype, device=x.device) - x))
        distance = (both[..., :1] - cos).square() + (both[..., 1:] - sin).square()
        terms = log_weight - distance / (2 * self.noise**2)
        return torch.logsumexp(torch.logsumexp(terms, -1), 0) - math.log(4 * math.pi * self.noise**2)

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        t = math.pi * self._uniform(batch, generator)
        arc = torch.stack((t.cos(), t.sin()), -1)
        other = self._choice(2, (*batch, 1), generator) == 1
        centre = torch.where(other, arc.new_tensor((1.0, 0.5)) - arc, arc)
        return centre + self.noise * self._normal((*batch, 2), generator)


class Rings(Target):
    r"""Concentric circles with normal noise.

    .. math::
        p(x) = \frac1K \sum_k \frac{1}{2\pi s^2}\, e^{-\frac{(r - \rho_k)^2}{2 s^2}}\,
            e^{-\kappa_k} I_0(\kappa_k), \qquad \kappa_k = \frac{r \rho_k}{s^2}, \; r = \|x\|

    Normalised: ``log_z = 0``.

    Args:
        radii: The radii :math:`\rho_k`.
        noise: Standard deviation ``s``.

    Raises:
        ConfigError: If there is no radius, one is negative, or ``noise`` is not positive and finite.

    Example:
        >>> Rings().sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(self, radii: Sequence[float] = (1.0, 2.0, 3.0), noise: float = 0.1) -> None:
        check(len(radii) >= 1 and min(radii) >= 0, ConfigError, f"radii must be non-negative numbers, got {radii!r}.")
        check(math.isfinite(noise) and noise > 0, ConfigError, f"noise must be positive and finite, got {noise!r}.")
        super().__init__(2)
        self.radii, self.noise = tuple(radii), noise

    def _radii(self, like: Tensor) -> Tensor:
        return torch.tensor(self.radii, dtype=like.dtype, device=like.device)

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        radii, variance = self._radii(x), self.noise**2
        # tiny keeps the derivative of the root finite at the origin
        r = (x.square().sum(-1, keepdim=True) + torch.finfo(x.dtype).tiny).sqrt()
        terms = torch.special.i0e(r * radii / variance).log() - (r - radii).square() / (2 * variance)
        return torch.logsumexp(terms, -1) - math.log(2 * math.pi * variance * len(self.radii))

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        radius = self._radii(self._like)[self._choice(len(self.radii), batch, generator)]
        t = 2 * math.pi * self._uniform(batch, generator)
        circle = torch.stack((radius * t.cos(), radius * t.sin()), -1)
        return circle + self.noise * self._normal((*batch, 2), generator)


class Checkerboard(Target):
    r"""Uniform on the dark squares of a board over :math:`[-h, h]^2`; the lower left square is dark.

    Normalised: ``log_z = 0``. Outside the dark squares the log-density is :math:`-\infty`, and NaN at NaN.

    Args:
        side: Number of squares along each axis.
        half_width: Half the width ``h`` of the board.

    Raises:
        ConfigError: If ``side < 1`` or ``half_width`` is not positive and finite.

    Example:
        >>> Checkerboard().log_prob(torch.tensor([[-3.0, -3.0], [-1.0, -3.0]]))
        tensor([-3.4657,    -inf])
    """

    def __init__(self, side: int = 4, half_width: float = 4.0) -> None:
        check(side >= 1, ConfigError, f"side must be at least 1, got {side}.")
        ok = math.isfinite(half_width) and half_width > 0
        check(ok, ConfigError, f"half_width must be positive and finite, got {half_width!r}.")
        super().__init__(2)
        self.side, self.half_width = side, half_width
        self._dark = [(i, j) for i in range(side) for j in range(side) if (i + j) % 2 == 0]

    def _edges(self, like: Tensor) -> Tensor:
        edges = [self.half_width * (2 * k / self.side - 1) for k in range(self.side + 1)]
        return torch.tensor(edges, dtype=like.dtype, device=like.device)

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        edges = self._edges(x)
        cell = (
            torch.bucketize(x.detach(), edges, right=True) - 1
        )  # by comparison: arithmetic would round across an edge
        dark = (cell.sum(-1) % 2 == 0) & ((cell >= 0) & (cell < self.side)).all(-1)
        flat = torch.where(dark.unsqueeze(-1), x, 0.0).sum(-1) * 0.0  # zero, but part of the graph
        outside = torch.where(x.isnan().any(-1), math.nan, -math.inf).to(x.dtype)
        area = (2 * self.half_width / self.side) ** 2 * len(self._dark)
        return torch.where(dark, flat, outside) - math.log(area)

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        edges = self._edges(self._like)
        cells = torch.tensor(self._dark, device=edges.device)[self._choice(len(self._dark), batch, generator)]
        low, high = edges[cells], edges[cells + 1]
        x = torch.lerp(low, high, self._uniform((*batch, 2), generator))
        return torch.minimum(x, torch.nextafter(high, low))  # rounding must not step into the next square

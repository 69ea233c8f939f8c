"""Bernstein polynomials with increasing coefficients."""

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.checks import check_bound, check_integer, check_min_slope
from bijectory.errors import ConfigError, check
from bijectory.ops.monotone import box_inverse
from bijectory.ops.scalar import saturate, softplus
from bijectory.ops.shape import align


@dataclasses.dataclass(frozen=True)
class Bernstein(Bijection):
    r"""Bernstein polynomial of degree ``n`` with increasing coefficients on :math:`[-B, B]`, continued by straight lines.

    .. math::
        y = \sum_{k=0}^n \theta_k \binom nk u^k (1 - u)^{n - k}, \quad
        \frac{dy}{dx} = \frac{n}{2B} \sum_{k=0}^{n-1} (\theta_{k+1} - \theta_k) \binom{n-1}k u^k (1 - u)^{n-1-k}, \quad
        u = \frac{x + B}{2B}

    Both sums have bounded, well-conditioned terms, whatever the degree. The lines have the slopes at the ends of the box,
    :math:`n(\theta_1 - \theta_0)/2B` and :math:`n(\theta_n - \theta_{n-1})/2B`, so the map is continuously differentiable.
    The ends of the box go to :math:`\theta_0` and :math:`\theta_n`. By ``range``:

    - ``"free"``: the ``n`` increments (softplus with a floor) are free, and so is the shift; ``n + 1`` parameters.
    - ``"box"``: as published for compact supports, :math:`\theta_0 = -B` and :math:`\theta_n = B`, and the box goes to
      itself; ``n`` parameters (softmax with a floor).

    Raw zeros are the identity: a Bernstein polynomial of equal increments is a straight line.

    Args:
        degree: The degree ``n``, at least 2.
        bound: Half width ``B`` of the box.
        range: ``"free"`` or ``"box"``.
        min_slope: Least slope, in ``(0, 1)``.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Robust normalizing flows using Bernstein-type polynomials, Ramasinghe, Fernando, Khan, Barnes 2021,
        arXiv:2102.03509.

    Example:
        >>> family = Bernstein(degree=2, bound=1.0, range="box", min_slope=1e-9)
        >>> phi = torch.tensor([0.0, 1.0986123]).view(2, 1)  # increments 1/2 and 3/2: y = x + (x^2 - 1) / 4
        >>> y, ladj = family.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 4), round(ladj.exp().item(), 4)
        (-0.25, 1.0)
        >>> family.inverse(y, phi)[0].abs().item() < 1e-6
        True
    """

    degree: int = 16
    bound: float = 5.0
    range: Literal["free", "box"] = "free"
    min_slope: float = 1e-3

    solver = "bracketed root"

    def __post_init__(self) -> None:
        check_integer("degree", self.degree, 2)
        check_bound("bound", self.bound)
        check(self.range in ("free", "box"), ConfigError, f"range must be 'free' or 'box', got {self.range!r}.")
        check_min_slope(self.min_slope, positive=True)

    @property
    def n_params(self) -> int:
        return self.degree + (self.range == "free")

    def _coefficients(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\theta_0` and the slopes :math:`n (\theta_{k+1} - \theta_k) / 2B`."""
        phi = saturate(align(phi, x.dim()), 0.4)
        if self.range == "box":
            slope = self.min_slope + (1 - self.min_slope) * self.degree * phi.softmax(0)
            return torch.full_like(phi[0], -self.bound), slope
        raw_one = math.log(math.expm1(1 - self.min_slope))
        slope = self.min_slope + softplus(phi[:-1] + raw_one)
        return phi[-1] - slope.mean(0) * self.bound, slope

    def _map(self, x: Tensor, first: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        b, n = self.bound, self.degree
        x = x.expand(torch.broadcast_shapes(x.shape, first.shape))
        inner = x.clamp(-b, b)
        u, rest = (inner + b) / (2 * b), (b - inner) / (2 * b)
        theta = (slope * (2 * b / n)).cumsum(0)
        steep = (_basis(u, rest, n - 1) * slope).sum(0)
        value = first + (_basis(u, rest, n)[1:] * theta).sum(0)
        return saturate(value + (x - inner) * steep, 0.75), steep.log()

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, *self._coefficients(x, phi))

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return box_inverse(self._map, y, self._coefficients(y, phi), self.bound)


def _basis(u: Tensor, rest: Tensor, n: int) -> Tensor:
    """Bernstein basis of degree ``n``, ``(n + 1, *u.shape)``; ``rest = 1 - u`` is given, to its own precision."""
    up, down = [torch.ones_like(u)], [torch.ones_like(u)]
    for _ in range(n):
        up.append(up[-1] * u)
        down.append(down[-1] * rest)
    return torch.stack([math.comb(n, k) * up[k] * down[n - k] for k in range(n + 1)])

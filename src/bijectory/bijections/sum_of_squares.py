"""Integral of a sum of squared polynomials."""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.checks import check_bound, check_integer, check_min_slope
from bijectory.ops.monotone import box_inverse
from bijectory.ops.quadrature import integrate, quadrature
from bijectory.ops.scalar import saturate
from bijectory.ops.shape import align


@dataclasses.dataclass(frozen=True)
class SumOfSquares(Bijection):
    r"""Polynomial :math:`y = c + \int_0^x \sum_k p_k(t)^2\, dt` on :math:`[-B, B]`, continued by straight lines.

    Any increasing polynomial has this form, with two squares. The integral is exact: Gauss-Legendre with one node more
    than the degree, a sum of positive terms. :math:`\log|dy/dx| = \log \sum_k p_k(x)^2`. As published, but for the lines
    (powers of outliers overflow, and a stack of polynomials does so soon) and the least slope ``min_slope``: the
    integrand is :math:`\epsilon + (1 - \epsilon) \sum_k p_k^2`.

    Raw parameters: for each power :math:`(t/B)^l` from the highest down the ``K`` coefficients :math:`a_{kl}`, then ``c``.
    Zeros are nearly the identity: :math:`p_k = (1 + b_k t / B)/\sqrt K` with :math:`b_k` evenly spaced on
    :math:`[-\tfrac12, \tfrac12]`, so that no coefficient is without gradient and the polynomials learn different things.

    Args:
        polynomials: Number of polynomials ``K``.
        degree: Their degree; the map has degree ``2 * degree + 1``.
        bound: Half width ``B`` of the box.
        min_slope: Least slope, in ``(0, 1)``.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Sum-of-Squares Polynomial Flow, Jaini, Selby, Yu 2019, arXiv:1905.02325.

    Example:
        >>> family = SumOfSquares(polynomials=1, degree=1, bound=2.0, min_slope=1e-9)
        >>> phi = torch.tensor([2.0, 0.0, 0.0]).view(3, 1)  # p(t) = 1 + 2 t / 2, integral x + x^2 + x^3 / 3
        >>> y, ladj = family.forward(torch.tensor([1.0]), phi)
        >>> round(y.item(), 4), round(ladj.exp().item(), 4)
        (2.3333, 4.0)
        >>> round(family.inverse(y, phi)[0].item(), 4)
        1.0
    """

    polynomials: int = 3
    degree: int = 4
    bound: float = 5.0
    min_slope: float = 1e-3

    _rule: tuple[tuple[float, ...], ...] = dataclasses.field(init=False, repr=False, compare=False)

    solver = "bracketed root"

    def __post_init__(self) -> None:
        check_integer("polynomials", self.polynomials, 1)
        check_integer("degree", self.degree, 1)
        check_bound("bound", self.bound)
        check_min_slope(self.min_slope, positive=True)
        object.__setattr__(self, "_rule", quadrature("gauss-legendre", self.degree + 1))

    @property
    def n_params(self) -> int:
        return self.polynomials * (self.degree + 1) + 1

    def _coefficients(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``a`` as ``(degree + 1, K, *batch, features)`` with the highest power first; ``c``; nodes and weights."""
        phi = saturate(align(phi, x.dim()), 0.4)
        raw = phi[:-1].unflatten(0, (self.degree + 1, self.polynomials))
        tilt = torch.linspace(-0.5, 0.5, self.polynomials, dtype=phi.dtype, device=phi.device)
        tilt = tilt if self.polynomials > 1 else torch.zeros_like(tilt)
        tilt = tilt.view(1, -1, *(1,) * (phi.dim() - 1))
        start = torch.cat((tilt.new_zeros(self.degree - 1, *tilt.shape[1:]), tilt, torch.ones_like(tilt)))
        tau, weight = (phi.new_tensor(v) for v in self._rule)
        return raw + start / math.sqrt(self.polynomials), phi[-1], tau, weight

    def _slope(self, t: Tensor, a: Tensor) -> Tensor:
        u, value = t.unsqueeze(-1 - a[0, 0].dim()) / self.bound, a[0]
        for coefficient in a[1:].unbind():
            value = value * u + coefficient
        return self.min_slope + (1 - self.min_slope) * value.square().sum(-1 - a[0, 0].dim())

    def _map(self, x: Tensor, a: Tensor, c: Tensor, tau: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        x = x.expand(torch.broadcast_shapes(x.shape, c.shape))
        inner = x.clamp(-self.bound, self.bound)
        slope = self._slope(inner, a)
        y = integrate(lambda t: self._slope(t, a), inner, tau, weight) + (x - inner) * slope + c
        return saturate(y, 0.75), slope.log()

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, *self._coefficients(x, phi))

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return box_inverse(self._map, y, self._coefficients(y, phi), self.bound)

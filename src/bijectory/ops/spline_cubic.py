r"""Monotone cubic Hermite splines with Steffen's slopes.

With :math:`\alpha = \delta_k / s` and :math:`\beta = \delta_{k+1} / s` relative to the mean slope ``s`` of a bin, the
fraction ``t`` of its width is mapped to the fraction

.. math:: \theta = t\,(\alpha (1-t)^2 + (3-\beta)\,t (1-t) + t^2), \qquad
    \frac{d\theta}{dt} = \alpha (1-t)^2 + 2 (3 - \alpha - \beta)\,t (1-t) + \beta t^2 .

Slopes at inner knots are at most twice, those at the two ends of the box at most three times the mean slope of a bin that
they touch (Steffen 1990): the derivative is then positive, at its smallest 0.22 s away from the knots.

The inverse is closed. By the symmetry of the bin :math:`\theta \le 1/2` can be had, so that :math:`\tau = 1/(1-t)`
solves a cubic whose leading coefficient :math:`1 - \theta` is at least 1/2, whatever the slopes. Since :math:`\theta(t)` is
increasing, :math:`\tau` is the largest real root: a cosine where three are real, Cardano's elsewhere; very near the corner
the quadratic part of the cubic takes over. It is found in float64; Newton steps on the sum of non-negative terms above
then give it full relative accuracy, and the last two carry the derivatives.

References:
    Cubic-Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.02145.
    A simple method for monotonic interpolation in one dimension, Steffen 1990, Astronomy and Astrophysics 239.
"""

import math

import torch
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid
from bijectory.ops.spline_knots import across, close, find, pick, shares

_CORNER = 1e-4


def cubic_spline(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``x`` to ``(y, log|dy/dx|)``; ``phi`` holds K raw widths and heights, then two end slopes unless circular."""
    return across(_forward, x, phi, grid)


def cubic_spline_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``."""
    return across(_inverse, y, phi, grid)


def _bin(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> list[Tensor]:
    """Width, left corner, height, lower corner, mean slope, and the relative slopes at the two knots."""
    k = grid.bins
    widths, heights = shares(phi[:k], grid), shares(phi[k : 2 * k], grid)
    knots = _slopes(widths, heights / widths, phi[2 * k :], grid)  # before the last bin takes up the rounding
    (widths, left), (heights, low) = close(widths), close(heights)
    index = find(v, (left, low)[along])
    w, x, h, y, before, after = pick(index, widths, left, heights, low, knots[:-1], knots[1:])
    return [w, x, h, y, h / w, before * w / h, after * w / h]


def _slopes(w: Tensor, s: Tensor, raw: Tensor, grid: SplineGrid) -> Tensor:
    """Slopes at the K + 1 knots (Steffen 1990, eq. 11; the ends: Durkan+ 2019, app. A)."""
    if grid.tails == "circular":
        w, s = torch.cat((w[-1:], w)), torch.cat((s[-1:], s))
    p = (s[:-1] * w[1:] + s[1:] * w[:-1]) / (w[:-1] + w[1:])
    inner = torch.minimum(2 * torch.minimum(s[:-1], s[1:]), p)
    if grid.tails == "circular":
        return torch.cat((inner, inner[:1]))
    share = torch.sigmoid(raw + math.log((1 - grid.min_slope) / 2))  # raw zero: the mean slope
    ends = torch.stack((s[0], s[-1])) * (grid.min_slope + (3 - grid.min_slope) * share)
    return torch.cat((ends[:1], inner, ends[1:]))


def _theta(t: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return t * (alpha * rest.square() + (3 - beta) * t * rest + t.square())


def _slope(t: Tensor, rest: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * rest.square() + 2 * (3 - alpha - beta) * t * rest + beta * t.square()


def _forward(u: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    w, x, h, y, s, alpha, beta = _bin(u, phi, grid, along=0)
    t = ((u - x) / w).clamp(0, 1)
    return y + h * _theta(t, 1 - t, alpha, beta).clamp(max=1), (s * _slope(t, 1 - t, alpha, beta)).log()


def _inverse(v: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    w, x, h, y, s, alpha, beta = _bin(v, phi, grid, along=1)
    theta = ((v - y) / h).clamp(0, 1)
    upper = theta > 0.5  # seen from the other corner
    theta = torch.where(upper, 1 - theta, theta)
    alpha, beta = torch.where(upper, beta, alpha), torch.where(upper, alpha, beta)
    with torch.no_grad():
        t = _solve(theta.detach().double(), alpha.detach().double(), beta.detach().double()).to(theta.dtype)
    t = t.detach()
    t = _newton(_newton(t, theta, alpha, beta), theta, alpha, beta)
    log_slope = (s * _slope(t, 1 - t, alpha, beta)).log()
    return x + w * torch.where(upper, 1 - t, t), -log_slope


def _newton(t: Tensor, theta: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    t = t - (_theta(t, 1 - t, alpha, beta) - theta) / _slope(t, 1 - t, alpha, beta)
    return t.clamp(0, 1)


def _solve(theta: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The root to the last digits; one step is enough but for slopes that are tiny at the corner."""
    t = _root(theta, alpha, beta)
    for _ in range(5):
        t = _newton(t, theta, alpha, beta)
    return t


def _root(theta: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    r"""Root ``t`` in [0, 1] for :math:`\theta \le 1/2`.

    In :math:`r = 1 - t` the cubic is :math:`a r^3 + b r^2 + c r = 1 - \theta` with :math:`c = \beta`,
    :math:`b = 3 - 2\beta - \alpha`, :math:`a = \alpha + \beta - 2`. Divided by :math:`(1 - \theta) r^3` it becomes
    :math:`\tau^3 - c' \tau^2 - b' \tau - a' = 0` in :math:`\tau = 1/r`.
    """
    rest = 1 - theta
    a, b, c = (alpha + beta - 2) / rest, (3 - 2 * beta - alpha) / rest, beta / rest
    shift = c / 3
    p = -(b + c.square() / 3) / 3  # x^3 + 3 p x + 2 q = 0 with tau = x + shift
    q = -(a + b * shift + 2 * shift**3) / 2
    d = q.square() + p**3
    # One real root: the larger of two cube roots first, so that nothing cancels.
    size = (q.abs() + d.clamp(min=0).sqrt()).pow(1 / 3)
    cardano = torch.where(q > 0, -1.0, 1.0) * (size - p / size.clamp(min=1e-100))
    m = (-p).clamp(min=1e-100).sqrt()
    cosine = 2 * m * torch.cos(torch.acos((-q / m**3).clamp(-1, 1)) / 3)
    t = 1 - 1 / (shift + torch.where(d < 0, cosine, cardano)).clamp(min=1.0)
    # Near the corner, where a small slope makes two roots nearly coincide, the quadratic part says more.
    corner = 2 * theta / (alpha + (alpha.square() + 4 * (3 - beta - 2 * alpha) * theta).clamp(min=0).sqrt())
    return torch.where(corner < _CORNER, corner, t).clamp(0, 1)

r"""Monotone linear-rational splines: in each bin two fractional linear pieces that meet at :math:`\lambda`.

With knot slopes :math:`\delta_a, \delta_b` and the mean slope ``s`` of a bin, the weights
:math:`w_a = \sqrt{\delta_b}, w_b = \sqrt{\delta_a}` and :math:`w_c = w_a w_b (\lambda w_b + (1 - \lambda) w_a) / s` make
both pieces match values and slopes at the knots, and each other at the height
:math:`\theta_c = \lambda w_b / ((1 - \lambda) w_a + \lambda w_b)` (Dolatabadi+ 2020, alg. 1, all weights multiplied by
:math:`\sqrt{\delta_b}`). Measured from its outer end, either piece is

.. math:: o = \frac{w_c \Theta q}{W (L - q) + w_c q}, \qquad q = \frac{W L o}{w_c (\Theta - o) + W o},

with :math:`L, \Theta` its extents and ``W`` the weight of the outer knot: sums of non-negative terms, closed both ways.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid
from bijectory.ops.spline_knots import across, find, pick, simplex, slopes

EDGE = 0.025  # the pieces of a bin meet at a fraction between EDGE and 1 - EDGE of its width


def linear_rational(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``x`` to ``(y, log|dy/dx|)``; ``phi`` holds K raw widths, heights and meeting points, then the free slopes."""
    return across(_forward, x, phi, grid)


def linear_rational_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``."""
    return across(_inverse, y, phi, grid)


class _Bin(NamedTuple):
    w: Tensor
    x: Tensor
    h: Tensor
    y: Tensor
    lam: Tensor
    meet: Tensor
    a: Tensor
    b: Tensor
    c: Tensor


def _bin(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> _Bin:
    k = grid.bins
    widths, left = simplex(phi[:k], grid)
    heights, low = simplex(phi[k : 2 * k], grid)
    root = slopes(phi[3 * k :], grid).sqrt()
    index = find(v, (left, low)[along])
    w, x, h, y, raw, root_a, root_b = pick(index, widths, left, heights, low, phi[2 * k : 3 * k], root[:-1], root[1:])
    lam = EDGE + (1 - 2 * EDGE) * raw.sigmoid()
    rest = 1 - lam
    meet = lam * root_a / (rest * root_b + lam * root_a)
    c = root_a * root_b * (lam * root_a + rest * root_b) * (w / h)
    return _Bin(w, x, h, y, lam, meet, root_b, root_a, c)


def _piece(at: _Bin, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Extents ``L`` and ``Theta`` of the piece, and the weight of its outer knot."""
    return (
        torch.where(second, 1 - at.lam, at.lam),
        torch.where(second, 1 - at.meet, at.meet),
        torch.where(second, at.b, at.a),
    )


def _forward(u: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    at = _bin(u, phi, grid, along=0)
    t = ((u - at.x) / at.w).clamp(0, 1)
    second = t > at.lam
    length, extent, outer = _piece(at, second)
    q = torch.minimum(torch.where(second, 1 - t, t), length)
    den = outer * (length - q) + at.c * q
    o = at.c * extent * q / den
    theta = torch.where(second, 1 - o, o)
    return at.y + at.h * theta, _log_slope(at, length, extent, outer, den)


def _inverse(v: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    at = _bin(v, phi, grid, along=1)
    theta = ((v - at.y) / at.h).clamp(0, 1)
    second = theta > at.meet
    length, extent, outer = _piece(at, second)
    o = torch.minimum(torch.where(second, 1 - theta, theta), extent)
    q = outer * length * o / (at.c * (extent - o) + outer * o)
    den = outer * (length - q) + at.c * q
    t = torch.where(second, 1 - q, q)
    return at.x + at.w * t, -_log_slope(at, length, extent, outer, den)


def _log_slope(at: _Bin, length: Tensor, extent: Tensor, outer: Tensor, den: Tensor) -> Tensor:
    return (at.h / at.w * (outer / den) * (at.c / den) * extent * length).log()

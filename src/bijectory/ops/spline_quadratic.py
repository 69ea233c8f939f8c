r"""Piecewise quadratic splines: the distribution function of a continuous, piecewise linear density.

With density :math:`p_k` at knot ``k``, the bin of width ``w`` and height ``h`` maps the fraction ``t`` of its width to the
fraction (Mueller+ 2018, eq. 14)

.. math:: \theta = \frac{t\,(p_k (2 - t) + p_{k+1} t)}{p_k + p_{k+1}}, \qquad
    t = \frac{\theta\,(p_k + p_{k+1})}{p_k + r}, \quad r = \sqrt{p_k^2 (1 - \theta) + p_{k+1}^2 \theta},

both sums of non-negative terms, with slope :math:`2 (h/w) (p_k (1 - t) + p_{k+1} t) / (p_k + p_{k+1}) \propto r`.
"""

import torch
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid
from bijectory.ops.spline_knots import across, close, find, pick, simplex


def quadratic_spline(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``x`` to ``(y, log|dy/dx|)``; ``phi`` holds K raw widths, then the raw densities at the free knots."""
    return across(_forward, x, phi, grid)


def quadratic_spline_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``."""
    return across(_inverse, y, phi, grid)


def _knots(phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Widths, their corners, heights, theirs, each ``(K, ...)``, and the density at the K + 1 knots."""
    widths, left = simplex(phi[: grid.bins], grid)
    raw = phi[grid.bins :]
    p = (raw - raw.detach().amax(0, keepdim=True)).exp()  # what follows does not change when p is multiplied
    if grid.tails == "identity":
        # The ends must be 1 once the area is: c = area, with area = inside + c (w_first + w_last) / 2.
        inside = (p * (widths[:-1] + widths[1:])).sum(0, keepdim=True) / 2
        end = inside / (1 - (widths[:1] + widths[-1:]) / 2)
        p = torch.cat((end, p, end))
    elif grid.tails == "circular":
        p = torch.cat((p, p[:1]))
    area = (widths * (p[:-1] + p[1:])).sum(0) / 2
    p = grid.min_slope + (1 - grid.min_slope) * (p / area)
    heights, low = close(widths * (p[:-1] + p[1:]) / 2)
    return widths, left, heights, low, p


def _forward(u: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    widths, left, heights, low, p = _knots(phi, grid)
    w, x, h, y, p0, p1 = pick(find(u, left), widths, left, heights, low, p[:-1], p[1:])
    t = ((u - x) / w).clamp(0, 1)
    slope = 2 * (h / w) * (p0 * (1 - t) + p1 * t) / (p0 + p1)
    return y + h * (t * (p0 * (2 - t) + p1 * t) / (p0 + p1)), slope.log()


def _inverse(v: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    widths, left, heights, low, p = _knots(phi, grid)
    w, x, h, y, p0, p1 = pick(find(v, low), widths, left, heights, low, p[:-1], p[1:])
    theta = ((v - y) / h).clamp(0, 1)
    r = (p0.square() * (1 - theta) + p1.square() * theta).sqrt()
    t = (theta * (p0 + p1) / (p0 + r)).clamp(max=1)
    return x + w * t, -(2 * (h / w) * r / (p0 + p1)).log()

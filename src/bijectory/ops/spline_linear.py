r"""Piecewise linear splines: the distribution function of a histogram with ``K`` bins of equal width.

In bin ``k`` with height :math:`h_k` the unit interval is mapped by :math:`v = v_k + h_k t` with :math:`t = K u - k`
(Mueller+ 2018, eq. 9-10).
"""

import math

import torch
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid
from bijectory.ops.spline_knots import across, find, pick, simplex


def linear_spline(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``x`` to ``(y, log|dy/dx|)``; ``phi`` holds K raw heights."""
    return across(_forward, x, phi, grid)


def linear_spline_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``."""
    return across(_inverse, y, phi, grid)


def _forward(u: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    heights, corners = simplex(phi, grid)
    edges = torch.arange(grid.bins, dtype=u.dtype, device=u.device) / grid.bins
    index = find(u, edges.reshape(-1, *(1,) * u.dim()))
    h, v = pick(index, heights, corners)
    t = (u * grid.bins - index).clamp(0, 1)
    return v + h * t, h.log() + math.log(grid.bins)


def _inverse(v: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    heights, corners = simplex(phi, grid)
    index = find(v, corners)
    h, below = pick(index, heights, corners)
    t = ((v - below) / h).clamp(0, 1)
    return (index + t) / grid.bins, -h.log() - math.log(grid.bins)

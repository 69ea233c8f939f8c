r"""What splines have in common: the box with its tails, knots from raw parameters, and the pick of a bin.

A spline is a map of the unit interval onto itself, given as ``unit(u, phi, grid) -> (v, log dv/du)``; `across` stretches it
over the box, outside of which a tail takes over. Everything is a large operation on whole planes, the number of which does
not grow with the number of bins; inputs are made safe before the risky operation, and NaN stays NaN.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid, at_least_single, enter, working

Unit = Callable[[Tensor, Tensor, SplineGrid], tuple[Tensor, Tensor]]


def across(unit: Unit, x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Apply a map of the unit interval to the box of ``grid``, with its tails; return the value and its ``ladj``."""
    dtype, shape = torch.promote_types(x.dtype, phi.dtype), torch.broadcast_shapes(x.shape, phi.shape[1:])
    x, phi = working(x, phi, grid)
    x = x.expand(shape)
    phi = phi.reshape(phi.shape[0], *(1,) * (len(shape) + 1 - phi.dim()), *phi.shape[1:])
    if shape:  # features first, the order of memory: every large operation is then contiguous
        x, phi = x.movedim(-1, 0), phi.movedim(-1, 1)
    inner, outside, turns = enter(x, grid)
    width = 2 * grid.bound
    v, ladj = unit((inner + grid.bound) / width, phi, grid)
    y = (v - 0.5) * width
    if grid.tails == "linear":
        y = y + (x - inner) * ladj.exp()
    elif grid.tails == "circular":
        y = y + turns
    else:
        y, ladj = torch.where(outside, x, y), ladj.masked_fill(outside, 0)
    y, ladj = y.to(dtype), ladj.to(at_least_single(dtype))
    return (y.movedim(0, -1), ladj.movedim(0, -1)) if shape else (y, ladj)


def simplex(raw: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Sizes of the bins and their lower corners, ``(K, ...)`` both."""
    return close(shares(raw, grid))


def shares(raw: Tensor, grid: SplineGrid) -> Tensor:
    """Parts of the unit interval, ``(K, ...)``: a softmax over planes with a floor."""
    return grid.min_bin + (1 - grid.min_bin * grid.bins) * torch.softmax(raw, 0)


def close(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Lower corners of bins; the last bin is what the others leave, so that the last knot is exactly 1."""
    ends = sizes[:-1].cumsum(0)
    corners = torch.cat((torch.zeros_like(sizes[:1]), ends))
    return torch.cat((sizes[:-1], 1 - ends[-1:])), corners


def find(v: Tensor, corners: Tensor) -> Tensor:
    """Index of the bin that holds ``v``; the first one for NaN."""
    return (v >= corners[1:]).sum(0)


def pick(index: Tensor, *planes: Tensor) -> list[Tensor]:
    """For every element the entry ``index`` of each ``(K, ...)``."""
    return [p.expand(p.shape[0], *index.shape).gather(0, index.unsqueeze(0)).squeeze(0) for p in planes]


def slopes(raw: Tensor, grid: SplineGrid) -> Tensor:
    """Slopes at the ``K + 1`` knots: softplus with a floor, 1 at raw zero; the ends as the tails want them."""
    inner = F.softplus(raw + math.log(math.expm1(1 - grid.min_slope))) + grid.min_slope
    if grid.tails == "identity":
        one = torch.ones_like(inner[:1])
        return torch.cat((one, inner, one))
    return torch.cat((inner, inner[:1])) if grid.tails == "circular" else inner

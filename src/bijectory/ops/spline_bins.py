"""Where a spline's elements lie: the grid's hyper-parameters, its knots, and the search, in two forms of one meaning.

`scan` is pointwise on lists of planes, so a compiler makes one loop of it. `gather` is few large operations, the number of
which does not depend on the number of bins: fastest in eager mode, where the cost is in dispatching and passes over memory.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Tails = Literal["identity", "linear", "circular"]


class SplineGrid(NamedTuple):
    """Plain hyper-parameters of a spline.

    Attributes:
        bins: Number of bins ``K``.
        bound: Half width ``B`` of the box.
        tails: ``"identity"`` outside the box (3K-1 planes), ``"linear"`` with learned slopes (3K+1), ``"circular"`` (3K).
        min_bin: Smallest width and height of a bin, as a fraction of the box.
        min_slope: Smallest slope at a knot.
        double: Compute in float64 whatever the dtype of the inputs.
    """

    bins: int = 8
    bound: float = 5.0
    tails: Tails = "identity"
    min_bin: float = 1e-3
    min_slope: float = 1e-3
    double: bool = False

    @property
    def n_params(self) -> int:
        """Number of planes in ``phi``: K widths, K heights, then the slopes from left to right."""
        return 3 * self.bins + {"identity": -1, "linear": 1, "circular": 0}[self.tails]


class Bin(NamedTuple):
    """The bin that holds every element, in the unit box: size, lower corner, mean slope, and the slopes at its two knots."""

    w: Tensor
    h: Tensor
    x: Tensor
    y: Tensor
    s: Tensor
    left: Tensor
    right: Tensor


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or float32 for narrower ones."""
    return torch.promote_types(dtype, torch.float32)


def working(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Bring both to the working precision: float32 at least (so also under autocast), float64 when asked."""
    dtype = torch.float64 if grid.double else at_least_single(torch.promote_types(x.dtype, phi.dtype))
    return x.to(dtype), phi.to(dtype)


def enter(x: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor, Tensor]:
    """A point of the box for every element (NaN stays NaN), who was outside, and the whole turns taken (circular)."""
    b = grid.bound
    outside = x.abs() >= b
    if grid.tails == "linear":
        return x.clamp(-b, b), outside, x
    if grid.tails == "circular":  # the lift of the circle map: f(x + 2B) = f(x) + 2B
        turns = torch.floor((x + b) / (2 * b)).detach() * (2 * b)
        return (x - turns), outside, turns
    return x.masked_fill(outside, 0), outside, x


def raw_one(grid: SplineGrid) -> float:
    """Where softplus is ``1 - min_slope``, so that raw zero is slope 1."""
    return math.log(math.expm1(1 - grid.min_slope))


def free(grid: SplineGrid) -> float:
    """The part of the box that the floors leave to the softmax."""
    return 1 - grid.min_bin * grid.bins


def scan(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> Bin:
    """Select the bin by a pass over the inner knots; pointwise on lists of planes, so a compiler makes one loop of it."""
    planes, bins = phi.unbind(0), grid.bins
    sizes = _simplex(planes[:bins], grid), _simplex(planes[bins : 2 * bins], grid)
    raw = list(planes[2 * bins :])
    if grid.tails == "identity":
        raw = [torch.zeros_like(planes[0]), *raw, torch.zeros_like(planes[0])]
    elif grid.tails == "circular":
        raw = [*raw, raw[0]]
    edge = [sizes[0][0], sizes[1][0]]
    size, knot = list(edge), [torch.zeros_like(v), torch.zeros_like(v)]
    left, right = raw[0], raw[1]
    for k in range(1, bins):
        beyond = v >= edge[along]
        for i in (0, 1):  # the last bin is what is left, so the last knot is exactly 1
            following = sizes[i][k] if k < bins - 1 else 1 - edge[i]
            knot[i], size[i] = torch.where(beyond, edge[i], knot[i]), torch.where(beyond, following, size[i])
            edge[i] = edge[i] + following
        left, right = torch.where(beyond, raw[k], left), torch.where(beyond, raw[k + 1], right)
    left, right = (F.softplus(v + raw_one(grid)) + grid.min_slope for v in (left, right))
    return Bin(size[0], size[1], knot[0], knot[1], size[1] / size[0], left, right)


def _simplex(planes: Sequence[Tensor], grid: SplineGrid) -> list[Tensor]:
    """Softmax over planes with a floor; the shift by the maximum is exact, so it carries no gradient."""
    top = functools.reduce(torch.maximum, [p.detach() for p in planes])
    exps = [(p - top).exp() for p in planes]
    scale = free(grid) / functools.reduce(torch.add, exps)
    return [grid.min_bin + e * scale for e in exps]


def gather(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> tuple[Bin, Tensor, Tensor]:
    """Select the bin by an index, in few large operations; also returns the index and the softmax, ``(2, K, ...)``."""
    bins, dtype = grid.bins, v.dtype
    shares = torch.softmax(phi[: 2 * bins].unflatten(0, (2, bins)), 1)
    sizes = torch.add(shares, grid.min_bin / free(grid)).mul_(free(grid))
    knots = sizes.cumsum(1)
    index = (v >= knots[along, :-1]).sum(0)
    full = index.shape
    inner, last = (index > 0).to(dtype), (index == bins - 1).to(dtype)
    below = (index - 1).clamp(min=0)
    size = sizes.expand(2, bins, *full).gather(1, index.expand(2, 1, *full)).squeeze(1)
    knot = knots.expand(2, bins, *full).gather(1, below.expand(2, 1, *full)).squeeze(1) * inner
    size = torch.lerp(size, 1 - knot, last)  # the last bin is what is left, so the last knot is exactly 1
    if grid.tails == "identity":
        pair = torch.stack((below, index.clamp(max=bins - 2)))
    elif grid.tails == "linear":
        pair = torch.stack((index, index + 1))
    else:
        pair = torch.stack((index, (index + 1) % bins))
    raw = phi[2 * bins :]
    raw = raw.expand(raw.shape[0], *full).gather(0, pair)
    if grid.tails == "identity":
        raw = raw * torch.stack((inner, 1 - last))
    left, right = F.softplus(raw + raw_one(grid)).add_(grid.min_slope).unbind(0)
    (w, h), (x, y) = size.unbind(0), knot.unbind(0)
    return Bin(w, h, x, y, h / w, left, right), index, shares

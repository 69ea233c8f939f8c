r"""Monotone rational-quadratic splines, both directions, plane-major.

On a box :math:`[-B, B]^2` with ``K`` bins, widths :math:`w_k`, heights :math:`h_k` and knot slopes :math:`\delta_k`, the bin
that holds :math:`x` maps :math:`t = (x - x_k) / w_k \in [0, 1]` to (Durkan+ 2019, eq. 4)

.. math::

    y = y_k + h_k \frac{s t^2 + \delta_k t (1-t)}{s + (\delta_k + \delta_{k+1} - 2s)\, t (1-t)}, \qquad s = h_k / w_k .

How it stays exact: every sum below is one of non-negative terms. The denominator is the numerator plus its mirror image,
so the fraction cannot exceed 1; the discriminant of the inverse is a sum of squares, so there is nothing to clamp; the
last bin is what is left of the box, so the last knot lies on :math:`B` exactly. Inputs are made safe before the risky
operation, NaN stays NaN, and no operation depends on values for its shape.

How it is fast: ``phi`` is a list of planes and each step one pass over all elements. In eager mode an autograd function
saves only ``(x, phi)`` and recomputes; its backward is made of plain operations, so it can be differentiated again. Under
``torch.compile`` the same plain operations are left to autograd and fuse into one loop.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

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


class _Bin(NamedTuple):
    """The bin of every element in the unit box, the raw slopes at its ends, and the knots at or below the element."""

    w: Tensor
    h: Tensor
    x: Tensor
    y: Tensor
    left: Tensor
    right: Tensor
    reached: list[Tensor]


def rational_quadratic(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``x`` to ``(y, log|dy/dx|)``.

    Args:
        x: ``(*batch, features)``, or any shape.
        phi: ``(grid.n_params, *shape)``, broadcastable against ``x``; zeros give the identity.
        grid: Hyper-parameters.

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, eq. 4-5.
    """
    if torch.compiler.is_compiling():
        return _forward(x, phi, grid)
    return _Forward.apply(x, phi, grid)


def rational_quadratic_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``; arguments as for `rational_quadratic`.

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, eq. 6-8.
    """
    if torch.compiler.is_compiling():
        return _inverse(y, phi, grid)
    return _Inverse.apply(y, phi, grid)


# ---- plain operations ------------------------------------------------------------------------------------------------


def _forward(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, phi.dtype)
    x, phi = _working(x, phi, grid)
    inner, outside, turns = _enter(x, grid)
    u = (inner + grid.bound) / (2 * grid.bound)
    at = _locate(u, *_knots(phi, grid), along_y=False)
    t = ((u - at.x) / at.w).clamp(0, 1)
    v, slope = _evaluate(t, 1 - t, at, grid)
    y, ladj = (2 * v - 1) * grid.bound, slope.log()
    if grid.tails == "linear":
        y = y + (x - inner) * slope
    elif grid.tails == "circular":
        y = y + turns
    else:
        y, ladj = torch.where(outside, x, y), ladj.masked_fill(outside, 0)
    return y.to(dtype), ladj.to(_at_least_single(dtype))


def _inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(y.dtype, phi.dtype)
    y, phi = _working(y, phi, grid)
    inner, outside, turns = _enter(y, grid)
    v = (inner + grid.bound) / (2 * grid.bound)
    at = _locate(v, *_knots(phi, grid), along_y=True)
    t, rest = _root(((v - at.y) / at.h).clamp(0, 1), at, grid)
    _, slope = _evaluate(t, rest, at, grid)
    x, ladj = (2 * (at.x + at.w * t) - 1) * grid.bound, -slope.log()
    if grid.tails == "linear":
        x = x + (y - inner) / slope
    elif grid.tails == "circular":
        x = x + turns
    else:
        x, ladj = torch.where(outside, y, x), ladj.masked_fill(outside, 0)
    return x.to(dtype), ladj.to(_at_least_single(dtype))


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _working(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Bring both to the working precision: float32 at least (so also under autocast), float64 when asked."""
    dtype = torch.float64 if grid.double else _at_least_single(torch.promote_types(x.dtype, phi.dtype))
    return x.to(dtype), phi.to(dtype)


def _enter(x: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor, Tensor]:
    """A point of the box for every element (NaN stays NaN), who was outside, and the whole turns taken (circular)."""
    b = grid.bound
    outside = (x <= -b) | (x >= b)
    if grid.tails == "linear":
        return x.clamp(-b, b), outside, x
    if grid.tails == "circular":  # the lift of the circle map: f(x + 2B) = f(x) + 2B
        turns = torch.floor((x + b) / (2 * b)).detach() * (2 * b)
        return (x - turns), outside, turns
    return x.masked_fill(outside, 0), outside, x


def _knots(phi: Tensor, grid: SplineGrid) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Widths, heights (each summing to 1) and the K+1 raw slopes."""
    planes, k = phi.unbind(0), grid.bins
    slopes = list(planes[2 * k :])
    if grid.tails == "identity":
        slopes = [torch.zeros_like(planes[0]), *slopes, torch.zeros_like(planes[0])]
    elif grid.tails == "circular":
        slopes = [*slopes, slopes[0]]
    return _simplex(planes[:k], grid), _simplex(planes[k : 2 * k], grid), slopes


def _simplex(planes: Sequence[Tensor], grid: SplineGrid) -> list[Tensor]:
    """Softmax over planes with a floor; the shift by the maximum is exact, so it carries no gradient."""
    top = functools.reduce(torch.maximum, [p.detach() for p in planes])
    exps = [(p - top).exp() for p in planes]
    scale = _free(grid) / functools.reduce(torch.add, exps)
    return [grid.min_bin + e * scale for e in exps]


def _slope(raw: Tensor, grid: SplineGrid) -> Tensor:
    """Knot slope: softplus with a floor, shifted so that 0 gives 1."""
    return F.softplus(raw + _shift(grid)) + grid.min_slope


def _shift(grid: SplineGrid) -> float:
    """Where softplus is ``1 - min_slope``."""
    return math.log(math.expm1(1 - grid.min_slope))


def _free(grid: SplineGrid) -> float:
    """The part of the box that the floors leave to the softmax."""
    return 1 - grid.min_bin * grid.bins


def _locate(v: Tensor, widths: list[Tensor], heights: list[Tensor], slopes: list[Tensor], *, along_y: bool) -> _Bin:
    """Select the bin of every element by a pass over the inner knots; the index cannot leave ``0..K-1``."""
    w, h, left, right = widths[0], heights[0], slopes[0], slopes[1]
    x = y = torch.zeros_like(v)
    edge_x, edge_y, reached = w, h, []
    for k in range(1, len(widths)):
        last = k == len(widths) - 1
        next_w = 1 - edge_x if last else widths[k]  # what is left: the last knot is exactly 1
        next_h = 1 - edge_y if last else heights[k]
        beyond = v >= (edge_y if along_y else edge_x)
        reached.append(beyond)
        x, w = torch.where(beyond, edge_x, x), torch.where(beyond, next_w, w)
        y, h = torch.where(beyond, edge_y, y), torch.where(beyond, next_h, h)
        left, right = torch.where(beyond, slopes[k], left), torch.where(beyond, slopes[k + 1], right)
        edge_x, edge_y = edge_x + next_w, edge_y + next_h
    return _Bin(w, h, x, y, left, right, reached)


def _evaluate(t: Tensor, rest: Tensor, at: _Bin, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Value and slope in the unit box, eq. 4 and 5, from ``t`` and ``rest = 1 - t``."""
    s, d0, d1 = at.h / at.w, _slope(at.left, grid), _slope(at.right, grid)
    num = t * (s * t + d0 * rest)
    den = num + rest * (s * rest + d1 * t)
    top = d1 * t * t + 2 * s * t * rest + d0 * rest * rest
    return at.y + at.h * (num / den), (top / den) * (s / den) * s


def _root(theta: Tensor, at: _Bin, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    r"""Solve eq. 6-8 for ``t`` and ``1 - t``, given the relative height :math:`\theta` in the bin.

    With :math:`e = \delta_k (1-\theta) - \delta_{k+1} \theta` the discriminant of eq. 7 is
    :math:`e^2 + 4 s^2 \theta (1-\theta) > 0`, and :math:`t = p / (p + g)` with :math:`p = 2 s \theta` and
    :math:`g = e + \sqrt{\cdot}`, rewritten where that would cancel.
    """
    s, d0, d1 = at.h / at.w, _slope(at.left, grid), _slope(at.right, grid)
    e = d0 * (1 - theta) - d1 * theta
    cross = 4 * s * s * theta * (1 - theta)
    m = (e * e + cross).sqrt() + e.abs()
    p, g = 2 * s * theta, torch.where(e >= 0, m, cross / m)
    return p / (p + g), g / (p + g)


# ---- analytic gradients ----------------------------------------------------------------------------------------------


def _pull(
    x: Tensor, phi: Tensor, g_out: Tensor, g_ladj: Tensor, grid: SplineGrid, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Pull the cotangents of either direction back to its input and to ``phi``, at the data point ``x``.

    The inverse is differentiated implicitly: with ``y = f(x)`` fixed, cotangents of ``(x, -log f')`` become cotangents of
    ``(y, log f')``, and the rest is shared.
    """
    like = phi
    x, phi = _working(x, phi, grid)
    g_out, g_ladj = _working(g_out, g_ladj, grid)
    inner, outside, _ = _enter(x, grid)
    u = (inner + grid.bound) / (2 * grid.bound)
    widths, heights, slopes = _knots(phi, grid)
    at = _locate(u, widths, heights, slopes, along_y=False)

    t = ((u - at.x) / at.w).clamp(0, 1)
    rest, s, d0, d1 = 1 - t, at.h / at.w, _slope(at.left, grid), _slope(at.right, grid)
    tt, q, rr = t * t, t * rest, rest * rest
    num, top = s * tt + d0 * q, d1 * tt + 2 * s * q + d0 * rr
    den = num + s * rr + d1 * q
    slope = (top / den) * (s / den) * s
    bend = 2 * ((d1 * t + s * (rest - t) - d0 * rest) / top - (rest - t) * (d0 + d1 - 2 * s) / den) / at.w
    curvature = bend / (2 * grid.bound)
    if grid.tails == "identity":
        slope = slope.masked_fill(outside, 1)
    if grid.tails != "circular":
        curvature = curvature.masked_fill(outside, 0)

    if inverse:
        g_in = (g_out - g_ladj * curvature) / slope
        g_out, g_ladj = -g_in, -g_ladj
    else:
        g_in = g_out * slope + g_ladj * curvature

    if grid.tails == "identity":
        g_out, g_ladj = g_out.masked_fill(outside, 0), g_ladj.masked_fill(outside, 0)
    elif grid.tails == "linear":
        g_ladj = g_ladj + g_out * (x - inner) * slope
    g_v = g_out * (2 * grid.bound)
    f, g_num, g_top = num / den, g_v * at.h / den, g_ladj / top
    g_den = -g_num * f - 2 * g_ladj / den
    g_s = g_num * tt + g_den * (tt + rr) + 2 * (g_top * q + g_ladj / s)
    g_u = g_v * slope + g_ladj * bend
    g_left = ((g_num + g_den) * q + g_top * rr) * torch.sigmoid(at.left + _shift(grid))
    g_right = (g_den * q + g_top * tt) * torch.sigmoid(at.right + _shift(grid))

    index = functools.reduce(torch.add, [r.to(t.dtype) for r in at.reached])
    rows: list[Tensor] = []
    for sizes, knot, size, g_here, g_before in (
        (widths, at.x, at.w, -g_u * t - g_s * s / at.w, -g_u),
        (heights, at.y, at.h, g_v * f + g_s / at.w, g_v),
    ):  # through the softmax each bin gets its own cotangent less their mean
        mean = (g_before * (knot - index * grid.min_bin) + g_here * (size - grid.min_bin)) / _free(grid)
        g_before, g_here, g_after = g_before - mean, g_here - mean, -mean
        for k, p in enumerate(sizes):
            g = torch.where(index > k, g_before, torch.where(index == k, g_here, g_after))
            rows.append((p - grid.min_bin) * g)
    ends = [torch.where(index == k, g_left, torch.where(index == k - 1, g_right, 0.0)) for k in range(grid.bins + 1)]
    if grid.tails == "identity":
        ends = ends[1:-1]
    elif grid.tails == "circular":
        ends = [ends[0] + ends[-1], *ends[1:-1]]
    return g_in, torch.stack([row.sum_to_size(like.shape[1:]) for row in rows + ends]).to(like.dtype)


class _Forward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return _forward(x, phi, grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SplineGrid], output: tuple[Tensor, Tensor]) -> None:
        x, phi, ctx.grid = inputs
        ctx.save_for_backward(x, phi)

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        g_x, g_phi = _pull(x, phi, g_y, g_ladj, ctx.grid, inverse=False)
        return g_x.sum_to_size(x.shape).to(x.dtype), g_phi, None


class _Inverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return _inverse(y, phi, grid)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SplineGrid], output: tuple[Tensor, Tensor]) -> None:
        y, phi, ctx.grid = inputs
        ctx.shape, ctx.dtype = y.shape, y.dtype
        ctx.save_for_backward(output[0], phi)

    @staticmethod
    def backward(ctx: Any, g_x: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        g_y, g_phi = _pull(x, phi, g_x, g_ladj, ctx.grid, inverse=True)
        return g_y.sum_to_size(ctx.shape).to(ctx.dtype), g_phi, None

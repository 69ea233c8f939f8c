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
    """The bin that holds every element, in the unit box: size, lower corner, mean slope, and the slopes at its two knots."""

    w: Tensor
    h: Tensor
    x: Tensor
    y: Tensor
    s: Tensor
    left: Tensor
    right: Tensor


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
    return _apply(_Forward, x, phi, grid)


def rational_quadratic_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``; arguments as for `rational_quadratic`.

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, eq. 6-8.
    """
    if torch.compiler.is_compiling():
        return _inverse(y, phi, grid)
    return _apply(_Inverse, y, phi, grid)


def _apply(function: type[torch.autograd.Function], x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Call the autograd function in the order of memory, features first, so that every large operation is contiguous."""
    dim = max(x.dim(), phi.dim() - 1)
    phi = phi.reshape(phi.shape[0], *(1,) * (dim + 1 - phi.dim()), *phi.shape[1:])
    if dim < 2:
        return function.apply(x, phi, grid)
    x = x.reshape(*(1,) * (dim - x.dim()), *x.shape)
    y, ladj = function.apply(x.movedim(-1, 0), phi.movedim(-1, 1), grid)
    return y.movedim(0, -1), ladj.movedim(0, -1)


# ---- both directions -------------------------------------------------------------------------------------------------


def _forward(x: Tensor, phi: Tensor, grid: SplineGrid, *, fused: bool = True) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, phi.dtype)
    x, phi = _working(x, phi, grid)
    inner, outside, turns = _enter(x, grid)
    u = (inner + grid.bound) / (2 * grid.bound)
    at = _scan(u, phi, grid, along=0) if fused else _gather(u, phi, grid, along=0)[0]
    t = ((u - at.x) / at.w).clamp(0, 1)
    num, den, top = _parts(t, 1 - t, at)
    slope = _slope(den, top, at)
    y, ladj = (torch.addcmul(at.y, at.h, num / den) - 0.5) * (2 * grid.bound), slope.log()
    if grid.tails == "linear":
        y = y + (x - inner) * slope
    elif grid.tails == "circular":
        y = y + turns
    else:
        y, ladj = torch.where(outside, x, y), ladj.masked_fill(outside, 0)
    return y.to(dtype), ladj.to(_at_least_single(dtype))


def _inverse(y: Tensor, phi: Tensor, grid: SplineGrid, *, fused: bool = True) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(y.dtype, phi.dtype)
    y, phi = _working(y, phi, grid)
    inner, outside, turns = _enter(y, grid)
    v = (inner + grid.bound) / (2 * grid.bound)
    at = _scan(v, phi, grid, along=1) if fused else _gather(v, phi, grid, along=1)[0]
    t, rest = _root(((v - at.y) / at.h).clamp(0, 1), at)
    _, den, top = _parts(t, rest, at)
    slope = _slope(den, top, at)
    x, ladj = (torch.addcmul(at.x, at.w, t) - 0.5) * (2 * grid.bound), -slope.log()
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
    outside = x.abs() >= b
    if grid.tails == "linear":
        return x.clamp(-b, b), outside, x
    if grid.tails == "circular":  # the lift of the circle map: f(x + 2B) = f(x) + 2B
        turns = torch.floor((x + b) / (2 * b)).detach() * (2 * b)
        return (x - turns), outside, turns
    return x.masked_fill(outside, 0), outside, x


def _parts(t: Tensor, rest: Tensor, at: _Bin) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator and denominator of eq. 4 and the bracket of eq. 5, from ``t`` and ``rest = 1 - t``."""
    lower = torch.addcmul(at.s * t, at.left, rest)
    upper = torch.addcmul(at.s * rest, at.right, t)
    num = t * lower
    return num, torch.addcmul(num, rest, upper), torch.addcmul(t * upper, rest, lower)


def _slope(den: Tensor, top: Tensor, at: _Bin) -> Tensor:
    """Eq. 5, ordered so that it does not overflow before it has to."""
    ratio = at.s / den
    return top * ratio * ratio


def _root(theta: Tensor, at: _Bin) -> tuple[Tensor, Tensor]:
    r"""Solve eq. 6-8 for ``t`` and ``1 - t``, given the relative height :math:`\theta` in the bin.

    With :math:`e = \delta_k (1-\theta) - \delta_{k+1} \theta` the discriminant of eq. 7 is
    :math:`e^2 + 4 s^2 \theta (1-\theta) > 0`, and :math:`t = p / (p + g)` with :math:`p = 2 s \theta` and
    :math:`g = e + \sqrt{\cdot}`, rewritten where that would cancel.
    """
    rest = 1 - theta
    e = at.left * rest - at.right * theta
    p = 2 * at.s * theta
    cross = p * (2 * at.s) * rest
    m = torch.addcmul(cross, e, e).sqrt() + e.abs()
    g = torch.where(e >= 0, m, cross / m)
    total = p + g
    return p / total, g / total


def _shift(grid: SplineGrid) -> float:
    """Where softplus is ``1 - min_slope``, so that raw zero is slope 1."""
    return math.log(math.expm1(1 - grid.min_slope))


def _free(grid: SplineGrid) -> float:
    """The part of the box that the floors leave to the softmax."""
    return 1 - grid.min_bin * grid.bins


# ---- find the bin, twice: as one fusable pass over planes, and as few large operations --------------------------------


def _scan(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> _Bin:
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
    left, right = (F.softplus(v + _shift(grid)) + grid.min_slope for v in (left, right))
    return _Bin(size[0], size[1], knot[0], knot[1], size[1] / size[0], left, right)


def _simplex(planes: Sequence[Tensor], grid: SplineGrid) -> list[Tensor]:
    """Softmax over planes with a floor; the shift by the maximum is exact, so it carries no gradient."""
    top = functools.reduce(torch.maximum, [p.detach() for p in planes])
    exps = [(p - top).exp() for p in planes]
    scale = _free(grid) / functools.reduce(torch.add, exps)
    return [grid.min_bin + e * scale for e in exps]


def _gather(v: Tensor, phi: Tensor, grid: SplineGrid, *, along: int) -> tuple[_Bin, Tensor, Tensor]:
    """Select the bin by an index, in few large operations; also returns the index and the softmax, ``(2, K, ...)``."""
    bins, dtype = grid.bins, v.dtype
    shares = torch.softmax(phi[: 2 * bins].unflatten(0, (2, bins)), 1)
    sizes = torch.add(shares, grid.min_bin / _free(grid)).mul_(_free(grid))
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
    left, right = F.softplus(raw + _shift(grid)).add_(grid.min_slope).unbind(0)
    (w, h), (x, y) = size.unbind(0), knot.unbind(0)
    return _Bin(w, h, x, y, h / w, left, right), index, shares


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
    at, index, shares = _gather(u, phi, grid, along=0)

    t = ((u - at.x) / at.w).clamp(0, 1)
    rest, s, d0, d1 = 1 - t, at.s, at.left, at.right
    num, den, top = _parts(t, rest, at)
    slope = _slope(den, top, at)
    bend = 2 * ((d1 * t - d0 * rest + s * (rest - t)) / top - (rest - t) * (d0 + d1 - 2 * s) / den) / at.w
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
    tt, q, rr = t * t, t * rest, rest * rest
    f, g_num, g_top = num / den, g_v * at.h / den, g_ladj / top
    g_den = -torch.addcmul(2 * g_ladj / den, g_num, f)
    g_s = torch.addcmul(g_num * tt, g_den, tt + rr) + 2 * torch.addcmul(g_ladj / s, g_top, q)
    g_u = torch.addcmul(g_v * slope, g_ladj, bend)
    g_left = torch.addcmul((g_num + g_den) * q, g_top, rr) * -torch.expm1(
        grid.min_slope - d0
    )  # softplus' = 1 - e^-softplus
    g_right = torch.addcmul(g_den * q, g_top, tt) * -torch.expm1(grid.min_slope - d1)

    # Through the softmax each bin gets its own cotangent less their mean.
    place, bins = index.to(t.dtype), grid.bins
    before, own = torch.stack((-g_u, g_v)), torch.stack((-g_u * t - g_s * s / at.w, g_v * f + g_s / at.w))
    knot, size = torch.stack((at.x, at.y)), torch.stack((at.w, at.h))
    before, own = before * _free(grid), own * _free(grid)
    mean = (before * (knot - place * grid.min_bin) + own * (size - grid.min_bin)) / _free(grid)
    ranks = torch.arange(bins + 1, dtype=t.dtype, device=t.device).reshape(-1, *(1,) * t.dim())
    reached = (place + 1 - ranks).clamp(0, 1)
    chosen = reached[:-1] - reached[1:]
    g_sizes = torch.lerp(-mean.unsqueeze(1), (before - mean).unsqueeze(1), reached[1:])
    g_sizes = torch.addcmul(g_sizes, chosen, own.unsqueeze(1)).mul_(shares)

    ends = torch.addcmul(chosen[1:] * g_left, chosen[:-1], g_right)
    if grid.tails == "linear":
        ends = torch.cat((chosen[:1] * g_left, ends, chosen[-1:] * g_right))
    elif grid.tails == "circular":
        ends = torch.cat((chosen[:1] * g_left + chosen[-1:] * g_right, ends))
    return g_in, torch.cat((g_sizes.flatten(0, 1), ends)).sum_to_size(like.shape).to(like.dtype)


def _push(
    x: Tensor, phi: Tensor, d_in: Tensor | None, d_phi: Tensor | None, grid: SplineGrid, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Push tangents forward: the transpose of `_pull`, which is linear in its cotangents."""
    shape, dtype = torch.broadcast_shapes(x.shape, phi.shape[1:]), torch.promote_types(x.dtype, phi.dtype)
    start = torch.zeros(shape, dtype=dtype, device=x.device)

    def pull(g_out: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor]:
        return _pull(x, phi, g_out, g_ladj, grid, inverse=inverse)

    (g_in, _), transpose = torch.func.vjp(pull, start, start.to(_at_least_single(dtype)))
    d_in = torch.zeros_like(g_in) if d_in is None else d_in.to(g_in.dtype).expand(shape)
    return transpose((d_in, torch.zeros_like(phi) if d_phi is None else d_phi))


class _Forward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return _forward(x, phi, grid, fused=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SplineGrid], output: tuple[Tensor, Tensor]) -> None:
        x, phi, ctx.grid = inputs
        ctx.save_for_backward(x, phi)
        ctx.save_for_forward(x, phi)

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor | None, d_phi: Tensor | None, _: None) -> tuple[Tensor, Tensor]:
        x, phi = ctx.saved_tensors
        return _push(x, phi, d_x, d_phi, ctx.grid, inverse=False)

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        g_x, g_phi = _pull(x, phi, g_y, g_ladj, ctx.grid, inverse=False)
        return g_x.sum_to_size(x.shape).to(x.dtype), g_phi, None


class _Inverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return _inverse(y, phi, grid, fused=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, SplineGrid], output: tuple[Tensor, Tensor]) -> None:
        y, phi, ctx.grid = inputs
        ctx.shape, ctx.dtype = y.shape, y.dtype
        ctx.save_for_backward(output[0], phi)
        ctx.save_for_forward(output[0], phi)

    @staticmethod
    def jvp(ctx: Any, d_y: Tensor | None, d_phi: Tensor | None, _: None) -> tuple[Tensor, Tensor]:
        x, phi = ctx.saved_tensors
        return _push(x, phi, d_y, d_phi, ctx.grid, inverse=True)

    @staticmethod
    def backward(ctx: Any, g_x: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        g_y, g_phi = _pull(x, phi, g_x, g_ladj, ctx.grid, inverse=True)
        return g_y.sum_to_size(ctx.shape).to(ctx.dtype), g_phi, None

r"""Monotone rational-quadratic splines, both directions, plane-major.

On a box :math:`[-B, B]^2` with ``K`` bins, widths :math:`w_k`, heights :math:`h_k` and knot slopes :math:`\delta_k`, the bin
that holds :math:`x` maps :math:`t = (x - x_k) / w_k \in [0, 1]` to (Durkan+ 2019, eq. 4)

.. math::

    y = y_k + h_k \frac{s t^2 + \delta_k t (1-t)}{s + (\delta_k + \delta_{k+1} - 2s)\, t (1-t)}, \qquad s = h_k / w_k .

How it stays exact: every sum below is one of non-negative terms. The denominator is the numerator plus its mirror image,
so the fraction cannot exceed 1; the discriminant of the inverse is a sum of squares, so there is nothing to clamp; the
last bin is what is left of the box, so the last knot lies on :math:`B` exactly. Inputs are made safe before the risky
operation, NaN stays NaN, and no operation depends on values for its shape.

How it is fast: in native kernels, where they are asked for (``Flow.compiled``), all is one loop over blocks of elements;
second derivatives are those of the plain operations. Else, in eager mode, an autograd function finds the bin by an index, in
a number of large operations that does not grow with ``K``, saves only ``(x, phi)`` and recomputes; its backward is made of
plain operations and can be differentiated again. Under compilation the bin is found by a scan over planes that fuses into
one loop, and autograd does the rest: ``torch.compile(rational_quadratic, dynamic=True)`` once serves every layer and shape.
"""

from typing import Any

import torch
from torch import Tensor

from bijectory.ops.native import is_first_order, is_native, pull, spline
from bijectory.ops.spline_bins import (
    Bin,
    SplineGrid,
    Tails,
    at_least_single,
    enter,
    free,
    gather,
    scan,
    working,
)

__all__ = ["SplineGrid", "Tails", "rational_quadratic", "rational_quadratic_inverse"]


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
    return _apply(_NativeForward if is_native(x, phi, grid) else _Forward, x, phi, grid)


def rational_quadratic_inverse(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
    """Map ``y`` to ``(x, log|dx/dy|)``; arguments as for `rational_quadratic`.

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, eq. 6-8.
    """
    if torch.compiler.is_compiling():
        return _inverse(y, phi, grid)
    return _apply(_NativeInverse if is_native(y, phi, grid) else _Inverse, y, phi, grid)


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
    x, phi = working(x, phi, grid)
    inner, outside, turns = enter(x, grid)
    u = (inner + grid.bound) / (2 * grid.bound)
    at = scan(u, phi, grid, along=0) if fused else gather(u, phi, grid, along=0)[0]
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
    return y.to(dtype), ladj.to(at_least_single(dtype))


def _inverse(y: Tensor, phi: Tensor, grid: SplineGrid, *, fused: bool = True) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(y.dtype, phi.dtype)
    y, phi = working(y, phi, grid)
    inner, outside, turns = enter(y, grid)
    v = (inner + grid.bound) / (2 * grid.bound)
    at = scan(v, phi, grid, along=1) if fused else gather(v, phi, grid, along=1)[0]
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
    return x.to(dtype), ladj.to(at_least_single(dtype))


def _parts(t: Tensor, rest: Tensor, at: Bin) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator and denominator of eq. 4 and the bracket of eq. 5, from ``t`` and ``rest = 1 - t``."""
    lower = torch.addcmul(at.s * t, at.left, rest)
    upper = torch.addcmul(at.s * rest, at.right, t)
    num = t * lower
    return num, torch.addcmul(num, rest, upper), torch.addcmul(t * upper, rest, lower)


def _slope(den: Tensor, top: Tensor, at: Bin) -> Tensor:
    """Eq. 5, ordered so that it does not overflow before it has to."""
    ratio = at.s / den
    return top * ratio * ratio


def _root(theta: Tensor, at: Bin) -> tuple[Tensor, Tensor]:
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


# ---- analytic gradients ----------------------------------------------------------------------------------------------


def _pull(
    x: Tensor, phi: Tensor, g_out: Tensor, g_ladj: Tensor, grid: SplineGrid, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Pull the cotangents of either direction back to its input and to ``phi``, at the data point ``x``.

    The inverse is differentiated implicitly: with ``y = f(x)`` fixed, cotangents of ``(x, -log f')`` become cotangents of
    ``(y, log f')``, and the rest is shared.
    """
    like = phi
    x, phi = working(x, phi, grid)
    g_out, g_ladj = working(g_out, g_ladj, grid)
    inner, outside, _ = enter(x, grid)
    u = (inner + grid.bound) / (2 * grid.bound)
    at, index, shares = gather(u, phi, grid, along=0)

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
    g_left, g_right = torch.addcmul((g_num + g_den) * q, g_top, rr), torch.addcmul(g_den * q, g_top, tt)
    g_left, g_right = (-g * torch.expm1(grid.min_slope - d) for g, d in ((g_left, d0), (g_right, d1)))  # softplus'

    # Through the softmax each bin gets its own cotangent less their mean.
    place, bins = index.to(t.dtype), grid.bins
    before, own = torch.stack((-g_u, g_v)), torch.stack((-g_u * t - g_s * s / at.w, g_v * f + g_s / at.w))
    knot, size = torch.stack((at.x, at.y)), torch.stack((at.w, at.h))
    before, own = before * free(grid), own * free(grid)
    mean = (before * (knot - place * grid.min_bin) + own * (size - grid.min_bin)) / free(grid)
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

    result = torch.func.vjp(pull, start, start.to(at_least_single(dtype)))
    (g_in, _), transpose = result[0], result[1]
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


class _NativeForward(_Forward):
    """The same in native kernels, for plain calls: no rule for ``vmap`` is needed."""

    @staticmethod
    def forward(x: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return spline(x, phi, grid, inverse=False)

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        if not is_first_order(g_y, g_ladj):
            return _Forward.backward(ctx, g_y, g_ladj)
        return *pull(x, phi, g_y, g_ladj, ctx.grid, inverse=False), None


class _NativeInverse(_Inverse):
    @staticmethod
    def forward(y: Tensor, phi: Tensor, grid: SplineGrid) -> tuple[Tensor, Tensor]:
        return spline(y, phi, grid, inverse=True)

    @staticmethod
    def backward(ctx: Any, g_x: Tensor, g_ladj: Tensor) -> tuple[Tensor, Tensor, None]:
        x, phi = ctx.saved_tensors
        if not is_first_order(g_x, g_ladj):
            return _Inverse.backward(ctx, g_x, g_ladj)
        return *pull(x, phi, g_x, g_ladj, ctx.grid, inverse=True), None

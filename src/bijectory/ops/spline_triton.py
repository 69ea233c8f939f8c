"""Rational-quadratic splines on a GPU, in one pass over memory: forward, inverse, and the pull-back of both.

The same arithmetic as ``ops/spline.py`` and ``kernels/spline.h``, in Triton: every program takes a block of elements, whose
parameters go by plane after plane, so every access is to consecutive addresses. Planes are read again (from the cache)
rather than kept, because the number of registers decides how many programs run at once. Parameters in half precision, as
networks make them under autocast, are read as they are; the arithmetic is in float32, or in float64 where the data are.

NaN stays NaN. Division and square root are rounded to nearest, so a fraction of equals is 1 as everywhere else; constants
are made in the dtype of the arithmetic, since a plain literal may be float32. Importing this module needs ``triton``, which
comes with the CUDA builds of torch; with ``TRITON_INTERPRET=1`` the kernels run on the CPU, through numpy, for tests.
"""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bijectory.ops.spline_bins import SplineGrid, raw_one
from bijectory.ops.triton_math import divide, number, root, sigmoid, softplus, unit

BLOCK = 128  # elements of a program: one for a thread of four warps
LOG1P_TERMS = {torch.float32: 8, torch.float64: 17}
TAILS = {"identity": 0, "linear": 1, "circular": 2}
_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


# ---- the bin of every element ----------------------------------------------------------------------------------------


@triton.jit
def _load(
    planes: tl.tensor, plane: tl.tensor, n: tl.tensor, at: tl.tensor, mask: tl.tensor, T: tl.constexpr
) -> tl.tensor:
    return tl.load(planes + plane * n + at, mask=mask, other=0.0).to(T)


@triton.jit
def _softmax(
    phi: tl.tensor,
    FIRST: tl.constexpr,
    BINS: tl.constexpr,
    n: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    T: tl.constexpr,
) -> tl.tensor:
    """The largest of ``BINS`` planes, and one over the sum of exponentials above it."""
    top = _load(phi, FIRST, n, at, mask, T)
    for k in tl.static_range(1, BINS):
        v = _load(phi, FIRST + k, n, at, mask, T)
        top = tl.where(v > top, v, top)
    total = tl.zeros_like(top)
    for k in tl.static_range(BINS):
        total += tl.exp(_load(phi, FIRST + k, n, at, mask, T) - top)
    return top, divide(number(1, total), total)


@triton.jit
def _share(
    phi: tl.tensor,
    plane: tl.tensor,
    n: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    T: tl.constexpr,
) -> tl.tensor:
    return tl.exp(_load(phi, plane, n, at, mask, T) - top) * scale


@triton.jit
def _knot(
    phi: tl.tensor,
    KNOT: tl.constexpr,
    BINS: tl.constexpr,
    TAILS: tl.constexpr,
    n: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    T: tl.constexpr,
) -> tl.tensor:
    """Raw slope at a knot; zero, which is slope one, at the ends of identity tails."""
    if TAILS == 2:
        raw = _load(phi, 2 * BINS + KNOT % BINS, n, at, mask, T)
    elif TAILS == 1:
        raw = _load(phi, 2 * BINS + KNOT, n, at, mask, T)
    elif KNOT == 0 or KNOT == BINS:
        raw = tl.zeros(at.shape, T)
    else:
        raw = _load(phi, 2 * BINS + KNOT - 1, n, at, mask, T)
    return raw


@triton.jit
def _find(
    v: tl.tensor,
    phi: tl.tensor,
    n: tl.tensor,
    at: tl.tensor,
    mask: tl.tensor,
    ALONG: tl.constexpr,
    BINS: tl.constexpr,
    TAILS: tl.constexpr,
    MIN_BIN: tl.constexpr,
) -> tl.tensor:
    """Size, lower corner, raw slopes and index of the bin, and what the softmax needs; see ``Bin`` in ops/spline_bins.py."""
    T: tl.constexpr = v.dtype
    floor, rest = number(MIN_BIN, v), number(1 - MIN_BIN * BINS, v)
    top_w, scale_w = _softmax(phi, 0, BINS, n, at, mask, T)
    top_h, scale_h = _softmax(phi, BINS, BINS, n, at, mask, T)
    w = floor + _share(phi, 0, n, at, mask, top_w, scale_w, T) * rest
    h = floor + _share(phi, BINS, n, at, mask, top_h, scale_h, T) * rest
    edge_w, edge_h, x, y, index = w, h, tl.zeros_like(v), tl.zeros_like(v), tl.zeros(v.shape, tl.int32)
    left = _knot(phi, 0, BINS, TAILS, n, at, mask, T)
    right = _knot(phi, 1, BINS, TAILS, n, at, mask, T)
    plane = right
    for k in tl.static_range(1, BINS):
        following = _knot(phi, k + 1, BINS, TAILS, n, at, mask, T)
        if k == BINS - 1:  # the last bin is what is left, so the last knot is exactly 1
            size_w, size_h = 1 - edge_w, 1 - edge_h
        else:
            size_w = floor + _share(phi, k, n, at, mask, top_w, scale_w, T) * rest
            size_h = floor + _share(phi, BINS + k, n, at, mask, top_h, scale_h, T) * rest
        beyond = v >= (edge_w if ALONG == 0 else edge_h)
        w, h = tl.where(beyond, size_w, w), tl.where(beyond, size_h, h)
        x, y = tl.where(beyond, edge_w, x), tl.where(beyond, edge_h, y)
        left, right = tl.where(beyond, plane, left), tl.where(beyond, following, right)
        index = tl.where(beyond, k, index)
        edge_w, edge_h = edge_w + size_w, edge_h + size_h
        plane = following
    return w, h, x, y, left, right, index, top_w, scale_w, top_h, scale_h


@triton.jit
def _enter(x: tl.tensor, TAILS: tl.constexpr, BOUND: tl.constexpr) -> tl.tensor:
    """A point of the box, who was outside, and the whole turns taken."""
    b = number(BOUND, x)
    outside = tl.abs(x) >= b
    turns = tl.zeros_like(x)
    if TAILS == 1:
        inner = tl.where(x < -b, -b, tl.where(x > b, b, x))
    elif TAILS == 2:
        turns = tl.floor(divide(x + b, 2 * b)) * (2 * b)
        inner = x - turns
    else:
        inner = tl.where(outside, tl.zeros_like(x), x)
    return inner, outside, turns


@triton.jit
def _parts(t: tl.tensor, r: tl.tensor, s: tl.tensor, left: tl.tensor, right: tl.tensor) -> tl.tensor:
    """Numerator and denominator of eq. 4 and the bracket of eq. 5, from ``t`` and ``r = 1 - t``."""
    lower, upper = s * t + left * r, s * r + right * t
    num = t * lower
    return num, num + r * upper, t * upper + r * lower


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n"])
def _map(
    source: tl.tensor,
    phi: tl.tensor,
    result: tl.tensor,
    ladj: tl.tensor,
    n: tl.tensor,
    INVERSE: tl.constexpr,
    BINS: tl.constexpr,
    TAILS: tl.constexpr,
    BOUND: tl.constexpr,
    MIN_BIN: tl.constexpr,
    MIN_SLOPE: tl.constexpr,
    RAW_ONE: tl.constexpr,
    TERMS: tl.constexpr,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    n = n.to(tl.int64)  # planes times elements may be more than 2^31
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    given = tl.load(source + at, mask=mask, other=0.0).to(T)
    inner, outside, turns = _enter(given, TAILS, BOUND)
    b2 = number(2 * BOUND, given)
    u = divide(inner + number(BOUND, given), b2)
    w, h, x, y, raw_left, raw_right, _, _, _, _, _ = _find(u, phi, n, at, mask, INVERSE, BINS, TAILS, MIN_BIN)
    left = softplus(raw_left + number(RAW_ONE, u), TERMS) + number(MIN_SLOPE, u)
    right = softplus(raw_right + number(RAW_ONE, u), TERMS) + number(MIN_SLOPE, u)
    s = divide(h, w)
    if INVERSE == 0:
        t = unit(divide(u - x, w))
        r = 1 - t
    else:  # eq. 6-8, see `_root` in ops/spline.py
        theta = unit(divide(u - y, h))
        beyond = 1 - theta
        e = left * beyond - right * theta
        p = 2 * s * theta
        cross = p * (2 * s) * beyond
        m = root(cross + e * e) + tl.abs(e)
        g = tl.where(e >= 0, m, divide(cross, m))
        t, r = divide(p, p + g), divide(g, p + g)
    num, den, top = _parts(t, r, s, left, right)
    ratio = divide(s, den)
    slope = top * ratio * ratio
    half, log = number(0.5, u), tl.log(slope)
    if INVERSE == 0:
        out = (y + h * divide(num, den) - half) * b2
        excess = (given - inner) * slope
    else:
        out = (x + w * t - half) * b2
        excess = divide(given - inner, slope)
        log = -log
    if TAILS == 0:
        out, log = tl.where(outside, given, out), tl.where(outside, tl.zeros_like(log), log)
    elif TAILS == 1:
        out += excess
    else:
        out += turns
    tl.store(result + at, out, mask=mask)
    tl.store(ladj + at, log, mask=mask)


@triton.jit(do_not_specialize=["n"])
def _pull(
    point: tl.tensor,
    phi: tl.tensor,
    g_out: tl.tensor,
    g_ladj: tl.tensor,
    g_in: tl.tensor,
    g_phi: tl.tensor,
    n: tl.tensor,
    INVERSE: tl.constexpr,
    BINS: tl.constexpr,
    TAILS: tl.constexpr,
    BOUND: tl.constexpr,
    MIN_BIN: tl.constexpr,
    MIN_SLOPE: tl.constexpr,
    RAW_ONE: tl.constexpr,
    TERMS: tl.constexpr,
    T: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    n = n.to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    given = tl.load(point + at, mask=mask, other=0.0).to(T)
    gy = tl.load(g_out + at, mask=mask, other=0.0).to(T)
    gl = tl.load(g_ladj + at, mask=mask, other=0.0).to(T)
    inner, outside, _ = _enter(given, TAILS, BOUND)
    b2, floor = number(2 * BOUND, given), number(MIN_BIN, given)
    rest = number(1 - MIN_BIN * BINS, given)
    u = divide(inner + number(BOUND, given), b2)
    w, h, x, y, raw_left, raw_right, index, top_w, scale_w, top_h, scale_h = _find(
        u, phi, n, at, mask, 0, BINS, TAILS, MIN_BIN
    )
    raw_left += number(RAW_ONE, u)
    raw_right += number(RAW_ONE, u)
    d0 = softplus(raw_left, TERMS) + number(MIN_SLOPE, u)
    d1 = softplus(raw_right, TERMS) + number(MIN_SLOPE, u)
    s, t = divide(h, w), unit(divide(u - x, w))
    r = 1 - t
    num, den, top = _parts(t, r, s, d0, d1)
    ratio = divide(s, den)
    slope = top * ratio * ratio
    fall = divide(d1 * t - d0 * r + s * (r - t), top) - divide((r - t) * (d0 + d1 - 2 * s), den)
    bend = divide(2 * fall, w)
    curvature = divide(bend, b2)
    if TAILS == 0:
        slope = tl.where(outside, number(1, u), slope)
    if TAILS != 2:
        curvature = tl.where(outside, tl.zeros_like(u), curvature)
    if INVERSE == 1:  # implicitly, see `_pull` in ops/spline.py
        gi = divide(gy - gl * curvature, slope)
        gy, gl = -gi, -gl
    else:
        gi = gy * slope + gl * curvature
    if TAILS == 0:
        gy, gl = tl.where(outside, tl.zeros_like(u), gy), tl.where(outside, tl.zeros_like(u), gl)
    elif TAILS == 1:
        gl += gy * (given - inner) * slope
    gv = gy * b2
    tt, q, rr = t * t, t * r, r * r
    f, g_num, g_top = divide(num, den), divide(gv * h, den), divide(gl, top)
    g_den = -(divide(2 * gl, den) + g_num * f)
    gs = g_num * tt + g_den * (tt + rr) + 2 * (divide(gl, s) + g_top * q)
    gu = gv * slope + gl * bend
    g_left = ((g_num + g_den) * q + g_top * rr) * sigmoid(raw_left)
    g_right = (g_den * q + g_top * tt) * sigmoid(raw_right)
    tl.store(g_in + at, gi, mask=mask)

    # Through the softmax each bin gets its own cotangent less their mean.
    place = index.to(T) * floor
    before_w, own_w = -gu * rest, (-gu * t - divide(gs * s, w)) * rest
    before_h, own_h = gv * rest, (gv * f + divide(gs, w)) * rest
    mean_w = divide(before_w * (x - place) + own_w * (w - floor), rest)
    mean_h = divide(before_h * (y - place) + own_h * (h - floor), rest)
    zero = tl.zeros_like(u)
    for k in range(BINS):  # not unrolled: that would take most of the time of the compiler
        part = tl.where(index > k, before_w, tl.where(index == k, own_w, zero))
        share = _share(phi, k, n, at, mask, top_w, scale_w, T)
        tl.store(g_phi + k * n + at, (part - mean_w) * share, mask=mask)
        part = tl.where(index > k, before_h, tl.where(index == k, own_h, zero))
        share = _share(phi, BINS + k, n, at, mask, top_h, scale_h, T)
        tl.store(g_phi + (BINS + k) * n + at, (part - mean_h) * share, mask=mask)
    FIRST: tl.constexpr = 1 if TAILS == 0 else 0
    KNOTS: tl.constexpr = BINS + 1 if TAILS == 1 else BINS
    for knot in range(FIRST, KNOTS):
        other = knot - 1
        if TAILS == 2:
            other = (knot + BINS - 1) % BINS
        plane = tl.where(index == knot, g_left, zero) + tl.where(index == other, g_right, zero)
        tl.store(g_phi + (2 * BINS + knot - FIRST) * n + at, plane, mask=mask)


# ---- calls -----------------------------------------------------------------------------------------------------------


def _launch(kernel: Any, tensors: tuple[Tensor, ...], grid: SplineGrid, *, inverse: bool) -> None:
    x, n = tensors[0], tensors[0].numel()
    if n == 0:
        return
    dtype = torch.float64 if grid.double else x.dtype
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        kernel[(triton.cdiv(n, BLOCK),)](
            *tensors,
            n,
            INVERSE=int(inverse),
            BINS=grid.bins,
            TAILS=TAILS[grid.tails],
            BOUND=float(grid.bound),
            MIN_BIN=float(grid.min_bin),
            MIN_SLOPE=float(grid.min_slope),
            RAW_ONE=raw_one(grid),
            TERMS=LOG1P_TERMS[dtype],
            T=_TYPES[dtype],
            BLOCK=BLOCK,
            num_warps=4,
            enable_fp_fusion=True,  # as in the C++ kernels
        )


def spline(x: Tensor, phi: Tensor, grid: SplineGrid, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Either direction: result and ladj, shaped like ``x``.

    Args:
        x: float32 or float64.
        phi: ``(grid.n_params, *x.shape)``, of the same dtype, or of half precision beside float32.
        grid: Hyper-parameters.
        inverse: The direction.
    """
    x, phi = x.contiguous(), phi.contiguous()
    y, ladj = torch.empty_like(x), torch.empty_like(x)
    _launch(_map, (x, phi, y, ladj), grid, inverse=inverse)
    return y, ladj


def pull(
    x: Tensor, phi: Tensor, g_out: Tensor, g_ladj: Tensor, grid: SplineGrid, *, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Cotangents of the input and of ``phi``, at the data point ``x``; see ``ops.spline``."""
    x, phi, g_out, g_ladj = x.contiguous(), phi.contiguous(), g_out.contiguous(), g_ladj.contiguous()
    g_x, g_phi = torch.empty_like(x), torch.empty_like(phi)
    _launch(_pull, (x, phi, g_out, g_ladj, g_x, g_phi), grid, inverse=inverse)
    return g_x, g_phi


def trial(grid: SplineGrid, device: torch.device, dtype: torch.dtype) -> None:
    """Compile what a spline needs and run it on one element; whatever goes wrong is raised here and not in a model."""
    x = torch.zeros(1, dtype=dtype, device=device)
    phi = torch.zeros(grid.n_params, 1, dtype=dtype, device=device)
    for inverse in (False, True):
        y, ladj = spline(x, phi, grid, inverse=inverse)
        pull(x, phi, y, ladj, grid, inverse=inverse)

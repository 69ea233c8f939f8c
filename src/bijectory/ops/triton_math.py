"""Scalar functions for Triton kernels, as exact as those of the plain operations; they run where ``triton`` is installed."""

import triton
import triton.language as tl


@triton.jit
def number(VALUE: tl.constexpr, like: tl.tensor) -> tl.tensor:
    """A constant in the dtype and shape of a tensor: a plain literal may be float32."""
    return tl.full(like.shape, VALUE, like.dtype)


@triton.jit
def divide(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Rounded to nearest."""
    return tl.div_rn(a, b) if b.dtype == tl.float32 else a / b


@triton.jit
def root(a: tl.tensor) -> tl.tensor:
    """The square root, rounded to nearest."""
    return tl.sqrt_rn(a) if a.dtype == tl.float32 else tl.sqrt(a)


@triton.jit
def softplus(v: tl.tensor, TERMS: tl.constexpr) -> tl.tensor:
    """``max(v, 0) + log(1 + exp(-|v|))``, the logarithm as ``2 atanh(e / (2 + e))`` by a series of ``TERMS`` terms."""
    e = tl.exp(-tl.abs(v))
    s = divide(e, e + 2)  # log(1 + e) = 2 atanh(s), s <= 1/3
    q = s * s
    p = number(1 / (2 * TERMS + 1), v)
    for k in tl.static_range(TERMS):
        p = p * q + number(1 / (2 * TERMS - 1 - 2 * k), v)
    return (v + tl.abs(v)) * 0.5 + 2 * s * p


@triton.jit
def sigmoid(v: tl.tensor) -> tl.tensor:
    """The derivative of ``softplus``."""
    e = tl.exp(-tl.abs(v))
    return divide(tl.where(v >= 0, 1.0, e).to(v.dtype), e + 1)


@triton.jit
def unit(t: tl.tensor) -> tl.tensor:
    """Clamp to [0, 1]; NaN stays NaN."""
    t = tl.where(t < 0, tl.zeros_like(t), t)
    return tl.where(t > 1, number(1, t), t)

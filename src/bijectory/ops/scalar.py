r"""Scalar functions that stay accurate where the textbook formula overflows, cancels or has a removable singularity.

All are smooth compositions without ``abs`` at a kink, so that first and second derivatives are right at zero as well.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_SERIES_BELOW = 0.25  # |t| below which the ratios use their series; the truncation error is then below 1e-16


def where_valid(valid: Tensor, value: Tensor) -> Tensor:
    """``value`` where ``valid``, NaN elsewhere: outside its domain a map has no plausible answer."""
    return torch.where(valid, value, math.nan)


def softplus(x: Tensor) -> Tensor:
    r""":math:`\log(1 + e^x)` without the linear cut-off of ``torch.nn.functional.softplus`` (2e-9 wrong in float64)."""
    return -logsigmoid(-x)


def log1mexp(y: Tensor) -> Tensor:
    r""":math:`\log(1 - e^{-y})` for :math:`y > 0` (Maechler 2012: switch at :math:`\log 2`)."""
    small = y < math.log(2)
    near = torch.where(small, y, 1.0)
    far = torch.where(small, 1.0, y)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-torch.exp(-far)))


def logcosh(u: Tensor) -> Tensor:
    r""":math:`\log\cosh u`, finite for every finite ``u``."""
    return u - logsigmoid(2 * u) - math.log(2)


def expm1_ratio(t: Tensor) -> Tensor:
    r""":math:`(e^t - 1)/t`, and 1 at ``t = 0``, with accurate derivatives."""
    small = t.abs() < _SERIES_BELOW
    s = torch.where(small, t, 0.0)
    series = torch.ones_like(s)
    for n in range(13, 1, -1):  # sum of t^(n-1) / n!, nested
        series = 1 + s / n * series
    safe = torch.where(small, 1.0, t)
    return torch.where(small, series, torch.expm1(safe) / safe)


def log1p_ratio(t: Tensor) -> Tensor:
    r""":math:`\log(1 + t)/t` for :math:`t > -1`, and 1 at ``t = 0``, with accurate derivatives."""
    small = t.abs() < _SERIES_BELOW
    s = torch.where(small, t, 0.0)
    w = (s / (2 + s)).square()  # log(1 + t) = 2 artanh(t / (2 + t)), whose series converges in w < 0.021
    series = torch.zeros_like(s)
    for n in range(19, 0, -2):
        series = 1 / n + w * series
    safe = torch.where(small, 1.0, t)
    return torch.where(small, series * 2 / (2 + s), torch.log1p(safe) / safe)


def soft_bound(raw: Tensor, bound: float) -> Tensor:
    """Map the real line onto ``(-bound, bound)`` with slope one at zero."""
    return bound * torch.tanh(raw / bound)


def saturate(x: Tensor, power: float) -> Tensor:
    r"""Clamp to :math:`\pm M^{power}`, ``M`` the largest number of the dtype: what comes later stays finite.

    In float32 a power of 0.4 is 3e15 and 0.75 is 8e28: numbers that no data have, but rows far out may meet on their way.
    Infinity is clamped too, NaN stays NaN.
    """
    limit = torch.finfo(x.dtype).max ** power
    return x.clamp(-limit, limit)

r"""The normal law in its tails: logarithms of tail masses and their inverse, accurate at zero and far out.

For :math:`z \ge 0` the exponent of the two-sided tail is
:math:`L(z) = -\log(2\,\Phi(-z)) = -\log\operatorname{erfc}(z/\sqrt2)`, 0 at zero and about :math:`z^2/2` far out, convex,
with the slope :math:`1/m(z)`, where

.. math:: m(z) = \frac{\Phi(-z)}{\varphi(z)} = \sqrt{\pi/2}\,\operatorname{erfcx}(z/\sqrt2)

is the ratio of Mills.
"""

import math

import torch
from torch import Tensor

LOG_2 = math.log(2)
_ROOT = math.sqrt(0.5)
_NEAR = 1.0  # below it the error function, above it logarithms


def log_mills(z: Tensor) -> Tensor:
    """Logarithm of the ratio of Mills."""
    return torch.special.erfcx(z * _ROOT).log() + 0.5 * math.log(math.pi / 2)


def tail_exponent(z: Tensor) -> Tensor:
    """``L(z)`` for ``z >= 0``."""
    small = z < _NEAR
    near = -torch.log1p(-torch.erf(torch.where(small, z, 0.0) * _ROOT))
    u = torch.where(small, _NEAR, z) * _ROOT
    return torch.where(small, near, u.square() - torch.special.erfcx(u).log())


def tail_quantile(exponent: Tensor) -> Tensor:
    """The ``z >= 0`` of a tail exponent ``L(z) >= 0``, differentiable as often as needed.

    Far out it is the root of a convex function: Newton steps from an asymptotic start, the last two of which carry the
    derivatives.
    """
    small = exponent < _NEAR
    near = torch.erfinv(-torch.expm1(-torch.where(small, exponent, 0.0))) / _ROOT
    target = torch.where(small, _NEAR, exponent)
    with torch.no_grad():
        z = _newton(_newton(_start(target.detach()), target.detach()), target.detach())
    far = _newton(_newton(z.detach(), target), target)
    return torch.where(small, near, far)


def _start(exponent: Tensor) -> Tensor:
    """From ``erfc(u) ~ exp(-u^2) / (u sqrt(pi))``."""
    return 2**0.5 * (exponent - 0.5 * (math.pi * exponent).log()).sqrt()


def _newton(z: Tensor, exponent: Tensor) -> Tensor:
    return z - (tail_exponent(z) - exponent) * log_mills(z).exp()


def log_ndtr_quantile(log_p: Tensor) -> Tensor:
    """The ``x`` whose ``log Phi(x)`` is given, ``log_p < 0``; accurate also where it nears 0 or minus infinity."""
    lower = log_p < -LOG_2
    # Phi(x) = p: on the left 2 p = exp(-L(-x)); on the right 2 (1 - p) = exp(-L(x)).
    left = torch.where(lower, log_p, -2 * LOG_2)
    right = torch.where(lower, -LOG_2 / 2, log_p)
    tail = torch.where(lower, left, (-torch.expm1(right)).log())
    z = tail_quantile((-LOG_2 - tail).clamp(min=0))
    return torch.where(lower, -z, z)


def log_ndtr(x: Tensor) -> Tensor:
    r""":math:`\log\Phi(x)`, accurate on both sides."""
    negative = x < 0
    exponent = tail_exponent(torch.where(negative, -x, x))
    right = torch.where(negative, 0.0, exponent)
    return torch.where(negative, -exponent - LOG_2, torch.log1p(-0.5 * torch.exp(-right)))

r"""Geodesics of the unit sphere, safe at coincident and at antipodal points.

Let :math:`q = |x - y|^2 / 4 = \sin^2(\theta/2)` and :math:`p = |x + y|^2 / 4 = \cos^2(\theta/2)`. Then nothing cancels: the
angle is :math:`\theta = 2 \operatorname{atan2}(\sqrt q, \sqrt p)`, and

.. math::
    \log_x y = \frac{\theta}{\sin\theta}\, (y - (x \cdot y)\, x), \qquad
    \exp_x v = \cos |v|\; x + \frac{\sin |v|}{|v|}\; v.

The ratios are smooth functions of :math:`q` and :math:`|v|^2`, so first and second derivatives are finite where points meet.
Opposite points have no one shortest way; there the way leaves in a fixed direction, which has no gradient.
"""

import math

import torch
from torch import Tensor

_SERIES_BELOW = 0.05  # of the series below, the truncation error is then less than 1e-17


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the last dimension, which is kept: ``(*batch, 1)``."""
    return (a * b).sum(-1, keepdim=True)


def cos_sinc(squared: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\cos\sqrt a` and :math:`\sin\sqrt a / \sqrt a` for :math:`a \ge 0`, smooth at 0.

    Example:
        >>> cos_sinc(torch.tensor([0.0, math.pi**2]))[0]
        tensor([ 1., -1.])
    """
    small = squared < _SERIES_BELOW
    s = torch.where(small, squared, 0.0)
    root = torch.where(small, 1.0, squared).sqrt()
    near_cos, near_sinc = torch.ones_like(s), torch.ones_like(s)
    for k in range(6, 0, -1):
        near_cos = 1 - s / ((2 * k - 1) * 2 * k) * near_cos
        near_sinc = 1 - s / (2 * k * (2 * k + 1)) * near_sinc
    return torch.where(small, near_cos, root.cos()), torch.where(small, near_sinc, root.sin() / root)


def sphere_exp(x: Tensor, v: Tensor) -> Tensor:
    """End of the geodesic that leaves ``x`` with velocity ``v``, after time 1.

    Args:
        x: Unit vectors ``(*batch, n)``.
        v: Tangent vectors there, ``(*batch, n)``.

    Example:
        >>> sphere_exp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, math.pi / 2])).abs().round(decimals=5)
        tensor([0., 1.])
    """
    cos, sinc = cos_sinc(dot(v, v))
    return cos * x + sinc * v


def sphere_log(x: Tensor, y: Tensor) -> Tensor:
    """Velocity with which the shortest geodesic from ``x`` arrives at ``y`` after time 1; its length is the distance.

    Args:
        x: Unit vectors ``(*batch, n)``, ``n`` at least 2.
        y: Likewise.

    Example:
        >>> sphere_log(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])).abs()
        tensor([0.0000, 3.1416])
    """
    q, p = dot(x - y, x - y) / 4, dot(x + y, x + y) / 4
    # y - (x . y) x, from the nearer of y and -y
    side = torch.where(q < p, y - x + 2 * q * x, y + x - 2 * p * x)
    small = q < _SERIES_BELOW
    s = torch.where(small, q, 0.0)
    series = torch.zeros_like(s)
    for k in range(12, -1, -1):  # asin(sqrt q) / sqrt q
        series = math.comb(2 * k, k) / 4**k / (2 * k + 1) + s * series
    opposite = p < torch.finfo(x.dtype).eps ** 2
    low, high = torch.where(opposite, 1.0, p).sqrt(), torch.where(small, 1.0, q).sqrt()
    ratio = torch.where(small, series, torch.atan2(high, low) / high) / low
    return torch.where(opposite, math.pi * _some_tangent(x), ratio * side)


def sphere_distance(x: Tensor, y: Tensor) -> Tensor:
    r"""Angle between unit vectors, ``(*batch,)``, in :math:`[0, \pi]`; its gradient at coincident points is 0.

    Example:
        >>> sphere_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(1.5708)
    """
    return safe_norm(sphere_log(x, y))


def safe_norm(v: Tensor) -> Tensor:
    """Euclidean length over the last dimension, with gradient 0 at 0."""
    squared = v.square().sum(-1)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def sphere_path(x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point of the shortest geodesic from ``x`` to ``y`` at time ``t``, and its velocity, of constant length.

    Args:
        x: Unit vectors ``(*batch, n)``.
        y: Likewise.
        t: Times ``(*batch, 1)``.

    Example:
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> point, velocity = sphere_path(a, b, torch.tensor([1.0]))
        >>> bool((point - b).abs().max() < 1e-6), velocity.round(decimals=4)
        (True, tensor([-1.5708, -0.0000]))
    """
    v = sphere_log(x, y)
    squared = dot(v, v)
    cos, sinc = cos_sinc(t.square() * squared)
    return cos * x + t * sinc * v, cos * v - squared * t * sinc * x


def _some_tangent(x: Tensor) -> Tensor:
    """A unit tangent vector at each ``x``: the axis to which it is most orthogonal, projected. Without gradient."""
    x = x.detach()
    axis = torch.arange(x.shape[-1], device=x.device) == x.abs().argmin(-1, keepdim=True)
    side = axis.to(x.dtype) - (axis * x).sum(-1, keepdim=True) * x
    return side / dot(side, side).sqrt()

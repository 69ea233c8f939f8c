r"""Logit of the distribution function of a mixture of logistics: the kernel of three scalar families.

With :math:`u_k = a_k (x - \mu_k)` and weights :math:`w`, the distribution function is :math:`F = \sum_k w_k \sigma(u_k)` and
the survival function :math:`S = 1 - F = \sum_k w_k \sigma(-u_k)`. Both are kept as logarithms, never as numbers near 0 or 1:
:math:`t = \log F - \log S` is a straight line far out, with the slope of the widest component, and nothing saturates. Since
:math:`1/(FS) = 1/F + 1/S`,

.. math:: \frac{dt}{dx} = \sum_k a_k \left( \frac{w_k \sigma(u_k)}{F}\, \sigma(-u_k)
    + \frac{w_k \sigma(-u_k)}{S}\, \sigma(u_k) \right)

is a sum of positive terms, of which none cancels.

Between far, sharp components :math:`t` is flat, as flat as the density is low, and its inverse is lost to rounding. So the
kernel is :math:`(1 - \epsilon) t + \epsilon x` with a small least slope :math:`\epsilon`, as in splines.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bijectory.ops.monotone import monotone_inverse

_SHARE = 0.25  # of the variance of a starting mixture that lies between its components


def mixture_logit(
    x: Tensor, log_weight: Tensor, loc: Tensor, log_slope: Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Logit of the distribution function, with its least slope, and the logarithm of the derivative.

    Args:
        x: ``(*batch, features)``.
        log_weight: :math:`\log w`, ``(K, *batch, features)``, normalised over the first dimension.
        loc: :math:`\mu`, the same shape.
        log_slope: :math:`\log a`, the same shape.
        floor: :math:`\epsilon`, in ``[0, 1)``.

    Example:
        >>> one, two = torch.zeros(1, 1), torch.tensor([[2.0]])
        >>> t, ladj = mixture_logit(torch.tensor([1e4]), one, two, one)
        >>> t.item(), ladj.item()
        (9998.0, 0.0)
    """
    up, down = _sides(x, loc, log_slope)
    below, above = log_weight + up, log_weight + down
    log_cdf, log_survival = below.logsumexp(0), above.logsumexp(0)
    slope = torch.logaddexp(below - log_cdf + down, above - log_survival + up)
    t, ladj = log_cdf - log_survival, (log_slope + slope).logsumexp(0)
    if floor == 0:
        return t, ladj
    least = torch.full_like(ladj, math.log(floor))
    return (1 - floor) * t + floor * x, torch.logaddexp(ladj + math.log1p(-floor), least)


def mixture_logit_inverse(
    t: Tensor, log_weight: Tensor, loc: Tensor, log_slope: Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    r"""Point where the mixture has logit ``t``, and the logarithm of :math:`dx/dt`.

    It lies between the smallest and the largest of the points where one component alone has it, which are known.
    """
    with torch.no_grad():
        steep = (1 - floor) * log_slope.exp()
        alone = (t + steep * loc) / (steep + floor)
        info = torch.finfo(alone.dtype)
        slack = 8 * info.eps * (alone.abs() + loc.abs()).amax(0) + info.tiny
        lower, upper = alone.amin(0) - slack, alone.amax(0) + slack

    def f(x: Tensor, log_weight: Tensor, loc: Tensor, log_slope: Tensor) -> Tensor:
        up, down = _sides(x, loc, log_slope)
        return (1 - floor) * ((log_weight + up).logsumexp(0) - (log_weight + down).logsumexp(0)) + floor * x

    x, _ = monotone_inverse(f, t, (log_weight, loc, log_slope), lower, upper, iterations=32, expansions=0)
    return x, -mixture_logit(x, log_weight, loc, log_slope, floor)[1]


def spread(components: int, deviation: float, like: Tensor) -> tuple[Tensor, float]:
    """Start for a mixture: distinct means, so that components part ways, yet nearly one logistic of this ``deviation``.

    Equal weights, means evenly spaced around zero that make up a quarter of the variance, and one scale for the rest.

    Returns:
        Means, ``(components, 1, …)`` with as many dimensions as ``like``, and the logarithm of the slope.
    """
    unit = math.sqrt((components + 1) / (3 * (components - 1)))  # deviation of evenly spaced points on [-1, 1]
    reach = deviation * math.sqrt(_SHARE) / unit
    loc = torch.linspace(-reach, reach, components, dtype=like.dtype, device=like.device)
    slope = math.pi / math.sqrt(3) / (deviation * math.sqrt(1 - _SHARE))
    return loc.view(-1, *(1,) * (like.dim() - 1)), math.log(slope)


def _sides(x: Tensor, loc: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the distribution and survival functions of every component."""
    u = (x - loc) * log_slope.exp()
    return logsigmoid(u), logsigmoid(-u)

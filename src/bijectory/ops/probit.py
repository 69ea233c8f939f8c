r"""Between the logit and the probit scale: :math:`\sigma(t) = \Phi(y)`, exact where both are far beyond 0 and 1.

Everything is said by the Mills ratio :math:`R(a) = \Phi(-a)/\varphi(a)` of :math:`a = |y|`, which neither underflows nor
overflows: :math:`\log\Phi(-a) = \log R(a) - a^2/2 - \log\sqrt{2\pi}`, and with :math:`t = \log\Phi(y) - \log\Phi(-y)`

.. math:: \frac{dt}{dy} = \frac{\varphi(y)}{\Phi(y)\,\Phi(-y)} = \frac{1}{\Phi(a) R(a)}.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_LOG_SQRT_HALF_PI = 0.5 * math.log(math.pi / 2)
_FAR = -50.0  # below this logarithm of a probability the quantile starts from its asymptotic form


def probit_to_logit(y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logit of :math:`\Phi(y)`, and the logarithm of its derivative.

    Example:
        >>> t, ladj = probit_to_logit(torch.tensor([0.0, 1e4]))
        >>> t.tolist(), [round(v, 2) for v in ladj.exp().tolist()]
        ([0.0, 50000008.0], [1.6, 10000.0])
    """
    negative = y < 0
    a = torch.where(negative, -y, y)  # not abs: its derivative vanishes at zero
    log_mills = torch.special.erfcx(a / math.sqrt(2)).log() + _LOG_SQRT_HALF_PI
    below = log_mills - a * a / 2 - _LOG_SQRT_2PI
    above = torch.log1p(-below.exp())
    t = above - below
    return torch.where(negative, -t, t), -(log_mills + above)


def logit_to_probit(t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Normal quantile of :math:`\sigma(t)`, and the logarithm of its derivative.

    The quantile function or, far out, :math:`a^2 \approx v - \log v` with :math:`v = -2\log p - \log 2\pi`; then Newton's
    method on ``probit_to_logit``, of which the last two steps carry derivatives (the first order from one, the second
    from two).

    Example:
        >>> y, ladj = logit_to_probit(torch.tensor([0.0, 50000008.0]))
        >>> [round(v, 3) for v in y.tolist()], [round(v, 2) for v in (-ladj).exp().tolist()]
        ([0.0, 10000.0], [1.6, 10000.0])
    """
    with torch.no_grad():
        log_p = logsigmoid(-t.abs())
        near = -torch.special.ndtri(log_p.clamp(min=_FAR).exp())
        v = -2 * log_p.clamp(max=_FAR) - 2 * _LOG_SQRT_2PI
        far = (v - (v - v.log()).log()).sqrt()
        a = torch.where(log_p < _FAR, far, near)
        y = torch.where(t.isnan(), t, torch.where(t < 0, -a, a))
        y = _newton(y, t)
    y = _newton(_newton(y.detach(), t), t)
    return y, -probit_to_logit(y)[1]


def _newton(y: Tensor, t: Tensor) -> Tensor:
    value, log_slope = probit_to_logit(y)
    return y + (t - value) * (-log_slope).exp()

"""Exp, Log and Softplus: the real line against the positive half-line."""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bijectory.bijections.base import Bijection
from bijectory.ops.scalar import log1mexp, softplus, where_valid


def _exp(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.exp(), x.clone()  # a clone: callers own both results


def _log(y: Tensor) -> tuple[Tensor, Tensor]:
    x = where_valid(y > 0, torch.where(y > 0, y, 1.0).log())
    return x, -x


@dataclasses.dataclass(frozen=True)
class Exp(Bijection):
    r"""Exponential :math:`y = e^x`, with :math:`\log|dy/dx| = x`, from the real line onto :math:`(0, \infty)`.

    No parameters. Where :math:`e^x` leaves the floating-point range the value is 0 or infinity, as ``torch.exp`` has it,
    and the log-derivative stays finite. The inverse of a value outside :math:`(0, \infty)`, zero included, is NaN.

    Example:
        >>> y, ladj = Exp().forward(torch.tensor([0.0]), torch.zeros(0, 1))
        >>> y.item(), ladj.item()
        (1.0, 0.0)
    """

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _exp(x)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _log(y)


@dataclasses.dataclass(frozen=True)
class Log(Bijection):
    r"""Logarithm :math:`y = \log x`, with :math:`\log|dy/dx| = -\log x`, from :math:`(0, \infty)` onto the real line.

    No parameters. Outside its domain, zero included, value and log-derivative are NaN.

    Example:
        >>> y, ladj = Log().forward(torch.tensor([1.0, 0.0]), torch.zeros(0, 2))
        >>> y.tolist(), ladj.tolist()
        ([0.0, nan], [-0.0, nan])
    """

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _log(x)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _exp(y)


@dataclasses.dataclass(frozen=True)
class Softplus(Bijection):
    r"""Softplus :math:`y = \log(1 + e^x)`, from the real line onto :math:`(0, \infty)`.

    :math:`\log|dy/dx| = \log \sigma(x)`. The inverse is :math:`x = y + \log(1 - e^{-y})`, with
    :math:`\log|dx/dy| = -\log(1 - e^{-y})`: the identity for large values, a logarithm for small ones, hence the gentler
    choice than ``Log`` for positive data with a long tail: ``Inverse(Elementwise(Softplus(), features))``.

    No parameters. Outside :math:`(0, \infty)`, zero included, the inverse is NaN. Far below zero the value is that of
    :math:`e^x` and underflows to 0 with it; the log-derivative stays finite.

    Example:
        >>> y, ladj = Softplus().forward(torch.tensor([0.0]), torch.zeros(0, 1))
        >>> round(y.item(), 4), round(ladj.item(), 4)
        (0.6931, -0.6931)
    """

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), logsigmoid(x)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        log_slope = where_valid(y > 0, log1mexp(torch.where(y > 0, y, 1.0)))
        return y + log_slope, -log_slope

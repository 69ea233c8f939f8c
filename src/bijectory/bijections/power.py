"""Powers: the positive half-line against itself."""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import soft_bound, where_valid


@dataclasses.dataclass(frozen=True)
class Power(Bijection):
    r"""Power :math:`y = x^p` with a learned exponent :math:`p > 0`, of the positive half-line onto itself.

    .. math:: \log|dy/dx| = \log p + (p - 1)\log x

    One raw parameter: :math:`\log p = D\tanh(\phi_0/D)`. Identity at ``phi = 0``. Outside :math:`(0, \infty)`, zero
    included, value and log-derivative are NaN.

    Args:
        max_log_power: The bound ``D > 0`` on :math:`|\log p|`.

    Raises:
        ConfigError: If the bound is not a positive finite number.

    Example:
        >>> y, ladj = Power(1e3).forward(torch.tensor([3.0, -1.0]), torch.full((1, 2), math.log(2)))
        >>> [round(v, 3) for v in y.tolist()], round(ladj[0].item(), 3)  # dy/dx = 6
        ([9.0, nan], 1.792)
    """

    max_log_power: float = 1.0

    def __post_init__(self) -> None:
        ok = math.isfinite(self.max_log_power) and self.max_log_power > 0
        check(ok, ConfigError, f"max_log_power must be a positive finite number, got {self.max_log_power!r}.")

    @property
    def n_params(self) -> int:
        return 1

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _power(x, soft_bound(phi[0], self.max_log_power))

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _power(y, -soft_bound(phi[0], self.max_log_power))


def _power(x: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    valid, gain = x > 0, log_p.expm1()  # the exponent less one
    safe = torch.where(valid, x, 1.0)
    shift = gain * safe.log()
    return where_valid(valid, safe * shift.exp()), where_valid(valid, log_p + shift)

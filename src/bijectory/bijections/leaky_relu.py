"""Leaky rectifier with a learned slope."""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import soft_bound


@dataclasses.dataclass(frozen=True)
class LeakyReLU(Bijection):
    r"""Leaky rectifier :math:`y = x` for :math:`x \ge 0` and :math:`y = e^s x` below, with :math:`s = S\tanh(a/S)`.

    One raw parameter, ``a``; :math:`\log|dy/dx|` is 0 or ``s``. Identity at ``phi = 0``. Domain and range: the real line.

    Args:
        max_log_slope: The bound ``S > 0`` on ``|s|``.

    Raises:
        ConfigError: If ``max_log_slope`` is not a positive finite number.

    Example:
        >>> y, ladj = LeakyReLU().forward(torch.tensor([-1.0, 2.0]), torch.zeros(1, 2))
        >>> y.tolist(), ladj.tolist()
        ([-1.0, 2.0], [0.0, 0.0])
    """

    max_log_slope: float = 3.0

    def __post_init__(self) -> None:
        check(
            math.isfinite(self.max_log_slope) and self.max_log_slope > 0,
            ConfigError,
            f"max_log_slope must be a positive finite number, got {self.max_log_slope!r}.",
        )

    @property
    def n_params(self) -> int:
        return 1

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.where(x < 0, soft_bound(phi[0], self.max_log_slope), 0.0)
        return x * s.exp(), s

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.where(y < 0, soft_bound(phi[0], self.max_log_slope), 0.0)
        return y * (-s).exp(), -s

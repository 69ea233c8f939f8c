"""Shift and affine maps: NICE and RealNVP."""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import soft_bound


@dataclasses.dataclass(frozen=True)
class Shift(Bijection):
    r"""Translation :math:`y = x + t`, with :math:`\log|dy/dx| = 0`.

    One raw parameter, ``t``. Identity at ``phi = 0``.

    References:
        NICE: Non-linear Independent Components Estimation, Dinh, Krueger, Bengio 2014, arXiv:1410.8516, eq. 8.

    Example:
        >>> y, ladj = Shift().forward(torch.tensor([1.0]), torch.tensor([[2.0]]))
        >>> y.item(), ladj.item()
        (3.0, 0.0)
    """

    @property
    def n_params(self) -> int:
        return 1

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        y = x + phi[0]
        return y, torch.zeros_like(y)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        x = y - phi[0]
        return x, torch.zeros_like(x)


@dataclasses.dataclass(frozen=True)
class Affine(Bijection):
    r"""Affine map :math:`y = x e^{s} + t` with a softly bounded log-scale :math:`s = S \tanh(a / S)`.

    Two raw parameters, ``t`` and ``a``, in this order. Identity at ``phi = 0``, where ``ds/da = 1``. The bound keeps
    stacks of many layers finite and invertible whatever the weights; :math:`\log|dy/dx| = s`.

    Args:
        max_log_scale: The bound ``S > 0`` on ``|s|``; None takes ``s = a``, from a conditioner that bounds it itself.

    Raises:
        ConfigError: If ``max_log_scale`` is neither None nor a positive finite number.

    References:
        Density estimation using Real NVP, Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803, eq. 4-6.

    Example:
        >>> y, ladj = Affine().forward(torch.tensor([1.0]), torch.tensor([[2.0], [0.0]]))
        >>> y.item(), ladj.item()
        (3.0, 0.0)
    """

    max_log_scale: float | None = 3.0

    def __post_init__(self) -> None:
        check(
            self.max_log_scale is None or (math.isfinite(self.max_log_scale) and self.max_log_scale > 0),
            ConfigError,
            f"max_log_scale must be a positive finite number, got {self.max_log_scale!r}.",
        )

    @property
    def n_params(self) -> int:
        return 2

    def _log_scale(self, raw: Tensor) -> Tensor:
        return raw if self.max_log_scale is None else soft_bound(raw, self.max_log_scale)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = phi.unbind(0)
        s = self._log_scale(raw)
        y = x * s.exp() + t
        return y, s.expand(y.shape)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        t, raw = phi.unbind(0)
        s = self._log_scale(raw)
        x = (y - t) * (-s).exp()
        return x, -s.expand(x.shape)

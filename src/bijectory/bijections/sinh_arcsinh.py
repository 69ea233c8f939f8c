"""Sinh-arcsinh: skewness and tail weight."""

import dataclasses
import math

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import logcosh, soft_bound


@dataclasses.dataclass(frozen=True)
class SinhArcsinh(Bijection):
    r"""Sinh-arcsinh map :math:`y = \sinh(\delta \operatorname{arsinh} x - \epsilon)` of the real line onto itself.

    With a normal latent :math:`\epsilon > 0` skews the data to the right and :math:`\delta < 1` makes their tails heavy.

    .. math:: \log|dy/dx| = \log\delta + \log\cosh(\delta a - \epsilon) - \log\cosh a, \quad a = \operatorname{arsinh} x

    Two raw parameters: :math:`\epsilon = E\tanh(\phi_0/E)` and :math:`\log\delta = D\tanh(\phi_1/D)`. Identity at
    ``phi = 0``. With the default bounds :math:`|x| \le 10^6` stays finite in float32, both ways, whatever the parameters;
    where the value does overflow, it is infinite and the log-derivative finite.

    Args:
        max_skew: The bound ``E > 0``.
        max_log_tail: The bound ``D > 0``.

    Raises:
        ConfigError: If a bound is not a positive finite number.

    References:
        Sinh-arcsinh distributions, Jones, Pewsey 2009, Biometrika 96(4), 761-780.

    Example:
        >>> import torch
        >>> y, ladj = SinhArcsinh().forward(torch.tensor([0.5]), torch.zeros(2, 1))
        >>> y.item(), ladj.item()
        (0.5, 0.0)
    """

    max_skew: float = 5.0
    max_log_tail: float = 1.5

    def __post_init__(self) -> None:
        for name in ("max_skew", "max_log_tail"):
            value = getattr(self, name)
            ok = math.isfinite(value) and value > 0
            check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")

    @property
    def n_params(self) -> int:
        return 2

    def _parameters(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        skew, tail = phi.unbind(0)
        return soft_bound(skew, self.max_skew), soft_bound(tail, self.max_log_tail)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        skew, log_tail = self._parameters(phi)
        a = x.asinh()
        u = log_tail.exp() * a - skew
        return u.sinh(), log_tail + logcosh(u) - logcosh(a)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        skew, log_tail = self._parameters(phi)
        a = y.asinh()
        u = (a + skew) * (-log_tail).exp()
        return u.sinh(), logcosh(u) - logcosh(a) - log_tail

"""Yeo-Johnson: a power transformation of the whole real line."""

import dataclasses

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import expm1_ratio, log1p_ratio, soft_bound


@dataclasses.dataclass(frozen=True)
class YeoJohnson(Bijection):
    r"""Yeo-Johnson map with a learned power :math:`\lambda`, of the real line onto itself.

    .. math::
        y = \frac{(1 + x)^\lambda - 1}{\lambda} \;(x \ge 0), \qquad
        y = -\frac{(1 - x)^{2 - \lambda} - 1}{2 - \lambda} \;(x < 0)

    with logarithms where the power is zero. With :math:`p = \lambda` or :math:`2 - \lambda` and
    :math:`L = \log(1 + |x|)`, both branches are :math:`|y| = (e^{pL} - 1)/p` and :math:`\log|dy/dx| = (p - 1)L`.

    One raw parameter: :math:`\lambda = 1 + S\tanh(\phi_0/S)` stays in :math:`[0, 2]`, where the map is onto the real line
    (outside, one side is bounded). Identity at ``phi = 0``. Where a power leaves the floating-point range the value is
    infinite and the log-derivative finite.

    Args:
        max_shift: The bound ``S`` on :math:`|\lambda - 1|`, in ``(0, 1]``.

    Raises:
        ConfigError: If ``max_shift`` is not in ``(0, 1]``.

    References:
        A new family of power transformations to improve normality or symmetry, Yeo, Johnson 2000, Biometrika 87(4),
        954-959.

    Example:
        >>> y, ladj = YeoJohnson().forward(torch.tensor([-1.0, 3.0]), torch.zeros(1, 2))
        >>> y.tolist(), ladj.tolist()
        ([-1.0, 3.0], [-0.0, 0.0])
    """

    max_shift: float = 1.0

    def __post_init__(self) -> None:
        check(0 < self.max_shift <= 1, ConfigError, f"max_shift must be in (0, 1], got {self.max_shift!r}.")

    @property
    def n_params(self) -> int:
        return 1

    def _branch(self, v: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        negative = v < 0
        shift = soft_bound(phi[0], self.max_shift)
        # where, not abs and sign: their derivatives vanish at zero, that of the map is one.
        return negative, torch.where(negative, -v, v), torch.where(negative, -shift, shift)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        negative, size, shift = self._branch(x, phi)
        log1p = size.log1p()
        y = log1p * expm1_ratio((1 + shift) * log1p)
        return torch.where(negative, -y, y), shift * log1p

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        negative, size, shift = self._branch(y, phi)
        log1p = size * log1p_ratio((1 + shift) * size)
        x = log1p.expm1()
        return torch.where(negative, -x, x), -shift * log1p

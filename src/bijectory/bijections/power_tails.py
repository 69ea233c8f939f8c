"""Power-law tails: between Gaussian tails and tails of learned index."""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.gauss import log_mills, tail_exponent, tail_quantile
from bijectory.ops.scalar import expm1_ratio, log1p_ratio, soft_bound

_SCALE = math.sqrt(math.pi / 2)  # makes the slope at zero 1, whatever the tails


@dataclasses.dataclass(frozen=True)
class PowerTails(Bijection):
    r"""Tail transform: data with power-law tails against a latent with Gaussian ones, a learned tail index for each side.

    .. math:: x = \pm\frac{\sigma}{\lambda_\pm}\left(\operatorname{erfc}(|z|/\sqrt2)^{-\lambda_\pm} - 1\right), \qquad
        |z| = \sqrt2\operatorname{erfc}^{-1}\left((1 + \lambda_\pm |x|/\sigma)^{-1/\lambda_\pm}\right)

    with :math:`\sigma = \sqrt{\pi/2}`, so that the map has slope 1 at zero. A standard normal ``z`` gives both half-lines of
    ``x`` a generalised Pareto law of index :math:`\lambda`: :math:`P(|x| > t) \propto t^{-1/\lambda}`. No Lipschitz flow can
    make such tails from Gaussian ones. The place and scale of the published map are left to an affine layer.

    Two raw parameters, for the left and the right side: :math:`\log\lambda = \log\lambda_0 + D\tanh(\phi/D)`. No index makes
    the identity: ``phi = 0`` is the map above with :math:`\lambda_0`.

    Args:
        tail: The starting index :math:`\lambda_0 > 0`.
        max_log_ratio: The bound ``D > 0`` on :math:`|\log\lambda/\lambda_0|`.

    Raises:
        ConfigError: If an argument is not a positive finite number.

    References:
        Flexible Tails for Normalizing Flows, Hickling, Prangle 2024, arXiv:2406.16971, eq. 6-7.

    Example:
        >>> z, ladj = PowerTails(tail=1.0).forward(torch.tensor([0.0, 1e6]), torch.zeros(2, 2))
        >>> [round(v, 2) for v in z.tolist()]  # a Cauchy-like outlier becomes an ordinary number
        [0.0, 4.85]
    """

    tail: float = 0.2
    max_log_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name in ("tail", "max_log_ratio"):
            value = getattr(self, name)
            ok = math.isfinite(value) and value > 0
            check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")

    @property
    def n_params(self) -> int:
        return 2

    def _side(self, v: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which side, the distance from zero, and the tail index there."""
        negative = v < 0
        index = self.tail * soft_bound(phi, self.max_log_ratio).exp()
        return negative, torch.where(negative, -v, v), torch.where(negative, index[0], index[1])

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        negative, size, index = self._side(x, phi)
        t = size / _SCALE
        exponent = t * log1p_ratio(index * t)
        z = tail_quantile(exponent)
        ladj = log_mills(z) - index * exponent - math.log(_SCALE)
        return torch.where(negative, -z, z), ladj

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        negative, size, index = self._side(y, phi)
        exponent = tail_exponent(size)
        x = _SCALE * exponent * expm1_ratio(index * exponent)
        return torch.where(negative, -x, x), index * exponent + math.log(_SCALE) - log_mills(size)

"""Logarithmic compression of both tails."""

import dataclasses

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection


@dataclasses.dataclass(frozen=True)
class Arcsinh(Bijection):
    r"""Inverse hyperbolic sine :math:`y = \operatorname{arsinh}(x)`, :math:`\log|dy/dx| = -\tfrac12\log(1 + x^2)`.

    Linear near 0, logarithmic in both tails: a power law becomes an exponential, a value of 1e6 becomes 14.5. No
    parameters; the starting map is the formula itself.

    References:
        Alternative transformations to handle extreme values of the dependent variable, Burbidge, Magee, Robb 1988,
        J. Am. Stat. Assoc. 83(401), 123-127.

    Example:
        >>> y, ladj = Arcsinh().forward(torch.tensor([1.0, 1e6]), torch.zeros(0, 2))
        >>> [round(v, 2) for v in y.tolist()], [round(v, 2) for v in ladj.tolist()]
        ([0.88, 14.51], [-0.35, -13.82])
    """

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return torch.asinh(x), -torch.hypot(x, torch.ones_like(x)).log()

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        # log cosh y without overflow: |y| + log(1 + exp(-2|y|)) - log 2
        size = y.abs()
        return torch.sinh(y), size + torch.log1p((-2 * size).exp()) - 0.6931471805599453

"""Layers of sigmoidal units between a logit: neural autoregressive flows."""

import dataclasses
import math

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.checks import check_integer, check_min_slope
from bijectory.ops.mixture import mixture_logit, mixture_logit_inverse, spread
from bijectory.ops.scalar import saturate, softplus
from bijectory.ops.shape import align

_MIN_STEEPNESS = 1e-2


@dataclasses.dataclass(frozen=True)
class Sigmoidal(Bijection):
    r"""Deep sigmoidal map: ``layers`` times :math:`x \mapsto \operatorname{logit} \sum_k w_k\, \sigma(a_k x + b_k)`.

    With :math:`a_k > 0` by softplus and :math:`w` by softmax, a layer is a network with one hidden layer of monotone units;
    the next takes its output. Logarithms of both sides of the sum keep the logit exact far out, see
    ``bijectory.ops.mixture``; ``min_slope`` keeps the inverse determined where units have parted, 0 is the formula as
    published. The inverse takes the layers in turn, with a root between those of the single units.

    Raw parameters, for each layer in this order: ``K`` logits of the weights, ``K`` biases, ``K`` raw steepnesses. Zeros
    are nearly the identity: equal weights and steepnesses, and evenly spaced biases, so that the units learn different
    things.

    Args:
        units: Hidden units ``K`` of each layer, at least 2.
        layers: Number of layers.
        min_slope: Least slope of each layer, in ``[0, 1)``.

    Raises:
        ConfigError: If ``units < 2``, ``layers < 1`` or ``min_slope`` is not in ``[0, 1)``.

    References:
        Neural Autoregressive Flows, Huang, Krueger, Lacoste, Courville 2018, arXiv:1804.00779, sec. 3.

    Example:
        >>> import torch
        >>> family = Sigmoidal(units=2)
        >>> y, ladj = family.forward(torch.tensor([1.0, 1e4]), torch.zeros(6, 2))
        >>> [round(v, 3) for v in y.tolist()], [round(v, 3) for v in ladj.tolist()]
        ([0.913, 11544.989], [-0.043, 0.144])
        >>> [round(v, 2) for v in family.inverse(y, torch.zeros(6, 2))[0].tolist()]
        [1.0, 10000.0]
    """

    units: int = 16
    layers: int = 1
    min_slope: float = 1e-3

    solver = "bracketed root"

    def __post_init__(self) -> None:
        check_integer("units", self.units, 2)
        check_integer("layers", self.layers, 1)
        check_min_slope(self.min_slope)

    @property
    def n_params(self) -> int:
        return 3 * self.units * self.layers

    def _mixtures(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Units as components of a mixture of logistics: ``a x + b = a (x - loc)``."""
        mixtures = []
        for raw in saturate(align(phi, x.dim()), 0.2).chunk(self.layers):
            logits, bias, steepness = raw.chunk(3)
            loc, log_slope = spread(self.units, math.pi / math.sqrt(3), logits)
            start = math.exp(log_slope) - _MIN_STEEPNESS
            a = softplus(steepness + math.log(math.expm1(start))) + _MIN_STEEPNESS
            mixtures.append((logits.log_softmax(0), loc - bias / a, a.log()))
        return mixtures

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        first, *rest = self._mixtures(x, phi)
        y, total = mixture_logit(x, *first, self.min_slope)
        for mixture in rest:
            y, ladj = mixture_logit(y, *mixture, self.min_slope)
            total = total + ladj
        return saturate(y, 0.75), total

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        last, *rest = reversed(self._mixtures(y, phi))
        x, total = mixture_logit_inverse(y, *last, self.min_slope)
        for mixture in rest:
            x, ladj = mixture_logit_inverse(x, *mixture, self.min_slope)
            total = total + ladj
        return x, total

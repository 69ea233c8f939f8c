"""Distribution function of a mixture of logistics, between a logit and an affine map: Flow++."""

import dataclasses
import math

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.checks import check_bound, check_integer, check_min_slope
from bijectory.ops.mixture import mixture_logit, mixture_logit_inverse, spread
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import align

_LOGISTIC = math.pi / math.sqrt(3)  # standard deviation of the logistic distribution


@dataclasses.dataclass(frozen=True)
class MixtureCdf(Bijection):
    r"""Mixture-of-logistics map :math:`y = e^s \operatorname{logit} \sum_k w_k \sigma((x - \mu_k)\, e^{-s_k}) + t`.

    Straight lines far out, and :math:`\log|dy/dx|` without cancellation everywhere, see ``bijectory.ops.mixture``. The
    inverse undoes the affine map and finds a root between the quantiles of the single components. ``min_slope`` keeps it
    determined between far modes; 0 is the formula as published.

    Raw parameters, in this order: ``K`` logits of the weights, ``K`` means, ``K`` log-scales, then ``t`` and the raw ``s``
    of the affine map (as in ``Affine``). Zeros are nearly the identity (within 0.12 on ``[-3, 3]``): the mixture then has
    equal weights, one scale and evenly spaced means, so that the components learn different things, and the variance of
    a single logistic.

    Args:
        components: Number of logistics ``K``, at least 2.
        max_log_scale: Bound on the change of every ``s_k`` from its start.
        max_log_affine: Bound on ``s``.
        min_slope: Least slope before the affine map, in ``[0, 1)``.

    Raises:
        ConfigError: If ``components < 2``, a bound is not positive and finite, or ``min_slope`` is not in ``[0, 1)``.

    References:
        Flow++, Ho, Chen, Srinivas, Duan, Abbeel 2019, arXiv:1902.00275, sec. 3.2.

    Example:
        >>> import torch
        >>> family = MixtureCdf(components=2)
        >>> y, ladj = family.forward(torch.tensor([1.0, 1e4]), torch.zeros(8, 2))
        >>> [round(v, 3) for v in y.tolist()], [round(v, 4) for v in ladj.tolist()]
        ([0.913, 11544.989], [-0.0433, 0.1436])
        >>> [round(v, 2) for v in family.inverse(y, torch.zeros(8, 2))[0].tolist()]
        [1.0, 10000.0]
    """

    components: int = 8
    max_log_scale: float = 5.0
    max_log_affine: float = 3.0
    min_slope: float = 1e-3

    solver = "bracketed root"

    def __post_init__(self) -> None:
        check_integer("components", self.components, 2)
        check_bound("max_log_scale", self.max_log_scale)
        check_bound("max_log_affine", self.max_log_affine)
        check_min_slope(self.min_slope)

    @property
    def n_params(self) -> int:
        return 3 * self.components + 2

    def _parameters(self, x: Tensor, phi: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        k, phi = self.components, align(phi, x.dim())
        loc, start = spread(k, _LOGISTIC, phi)
        log_slope = start - soft_bound(phi[2 * k : 3 * k], self.max_log_scale)
        mixture = phi[:k].log_softmax(0), loc + phi[k : 2 * k], log_slope
        return mixture, phi[3 * k], soft_bound(phi[3 * k + 1], self.max_log_affine)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        mixture, t, s = self._parameters(x, phi)
        y, ladj = mixture_logit(x, *mixture, self.min_slope)
        return y * s.exp() + t, ladj + s

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        mixture, t, s = self._parameters(y, phi)
        x, ladj = mixture_logit_inverse((y - t) * (-s).exp(), *mixture, self.min_slope)
        return x, ladj - s

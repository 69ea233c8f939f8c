"""Normal quantile of a mixture's distribution function: Gaussianization."""

import dataclasses

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.checks import check_bound, check_integer, check_min_slope
from bijectory.ops.mixture import mixture_logit, mixture_logit_inverse, spread
from bijectory.ops.probit import logit_to_probit, probit_to_logit
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import align

_OVERLAP = 0.5  # scale of a logistic in units of the distance between components


@dataclasses.dataclass(frozen=True)
class Gaussianization(Bijection):
    r"""Gaussianization :math:`y = \Phi^{-1}\big(\sum_k w_k \sigma((x - \mu_k)\, e^{-s_k})\big)`, with logistic components.

    Far out :math:`y^2/2` grows as :math:`|x| e^{-s}`: outliers are drawn in. Nothing saturates, since the distribution
    function is kept as a logit: see ``bijectory.ops.mixture`` and ``bijectory.ops.probit``. The inverse finds a root
    between the quantiles of the single components. ``min_slope`` keeps it determined between far modes; 0 is the formula
    as published.

    Raw parameters, in this order: ``K`` logits of the weights, ``K`` means, ``K`` log-scales. Zeros are nearly the identity
    (within 0.05 on ``[-2, 2]``): a mixture of unit variance with equal weights, one scale and evenly spaced means, so
    that the components learn different things. ``Elementwise.initialize`` starts from the quantiles of the data instead.

    Args:
        components: Number of logistics ``K``, at least 2.
        max_log_scale: Bound on the change of every ``s_k`` from its start.
        min_slope: Least slope of the logit, in ``[0, 1)``.

    Raises:
        ConfigError: If ``components < 2``, ``max_log_scale`` is not positive and finite, or ``min_slope`` is not in
            ``[0, 1)``.

    References:
        Gaussianization Flows, Meng, Song, Song, Ermon 2020, arXiv:2003.01941.

    Example:
        >>> import torch
        >>> family = Gaussianization(components=2)
        >>> y, ladj = family.forward(torch.tensor([1.0, 1e4]), torch.zeros(6, 2))
        >>> [round(v, 3) for v in y.tolist()], [round(v, 3) for v in ladj.tolist()]
        ([1.033, 204.579], [0.038, -4.581])
        >>> [round(v, 2) for v in family.inverse(y, torch.zeros(6, 2))[0].tolist()]
        [1.0, 10000.0]
    """

    components: int = 8
    max_log_scale: float = 5.0
    min_slope: float = 1e-3

    solver = "bracketed root"
    data_dependent = True

    def __post_init__(self) -> None:
        check_integer("components", self.components, 2)
        check_bound("max_log_scale", self.max_log_scale)
        check_min_slope(self.min_slope)

    @property
    def n_params(self) -> int:
        return 3 * self.components

    def _mixture(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, shift, widen = align(phi, x.dim()).chunk(3)
        loc, start = spread(self.components, 1.0, logits)
        return logits.log_softmax(0), loc + shift, start - soft_bound(widen, self.max_log_scale)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        t, slope = mixture_logit(x, *self._mixture(x, phi), self.min_slope)
        y, ladj = logit_to_probit(t)
        return y, slope + ladj

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        t, slope = probit_to_logit(y)
        x, ladj = mixture_logit_inverse(t, *self._mixture(y, phi), self.min_slope)
        return x, slope + ladj

    def initial(self, x: Tensor) -> Tensor:
        """Components at the medians of ``K`` equally full cells, as wide as their neighbours are apart."""
        order = x.detach().double().sort(0).values
        middle = (torch.arange(self.components, device=x.device) + 0.5) / self.components * len(order)
        centre = order[middle.long()]
        gap = torch.cat((centre[1:2] - centre[:1], (centre[2:] - centre[:-2]) / 2, centre[-1:] - centre[-2:-1]))
        width = _OVERLAP * gap + 1e-3 * order.std(0, correction=0) + torch.finfo(x.dtype).tiny
        loc, start = spread(self.components, 1.0, centre)
        widen = (width.log() + start).clamp(-0.99 * self.max_log_scale, 0.99 * self.max_log_scale)
        widen = self.max_log_scale * (widen / self.max_log_scale).atanh()
        return torch.cat((torch.zeros_like(centre), centre - loc, widen)).to(x.dtype)

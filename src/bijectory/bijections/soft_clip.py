r"""A bounded interval against the real line, nearly the identity inside.

The logit bends the whole interval; what is simple in the units of the data (a linear relation, a normal shape) is no
longer so in the units of the layers. The soft clip leaves all but a strip at each bound as it is.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bijectory.bijections.base import Bijection
from bijectory.bijections.logistic import _gap
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import log1mexp, softplus, where_valid


@dataclasses.dataclass(frozen=True)
class SoftClip(Bijection):
    r"""Unclip a value of :math:`[l, u]` softly: the identity but for two strips of width :math:`s = w (u - l)`.

    .. math:: y = x + s \log\frac{1 - e^{-(x - l)/s}}{1 - e^{-(u - x)/s}}, \qquad
        x = l + s \,\zeta\!\left(\tfrac{y - l}{s}\right) - s \,\zeta\!\left(\tfrac{y - u}{s}\right)

    from the interval onto the real line, with :math:`\zeta` the softplus; the inverse is a soft clip. The slope is
    :math:`1 + 1/(e^{(x-l)/s} - 1) + 1/(e^{(u-x)/s} - 1)`. A uniform density on the interval becomes, on the real line, the
    difference of two logistic distribution functions: flat, with logistic edges. No parameters. A value exactly on a
    bound counts as lying inside it by a rounding, as in ``Logit``; outside value and log-derivative are NaN.

    Args:
        lower: The bound :math:`l`.
        upper: The bound :math:`u`.
        softness: Width :math:`w` of the strips, a fraction of the interval.

    Raises:
        ConfigError: If the bounds are not finite and ordered, or the softness is not in ``(0, 1]``.

    Example:
        >>> y, ladj = SoftClip(0.0, 10.0).forward(torch.tensor([5.0, 0.1]), torch.zeros(0, 2))
        >>> [round(v, 3) for v in y.tolist()], [round(v, 3) for v in ladj.tolist()]
        ([5.0, -0.754], [0.0, 1.708])
    """

    lower: float = 0.0
    upper: float = 1.0
    softness: float = 0.05

    def __post_init__(self) -> None:
        check(
            math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper,
            ConfigError,
            f"the bounds must be finite with lower < upper, got lower={self.lower!r}, upper={self.upper!r}.",
        )
        check(0 < self.softness <= 1, ConfigError, f"softness must be in (0, 1], got {self.softness!r}.")

    @property
    def n_params(self) -> int:
        return 0

    @property
    def _strip(self) -> float:
        return self.softness * (self.upper - self.lower)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = self._strip
        valid = (x >= self.lower) & (x <= self.upper)
        u = torch.where(valid, x, (self.lower + self.upper) / 2)
        low = (u - self.lower).clamp(min=_gap(self.lower, x.dtype)) / s
        high = (self.upper - u).clamp(min=_gap(self.upper, x.dtype)) / s
        from_low, from_high = log1mexp(low), log1mexp(high)
        # 1 / (e^a - 1) = e^{-a} / (1 - e^{-a}); a sum of positive terms, so nothing cancels.
        slope = 1 + (-low - from_low).exp() + (-high - from_high).exp()
        return where_valid(valid, u + s * (from_low - from_high)), where_valid(valid, slope.log())

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        s = self._strip
        p, q = (y - self.lower) / s, (y - self.upper) / s
        below = self.lower + s * (softplus(p) - softplus(q))
        above = self.upper - s * (softplus(-q) - softplus(-p))  # measured from the bound that is near
        x = torch.where(p + q < 0, below, above).clamp(self.lower, self.upper)
        return x, logsigmoid(p) + logsigmoid(-q) + math.log1p(-math.exp(-1 / self.softness))

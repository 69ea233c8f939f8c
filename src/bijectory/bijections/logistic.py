r"""Sigmoid, Logit and Tanh: the real line against a bounded interval.

Rounding makes bounded maps reach their bounds: in float32 :math:`\sigma(17) = 1`. So the *closed* interval is accepted, and
a value exactly on a bound counts as lying inside it by half the machine precision relative to the bound (by the smallest
normal number where the bound is zero), which keeps the map monotone, leaves every other value untouched, and gives finite
answers on both bounds. ``edge`` widens that strip.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import where_valid


def _gap(bound: float, dtype: torch.dtype) -> float:
    """At most the distance from ``bound`` to its neighbours in ``dtype``, and a normal number."""
    info = torch.finfo(dtype)
    return max(abs(bound) * info.eps / 2, info.tiny)


def _sigmoid(x: Tensor, lower: float, upper: float) -> tuple[Tensor, Tensor]:
    width = upper - lower
    # Each half is measured from its own bound, where floating-point numbers may be dense (around zero).
    y = torch.where(x < 0, lower + width * torch.sigmoid(x), upper - width * torch.sigmoid(-x))
    return y, math.log(width) + logsigmoid(x) + logsigmoid(-x)


def _logit(y: Tensor, lower: float, upper: float, edge: float) -> tuple[Tensor, Tensor]:
    width = upper - lower
    u = y.clamp(lower + edge * width, upper - edge * width)
    low = (u - lower).clamp(min=_gap(lower, y.dtype)).log()
    high = (upper - u).clamp(min=_gap(upper, y.dtype)).log()
    valid = (y >= lower) & (y <= upper)
    return where_valid(valid, low - high), where_valid(valid, math.log(width) - low - high)


def _check_interval(lower: float, upper: float, edge: float) -> None:
    check(
        math.isfinite(lower) and math.isfinite(upper) and lower < upper,
        ConfigError,
        f"the bounds must be finite with lower < upper, got lower={lower!r}, upper={upper!r}.",
    )
    check(0 <= edge < 0.5, ConfigError, f"edge is a fraction of the width in [0, 0.5), got {edge!r}.")


@dataclasses.dataclass(frozen=True)
class Sigmoid(Bijection):
    r"""Sigmoid :math:`y = l + (u - l)\,\sigma(x)`, from the real line into :math:`[l, u]`.

    :math:`\log|dy/dx| = \log(u - l) + \log\sigma(x) + \log\sigma(-x)`. No parameters. See ``Logit`` for the inverse.

    Args:
        lower: The bound ``l``.
        upper: The bound ``u``.
        edge: As in ``Logit``, for the inverse.

    Raises:
        ConfigError: If the bounds are not finite and ordered, or ``edge`` is not in ``[0, 0.5)``.

    Example:
        >>> y, ladj = Sigmoid(lower=-1.0, upper=3.0).forward(torch.tensor([0.0]), torch.zeros(0, 1))
        >>> y.item(), ladj.item()
        (1.0, 0.0)
    """

    lower: float = 0.0
    upper: float = 1.0
    edge: float = 0.0

    def __post_init__(self) -> None:
        _check_interval(self.lower, self.upper, self.edge)

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _sigmoid(x, self.lower, self.upper)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _logit(y, self.lower, self.upper, self.edge)


@dataclasses.dataclass(frozen=True)
class Logit(Bijection):
    r"""Logit :math:`y = \log\frac{x - l}{u - x}`, from :math:`[l, u]` onto the real line.

    :math:`\log|dy/dx| = \log(u - l) - \log(x - l) - \log(u - x)`. No parameters.

    A value exactly on a bound counts as lying inside it by the smallest step that floating-point numbers make there: 1
    maps to 16.6 in float32 and to 36.7 in float64, but 0, around which numbers are dense, to -87.3 and -708.4. With
    ``edge > 0`` every value nearer to a bound than ``edge * (u - l)`` counts as lying at that distance: gentler on data
    that touch their bounds, at the price of a map that is constant on two thin strips. Outside ``[l, u]`` value and
    log-derivative are NaN.

    Args:
        lower: The bound ``l``.
        upper: The bound ``u``.
        edge: Fraction of the width, see above.

    Raises:
        ConfigError: If the bounds are not finite and ordered, or ``edge`` is not in ``[0, 0.5)``.

    Example:
        >>> y, ladj = Logit().forward(torch.tensor([0.5, 1.5]), torch.zeros(0, 2))
        >>> y.tolist(), [round(v, 4) for v in ladj.tolist()]
        ([0.0, nan], [1.3863, nan])
    """

    lower: float = 0.0
    upper: float = 1.0
    edge: float = 0.0

    def __post_init__(self) -> None:
        _check_interval(self.lower, self.upper, self.edge)

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _logit(x, self.lower, self.upper, self.edge)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return _sigmoid(y, self.lower, self.upper)


@dataclasses.dataclass(frozen=True)
class Tanh(Bijection):
    r"""Hyperbolic tangent :math:`y = \tanh x`, from the real line into :math:`[-1, 1]`.

    :math:`\log|dy/dx| = \log 4 + \log\sigma(2x) + \log\sigma(-2x)`. The inverse is
    :math:`\tfrac12(\log(1 + y) - \log(1 - y))`, accurate relative to ``y`` around zero and finite on
    :math:`\pm 1`. No parameters.

    Example:
        >>> y, ladj = Tanh().forward(torch.tensor([0.0]), torch.zeros(0, 1))
        >>> y.item(), ladj.item()
        (0.0, 0.0)
    """

    @property
    def n_params(self) -> int:
        return 0

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return x.tanh(), 2 * math.log(2) + logsigmoid(2 * x) + logsigmoid(-2 * x)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        inside = 1 - _gap(1.0, y.dtype)
        u = y.clamp(-inside, inside)
        plus, minus = torch.log1p(u), torch.log1p(-u)
        valid = y.abs() <= 1
        return where_valid(valid, (plus - minus) / 2), where_valid(valid, -plus - minus)

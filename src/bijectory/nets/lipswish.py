r"""Activations with slopes between -1 and 1, that push tangents along and pull cotangents back.

``push(x, t)`` gives the value and, for every direction ``t`` in which ``x`` moves, that in which the value does. Jacobians
go through a network by hand, layer by layer: cheaper than differentiating twice, and in graphs that can be exported.
``bend`` gives the value and its slopes, through which ``pull`` takes cotangents back, as often as is wanted.
"""

import abc
import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import softplus

SLOPE = 1.1  # above 1.09984, the largest slope of x sigmoid(x), at x = 2.3994
PAIR = 1.004  # above sqrt(s^2 + (1 - s)^2) / 1.1 with that slope s: of the pair LipSwish(x), LipSwish(-x)


class Activation(nn.Module, abc.ABC):
    """An elementwise function whose Lipschitz constant is 1 at most.

    Attributes:
        widens: Outputs for each input.
    """

    widens: int = 1

    @abc.abstractmethod
    def push(self, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Value at ``x`` and tangents ``(n, *x.shape)`` (or what broadcasts to it) pushed along; None stays None."""

    @abc.abstractmethod
    def bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Value at ``x`` and the slope of every output."""

    def pull(self, slopes: Tensor, t: Tensor) -> Tensor:
        """Cotangents ``(n, *batch, *outputs)`` through the ``slopes`` of ``bend``: those of the input."""
        return slopes * t

    def forward(self, x: Tensor) -> Tensor:
        """Value alone."""
        return self.push(x, None)[0]


class LipSwish(Activation):
    r"""Activation :math:`x\,\sigma(\beta x) / 1.1` with slopes between -0.1 and 1 and a learned :math:`\beta > 0`.

    Args:
        start: Initial :math:`\beta`, as published; larger is more curved.

    References:
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen 2019, arXiv:1906.02735.

    Example:
        >>> LipSwish()(torch.zeros(2)).tolist()
        [0.0, 0.0]
    """

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        self.start = start
        self.beta = _raw_beta(start)

    def push(self, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if t is None:
            return x * (torch.sigmoid(softplus(self.beta) * x) / SLOPE), None
        value, slope = self.bend(x)
        return value, slope * t

    def bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        beta = softplus(self.beta)
        gate = torch.sigmoid(beta * x)
        share = gate / SLOPE
        value = x * share
        return value, torch.addcmul(share, beta * value, 1 - gate)


class CLipSwish(Activation):
    r"""Concatenated activation :math:`[\,\mathrm{LipSwish}(x), \mathrm{LipSwish}(-x)\,] / 1.004`, twice as wide.

    Its Lipschitz constant is 1 like that of ``LipSwish``, although its length is that of both parts.

    Args:
        dim: The channels, counted from the right.
        start: Initial :math:`\beta`, as published; larger is more curved.

    References:
        Invertible DenseNets with Concatenated LipSwish, Perugachi-Diaz, Tomczak, Bhulai 2021, arXiv:2102.02694.

    Example:
        >>> CLipSwish()(torch.zeros(5, 2)).shape
        torch.Size([5, 4])
    """

    widens = 2

    def __init__(self, dim: int = -1, start: float = 0.5) -> None:
        super().__init__()
        check(dim < 0, ConfigError, f"dim must be counted from the right, -1 or -3, got {dim}.")
        self.dim, self.start = dim, start
        self.beta = _raw_beta(start)

    def push(self, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor | None]:
        u = softplus(self.beta) * x
        gate, scale = torch.sigmoid(u), 1 / (SLOPE * PAIR)
        value = torch.cat((x * gate, x * (gate - 1)), self.dim) * scale
        if t is None:
            return value, None
        slope = _swish_slope(u, gate)  # of the second part: slope - 1
        return value, torch.cat((slope * t, (slope - 1) * t), self.dim) * scale

    def bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = softplus(self.beta) * x
        gate, scale = torch.sigmoid(u), 1 / (SLOPE * PAIR)
        slope = _swish_slope(u, gate)
        parts = (x * gate, x * (gate - 1)), (slope, slope - 1)
        value, slopes = (torch.cat(pair, self.dim) * scale for pair in parts)
        return value, slopes

    def pull(self, slopes: Tensor, t: Tensor) -> Tensor:
        first, second = (slopes * t).chunk(2, self.dim)
        return first + second


class Pointwise(Activation):
    """A standard activation without parameters.

    Args:
        name: ``"tanh"``, ``"sigmoid"`` or ``"elu"``.

    Raises:
        ConfigError: If the name is unknown.

    Example:
        >>> Pointwise("tanh")(torch.zeros(2)).tolist()
        [0.0, 0.0]
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        known = ("tanh", "sigmoid", "elu")
        check(name in known, ConfigError, f"name={name!r} is unknown; use one of {known}.")
        self.name = name

    def push(self, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y, slope = self.bend(x)
        return y, None if t is None else slope * t

    def bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.name == "tanh":
            y = torch.tanh(x)
            slope = 1 - y.square()
        elif self.name == "sigmoid":
            y = torch.sigmoid(x)
            slope = y * (1 - y)
        else:
            y = nn.functional.elu(x)
            slope = 1 + y.clamp(max=0)
        return y, slope


def _raw_beta(start: float) -> nn.Parameter:
    """The parameter whose softplus is ``start``."""
    check(0 < start < math.inf, ConfigError, f"start must be a positive finite number, got {start!r}.")
    return nn.Parameter(torch.tensor(start + math.log(-math.expm1(-start))))


def _swish_slope(u: Tensor, gate: Tensor) -> Tensor:
    return gate * (1 + u * (1 - gate))

"""Convolutional conditioners: images ``(*batch, channels, height, width)`` to images of the same size."""

import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.ops.image import conv2d
from bijectory.ops.shape import linear


class Conv(nn.Module):
    """Convolution that keeps height and width, plus an optional additive context term without bias.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result.
        kernel: Odd width of the kernel.
        context: Width of ``c``; the context enters as a bias, so one row of ``c`` serves many images.
        scale: Multiplies the initial weights.

    Example:
        >>> Conv(3, 8, context=2)(torch.zeros(5, 3, 4, 4), torch.zeros(2)).shape
        torch.Size([5, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, context: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        check(kernel >= 1 and kernel % 2 == 1, ConfigError, f"kernel must be odd, got {kernel}.")
        self.inputs, self.outputs, self.kernel, self.context, self.scale = inputs, outputs, kernel, context, scale
        bound = scale / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        bound = scale / math.sqrt(max(context, 1))
        self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-bound, bound)) if context else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Apply the layer; ``c`` is ``(*batch, context)`` and broadcasts against the batch of ``x``."""
        out = conv2d(x, self.weight, self.bias)
        if c is None or self.context_weight is None:
            return out
        return out + linear(c, self.context_weight).unsqueeze(-1).unsqueeze(-1)


class ConvNet(nn.Module):
    """Glow's conditioner: 3x3, 1x1 and 3x3 convolutions, the last one zero at the start.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result (for a coupling: ``n_params * channels``, plane-major).
        hidden: Channels of the two hidden layers.
        context: Width of ``c``, 0 for none.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.
        head_scale: Multiplies the initial weights of the last layer; 0 starts at ``phi = 0``.

    Raises:
        ConfigError: On a width below 1 or an unknown activation.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, sec. 3.3 (without the data-dependent scaling of hidden layers).

    Example:
        >>> ConvNet(2, 4, hidden=8, context=3)(torch.zeros(5, 2, 4, 4), torch.zeros(3)).abs().max().item()
        0.0
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 64,
        context: int = 0,
        activation: str = "relu",
        head_scale: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(inputs, outputs, hidden, context)
        check_activation(activation)
        self.inputs, self.outputs, self.hidden, self.context = inputs, outputs, hidden, context
        self.activation, self.head_scale = activation, head_scale
        gain = math.sqrt(6.0)  # He: keeps the variance through rectifiers
        self.first = Conv(inputs, hidden, 3, context, gain)
        self.second = Conv(hidden, hidden, 1, scale=gain)
        self.head = Conv(hidden, outputs, 3, scale=head_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network; ``c`` broadcasts against the batch of ``x``."""
        act = ACTIVATIONS[self.activation]
        return self.head(act(self.second(act(self.first(x, c)))))


def check_widths(inputs: int, outputs: int, hidden: int, context: int) -> None:
    """Raise ``ConfigError`` unless the widths of a network are possible."""
    ok = min(inputs, outputs, hidden) >= 1 and context >= 0
    message = f"inputs={inputs}, outputs={outputs}, hidden={hidden} must be at least 1, context={context} at least 0."
    check(ok, ConfigError, message)


def check_activation(name: str) -> None:
    """Raise ``ConfigError`` unless the activation is known."""
    check(name in ACTIVATIONS, ConfigError, f"activation={name!r} is unknown; use one of {list(ACTIVATIONS)}.")

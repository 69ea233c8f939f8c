"""Convolutional conditioners: images ``(*batch, channels, height, width)`` to images of the same size."""

import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.ops.image import channel_major, channels_last, conv2d
from bijectory.ops.rectified import rectified
from bijectory.ops.shape import linear


class Conv(nn.Module):
    """Convolution that keeps height and width (divides them by its stride), plus an additive context term without bias.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result.
        kernel: Odd width of the kernel.
        context: Width of ``c``; the context enters as a bias, so one row of ``c`` serves many images.
        scale: Multiplies the initial weights.
        weight_norm: Train length and direction of every output's weights apart (Salimans, Kingma 2016, arXiv:1602.07868).
        stride: Every which pixel of both directions is kept.

    Example:
        >>> Conv(3, 8, context=2)(torch.zeros(5, 3, 4, 4), torch.zeros(2)).shape
        torch.Size([5, 8, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        context: int = 0,
        scale: float = 1.0,
        *,
        weight_norm: bool = False,
        stride: int = 1,
    ) -> None:
        super().__init__()
        check(kernel >= 1 and kernel % 2 == 1, ConfigError, f"kernel must be odd, got {kernel}.")
        check(stride >= 1, ConfigError, f"stride must be at least 1, got {stride}.")
        self.inputs, self.outputs, self.kernel, self.context, self.scale = inputs, outputs, kernel, context, scale
        bound = scale / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_norm, self.stride = weight_norm, stride
        self.gain = nn.Parameter(self._lengths().detach()) if weight_norm else None
        bound = scale / math.sqrt(max(context, 1))
        self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-bound, bound)) if context else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Apply the layer; ``c`` is ``(*batch, context)`` and broadcasts against the batch of ``x``."""
        weight: Tensor = self.weight
        if self.gain is not None:
            weight = (self.gain / self._lengths()).reshape(-1, 1, 1, 1) * weight
        out = conv2d(x, weight, self.bias, self.stride)
        if c is None or self.context_weight is None:
            return out
        return out + linear(c, self.context_weight).unsqueeze(-1).unsqueeze(-1)

    def _lengths(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight.flatten(1), dim=1) + torch.finfo(self.weight.dtype).tiny


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
        if self.activation == "relu" and not self.context:
            layers = (self.first, self.second, self.head)
            return channel_major(rectified(x, [m.weight for m in layers], [m.bias for m in layers]))
        act = ACTIVATIONS[self.activation]
        return channel_major(self.head(act(self.second(act(self.first(channels_last(x), c))))))


class ConvResNet(nn.Module):
    """Real NVP's conditioner: residual blocks of two weight-normalised 3x3 convolutions, all blocks joined at the end.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result (for a coupling: ``n_params * channels``, plane-major).
        hidden: Channels of the blocks.
        blocks: Number of blocks.
        context: Width of ``c``, 0 for none; every block reads it.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.
        head_scale: Multiplies the initial weights of the last layer; 0 starts at ``phi = 0``.

    Raises:
        ConfigError: On a width or number of blocks below 1, or an unknown activation.

    References:
        Real NVP, Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803, sec. 3.7 and 4.1 (without its batch normalisation).

    Example:
        >>> ConvResNet(2, 4, hidden=8, context=3)(torch.zeros(5, 2, 4, 4), torch.zeros(3)).shape
        torch.Size([5, 4, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 32,
        blocks: int = 2,
        context: int = 0,
        activation: str = "relu",
        head_scale: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(inputs, outputs, hidden, context)
        check_activation(activation)
        check(blocks >= 1, ConfigError, f"blocks must be at least 1, got {blocks}.")
        self.inputs, self.outputs, self.hidden, self.blocks, self.context = inputs, outputs, hidden, blocks, context
        self.activation, self.head_scale = activation, head_scale
        self.first = Conv(inputs, hidden, 3, context, math.sqrt(3.0), weight_norm=True)
        widen, merge = math.sqrt(6.0), math.sqrt(3.0 / blocks)  # He; and a sum of branches as large as one
        self.enter = nn.ModuleList(Conv(hidden, hidden, 3, context, widen, weight_norm=True) for _ in range(blocks))
        self.leave = nn.ModuleList(Conv(hidden, hidden, 3, 0, merge, weight_norm=True) for _ in range(blocks))
        self.skip = nn.ModuleList(Conv(hidden, hidden, 1, 0, merge, weight_norm=True) for _ in range(blocks))
        self.head = Conv(hidden, outputs, 1, scale=head_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network; ``c`` broadcasts against the batch of ``x``."""
        act = ACTIVATIONS[self.activation]
        h: Tensor = self.first(x, c)
        joined = h
        for enter, leave, skip in zip(self.enter, self.leave, self.skip, strict=True):
            h = h + leave(act(enter(act(h), c)))
            joined = joined + skip(h)
        return self.head(act(joined))


def check_widths(inputs: int, outputs: int, hidden: int, context: int) -> None:
    """Raise ``ConfigError`` unless the widths of a network are possible."""
    ok = min(inputs, outputs, hidden) >= 1 and context >= 0
    message = f"inputs={inputs}, outputs={outputs}, hidden={hidden} must be at least 1, context={context} at least 0."
    check(ok, ConfigError, message)


def check_activation(name: str) -> None:
    """Raise ``ConfigError`` unless the activation is known."""
    check(name in ACTIVATIONS, ConfigError, f"activation={name!r} is unknown; use one of {list(ACTIVATIONS)}.")

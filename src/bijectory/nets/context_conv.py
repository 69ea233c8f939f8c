"""A context that is an image."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.conv import ConvNet


class ContextConv(nn.Module):
    """Convolutional conditioner whose context is an image, flat: ``net(a, c)`` reads ``c`` only.

    Every output belongs to a pixel and sees its neighbourhood of 5 x 5 pixels.

    Args:
        shape: ``(channels, height, width)`` of the image that ``c`` holds.
        n_params: Outputs for each value of the image.
        hidden: Channels of the hidden layers.

    Raises:
        ConfigError: If the shape is not that of an image.

    Example:
        >>> import torch
        >>> ContextConv((1, 4, 4), 2, hidden=8)(torch.zeros(5, 0), torch.zeros(5, 16)).shape
        torch.Size([5, 32])
    """

    def __init__(self, shape: Sequence[int], n_params: int, hidden: int = 32) -> None:
        super().__init__()
        self.shape, self.n_params, self.hidden = tuple(int(n) for n in shape), n_params, hidden
        ok = len(self.shape) == 3 and all(n >= 1 for n in self.shape)
        check(ok, ConfigError, f"shape={self.shape} must be (channels, height, width).")
        self.net = ConvNet(self.shape[0], n_params * self.shape[0], hidden)

    def forward(self, a: Tensor, c: Tensor) -> Tensor:
        """Return ``(*batch, n_params * pixels)``, one plane after the other, from ``c`` ``(*batch, pixels)``."""
        check(c.shape[-1] == math.prod(self.shape), ConfigError, f"the context is no image of shape {self.shape}.")
        return self.net(c.unflatten(-1, self.shape)).flatten(-3)

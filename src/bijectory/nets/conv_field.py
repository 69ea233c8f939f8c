"""Vector fields for images ``(channels, height, width)``: one resolution, and the block that the U-Net shares."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.clock import Embedding, Modulation
from bijectory.nets.conv import Conv
from bijectory.nets.field import Field
from bijectory.nets.mlp import HEAD_SCALE
from bijectory.nets.residual_field import check_smooth
from bijectory.ops.image import group_norm
from bijectory.ops.shape import expand_to_context


class ConvField(Field):
    """Residual convolutional network on one resolution, every block modulated by time and context.

    Takes images of any size, and sees ``2 * blocks + 2`` pixels in every direction. Without normalisation by default, as
    suits the long solutions of maximum likelihood; ``groups`` switches it on.

    Args:
        shape: ``(channels, height, width)``.
        context: Width of the context, 0 for none; every block reads it.
        hidden: Channels of the blocks.
        blocks: Number of blocks.
        activation: A smooth one: ``"silu"``, ``"tanh"``, ``"softplus"`` or ``"gelu"``.
        groups: Groups of the normalisation of channels, a divisor of ``hidden``; 0 for none.
        frequencies: Number of frequencies of time; each more asks for more steps of the solver.
        head_scale: Multiplies the initial weights of the last layer; a small field is a map near the identity.

    Raises:
        ConfigError: On a shape, a width, a number or an activation out of range.

    Example:
        >>> import torch
        >>> field = ConvField((1, 5, 4), context=3, hidden=8)
        >>> field(torch.tensor(0.5), torch.zeros(7, 1, 5, 4), torch.zeros(3)).shape
        torch.Size([7, 1, 5, 4])
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int = 0,
        hidden: int = 32,
        blocks: int = 2,
        activation: str = "silu",
        groups: int = 0,
        frequencies: int = 4,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        self.shape = self.event_shape = check_image(shape, hidden, context, groups)
        check(blocks >= 0, ConfigError, f"blocks must not be negative, got {blocks}.")
        check_smooth(activation)
        self.context, self.hidden, self.blocks, self.activation = context, hidden, blocks, activation
        self.groups, self.frequencies, self.head_scale = groups, frequencies, head_scale
        width = 2 * hidden
        self.embedding = Embedding(width, context, frequencies)
        self.first = Conv(self.shape[0], hidden, 3, scale=math.sqrt(3.0))
        self.enter = Modulation(width, hidden, 2)
        self.stack = ConvBlocks(hidden, hidden, blocks, width, activation, groups)
        self.head = Conv(hidden, self.shape[0], 3, scale=head_scale)

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        embedding = self.embedding(t, c if self.context else None)
        scale, shift = self.enter(embedding)
        h = self.first(expand_to_context(z, embedding, 3)) * scale + shift
        h = self.stack(h, embedding)
        return self.head(ACTIVATIONS[self.activation](normalized(h, self.groups)))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with normalisation and activation before each, modulated between, added to the input.

    Args:
        inputs: Channels that enter.
        outputs: Channels that leave; where they differ a 1x1 convolution carries the input over.
        width: Width of the embedding of time and context.
        activation: A smooth one.
        groups: Groups of the normalisation, 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, width: int, activation: str, groups: int) -> None:
        super().__init__()
        self.activation, self.groups = activation, groups
        self.enter = Conv(inputs, outputs, 3, scale=math.sqrt(3.0))
        self.modulation = Modulation(width, outputs, 2)
        self.leave = Conv(outputs, outputs, 3, scale=math.sqrt(3.0))
        self.skip = Conv(inputs, outputs, 1, scale=math.sqrt(3.0)) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """The images ``(*batch, outputs, height, width)``; ``h`` has the batch of the embedding already."""
        act = ACTIVATIONS[self.activation]
        scale, shift = self.modulation(embedding)
        inner = normalized(self.enter(act(normalized(h, self.groups))), self.groups) * scale + shift
        return self.skip(h) + self.leave(act(inner))


class ConvBlocks(nn.Module):
    """Blocks one after the other, the first of which changes the number of channels; see ``ConvBlock``."""

    def __init__(self, inputs: int, outputs: int, blocks: int, width: int, activation: str, groups: int) -> None:
        super().__init__()
        sizes = [inputs, *[outputs] * blocks]
        self.blocks = nn.ModuleList(ConvBlock(i, outputs, width, activation, groups) for i in sizes[:-1])

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Apply them all."""
        for block in self.blocks:
            h = block(h, embedding)
        return h


def normalized(h: Tensor, groups: int) -> Tensor:
    """Normalise the channels in groups, or not at all."""
    return group_norm(h, groups) if groups else h


def check_image(shape: Sequence[int], hidden: int, context: int, groups: int) -> tuple[int, int, int]:
    """The shape as plain integers.

    Raises:
        ConfigError: If the shape is not that of an image, or a width does not fit.
    """
    sides = tuple(int(n) for n in shape)
    check(len(sides) == 3 and min(sides) >= 1, ConfigError, f"shape={sides} must be (channels, height, width).")
    check(
        hidden >= 1 and context >= 0, ConfigError, f"hidden={hidden} must be at least 1, context={context} at least 0."
    )
    divides = groups >= 0 and hidden % max(groups, 1) == 0
    check(divides, ConfigError, f"groups={groups} must divide hidden={hidden}, or be 0 for no normalisation.")
    return sides[0], sides[1], sides[2]

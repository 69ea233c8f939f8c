"""The U-Net as a vector field."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.clock import Embedding
from bijectory.nets.conv import Conv
from bijectory.nets.conv_field import ConvBlock, ConvBlocks, check_image, normalized
from bijectory.nets.field import Field
from bijectory.nets.gated import positions
from bijectory.nets.mlp import HEAD_SCALE
from bijectory.nets.residual_field import check_smooth
from bijectory.nets.transformer import attend
from bijectory.ops.image import double
from bijectory.ops.shape import expand_to_context


class UNetField(Field):
    """U-Net: down through coarser images and back up, what was seen on the way down joined in again on the way up.

    Every block is modulated by time and context. Height and width need not be divisible: a coarser image has half the size
    rounded up, and is cut on its way back.

    Args:
        shape: ``(channels, height, width)``; the coarsest image must have at least 2 pixels a side.
        context: Width of the context, 0 for none; every block reads it.
        hidden: Channels on the finest level.
        multipliers: Channels of every level, in units of ``hidden``; as many levels as there are numbers.
        blocks: Blocks of each level, on both ways.
        heads: Heads of self-attention on the coarsest level, a divisor of its channels; 0 for none.
        activation: A smooth one: ``"silu"``, ``"tanh"``, ``"softplus"`` or ``"gelu"``.
        groups: Groups of the normalisation of channels, a divisor of ``hidden``; 0 for none.
        frequencies: Number of frequencies of time; each more asks for more steps of the solver.
        head_scale: Multiplies the initial weights of the last layer; a small field is a map near the identity.

    Raises:
        ConfigError: On an image too small for the levels, or a width, a number or an activation out of range.

    References:
        U-Net, Ronneberger, Fischer, Brox 2015, arXiv:1505.04597.
        Denoising Diffusion Probabilistic Models, Ho, Jain, Abbeel 2020, arXiv:2006.11239, app. B (blocks, attention).

    Example:
        >>> field = UNetField((1, 7, 6), context=3, hidden=8, multipliers=(1, 2), groups=4)
        >>> field(torch.tensor(0.5), torch.zeros(5, 1, 7, 6), torch.zeros(3)).shape
        torch.Size([5, 1, 7, 6])
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int = 0,
        hidden: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        heads: int = 0,
        activation: str = "silu",
        groups: int = 8,
        frequencies: int = 4,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        self.shape = self.event_shape = check_image(shape, hidden, context, groups)
        self.multipliers = tuple(int(m) for m in multipliers)
        ok = len(self.multipliers) >= 1 and min(self.multipliers) >= 1
        check(ok, ConfigError, f"multipliers={self.multipliers} must be numbers of at least 1, one for each level.")
        check(blocks >= 1, ConfigError, f"blocks must be at least 1, got {blocks}.")
        check_smooth(activation)
        widths = [hidden * m for m in self.multipliers]
        levels, coarsest = len(widths), min(-(-n // 2 ** (len(widths) - 1)) for n in self.shape[1:])
        check(
            levels == 1 or coarsest >= 2,
            ConfigError,
            f"shape={self.shape} is too small for {levels} levels; pass fewer multipliers.",
        )
        divides = heads >= 0 and widths[-1] % max(heads, 1) == 0
        check(divides, ConfigError, f"heads={heads} must divide {widths[-1]} channels, or be 0 for no attention.")
        self.context, self.hidden, self.blocks, self.heads, self.activation = context, hidden, blocks, heads, activation
        self.groups, self.frequencies, self.head_scale = groups, frequencies, head_scale
        width = 4 * hidden

        def stack(inputs: int, outputs: int) -> ConvBlocks:
            return ConvBlocks(inputs, outputs, blocks, width, activation, groups)

        self.embedding = Embedding(width, context, frequencies)
        self.first = Conv(self.shape[0], hidden, 3, scale=math.sqrt(3.0))
        self.down = nn.ModuleList(stack(i, o) for i, o in zip([hidden, *widths[:-1]], widths, strict=True))
        self.coarsen = nn.ModuleList(Conv(w, w, 3, scale=math.sqrt(3.0), stride=2) for w in widths[:-1])
        self.attention = PixelAttention(widths[-1], heads, groups) if heads else None
        self.middle = ConvBlock(widths[-1], widths[-1], width, activation, groups)
        refined = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # from coarse to fine
        self.refine = nn.ModuleList(Conv(i, o, 3, scale=math.sqrt(3.0)) for i, o in refined)
        self.up = nn.ModuleList(stack(2 * o, o) for _, o in refined)
        self.head = Conv(hidden * self.multipliers[0], self.shape[0], 3, scale=head_scale)

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        embedding = self.embedding(t, c if self.context else None)
        h, seen = self.first(expand_to_context(z, embedding, 3)), []
        for k, stack in enumerate(self.down):
            h = stack(h, embedding)
            if k < len(self.coarsen):
                seen.append(h)
                h = self.coarsen[k](h)
        if self.attention is not None:
            h = self.attention(h)
        h = self.middle(h, embedding)
        for refine, stack in zip(self.refine, self.up, strict=True):
            skip = seen.pop()
            h = stack(torch.cat((refine(double(h, *skip.shape[-2:])), skip), -3), embedding)
        return self.head(ACTIVATIONS[self.activation](normalized(h, self.groups)))


class PixelAttention(nn.Module):
    """Self-attention over the pixels, added to its input.

    Args:
        channels: Channels of the images.
        heads: Number of heads.
        groups: Groups of the normalisation before it, 0 for none.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.leave = nn.Linear(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """``(*batch, channels, height, width)`` to the same shape."""
        tokens = normalized(h, self.groups).flatten(-2).mT
        placed = tokens + positions(h.shape[-2], h.shape[-1], h.shape[-3]).to(h)
        query, key, value = self.query_key_value(placed).unflatten(-1, (3, self.heads, -1)).movedim(-4, -2).unbind(-4)
        out = self.leave(attend(query, key, value).transpose(-3, -2).flatten(-2))
        return h + out.mT.unflatten(-1, h.shape[-2:])

"""Flow++'s conditioner: gated convolutions and self-attention over the pixels."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from bijectory.errors import ConfigError, check
from bijectory.nets.conv import Conv, check_widths
from bijectory.nets.transformer import attend


class GatedConvNet(nn.Module):
    """Blocks of a gated convolution and of self-attention, each added to its input and normalised.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result (for a coupling: ``n_params * channels``, plane-major).
        hidden: Channels of the blocks.
        blocks: Number of blocks.
        heads: Attention heads, a divisor of ``hidden``; 0 for none: attention costs the square of the number of pixels.
        context: Width of ``c``, 0 for none; every block reads it.
        head_scale: Multiplies the initial weights of the last layer; 0 starts at ``phi = 0``.

    Raises:
        ConfigError: On an impossible width or number of blocks, or if ``heads`` does not divide ``hidden``.

    References:
        Flow++, Ho, Chen, Srinivas, Duan, Abbeel 2019, arXiv:1902.00275, sec. 3.3 and fig. 3 (here without dropout).

    Example:
        >>> GatedConvNet(2, 4, hidden=8, heads=2, context=3)(torch.zeros(5, 2, 4, 4), torch.zeros(3)).shape
        torch.Size([5, 4, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int = 32,
        blocks: int = 2,
        heads: int = 4,
        context: int = 0,
        head_scale: float = 0.0,
    ) -> None:
        super().__init__()
        check_widths(inputs, outputs, hidden, context)
        check(blocks >= 1, ConfigError, f"blocks must be at least 1, got {blocks}.")
        divides = heads >= 0 and hidden % max(heads, 1) == 0
        check(divides, ConfigError, f"heads={heads} must divide hidden={hidden}, or be 0 for no attention.")
        self.inputs, self.outputs, self.hidden, self.blocks = inputs, outputs, hidden, blocks
        self.heads, self.context, self.head_scale = heads, context, head_scale
        self.first = Conv(inputs, hidden, 3, context, math.sqrt(3.0))
        self.gated = nn.ModuleList(_Gated(hidden, context) for _ in range(blocks))
        self.attention = nn.ModuleList(_Attention(hidden, heads) for _ in range(blocks if heads else 0))
        self.head = Conv(hidden, outputs, 3, scale=head_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network; ``c`` broadcasts against the batch of ``x``."""
        h = self.first(x, c)
        for k, gated in enumerate(self.gated):
            h = gated(h, c)
            if self.heads:
                h = self.attention[k](h)
        return self.head(h)


class _Gated(nn.Module):
    """Two convolutions with a doubled ELU, gated: ``norm(h + a * sigmoid(b))``."""

    def __init__(self, hidden: int, context: int) -> None:
        super().__init__()
        self.enter = Conv(2 * hidden, hidden, 3, context, math.sqrt(3.0))
        self.leave = Conv(2 * hidden, 2 * hidden, 1, scale=math.sqrt(3.0))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        a, b = self.leave(_both_signs(self.enter(_both_signs(h), c))).chunk(2, -3)
        return _to_image(self.norm(_to_tokens(h + a * torch.sigmoid(b))), h)


class _Attention(nn.Module):
    """Self-attention over the pixels, gated: ``norm(h + a * sigmoid(b))``."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden, bias=False)
        self.leave = nn.Linear(hidden, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, h: Tensor) -> Tensor:
        tokens = _to_tokens(h)
        placed = tokens + positions(h.shape[-2], h.shape[-1], h.shape[-3]).to(h)
        split = self.query_key_value(placed).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.movedim(-4, -2).unbind(-4)
        a, b = self.leave(attend(query, key, value).transpose(-3, -2).flatten(-2)).chunk(2, -1)
        return _to_image(self.norm(tokens + a * torch.sigmoid(b)), h)


def positions(height: int, width: int, channels: int) -> Tensor:
    r"""Fixed codes of the places of pixels, ``(height * width, channels)``.

    Half of the channels tells the row, the other half the column, each in sines and cosines of wavelengths from
    :math:`2\pi` to :math:`2\pi \cdot 10^3`.
    """
    quarter = -(-channels // 4)
    rates = torch.exp(torch.arange(quarter) * (-math.log(1e3) / quarter))
    rows, columns = (torch.arange(n).unsqueeze(-1) * rates for n in (height, width))
    row, column = (torch.cat((t.sin(), t.cos()), -1) for t in (rows, columns))
    both = (row.unsqueeze(1).expand(-1, width, -1), column.unsqueeze(0).expand(height, -1, -1))
    return torch.cat(both, -1).flatten(0, 1)[:, :channels]


def _both_signs(h: Tensor) -> Tensor:
    return elu(torch.cat((h, -h), -3))


def _to_tokens(h: Tensor) -> Tensor:
    return h.flatten(-2).mT


def _to_image(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.mT.unflatten(-1, like.shape[-2:])

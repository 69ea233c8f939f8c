r"""Time, and a context beside it, as the networks of vector fields read them.

A clock of :math:`t, \cos k \pi t, \sin k \pi t` for :math:`k = 1, \dots, K` tells times apart that :math:`t` alone leaves
almost equal. ``Embedding`` mixes it with the context into one vector for a row; every block of a field reads that vector
through a modulation of its own, a scale and a shift of its hidden units.

References:
    FiLM: Visual Reasoning with a General Conditioning Layer, Perez, Strub, de Vries, Dumoulin, Courville 2017,
    arXiv:1709.07871, eq. 1-2.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from bijectory.errors import ConfigError, check
from bijectory.nets.mlp import Dense


def clock(t: Tensor, frequencies: int) -> Tensor:
    """Time in waves, ``(*batch,) -> (*batch, 1 + 2 * frequencies)``: itself, cosines, sines.

    Example:
        >>> clock(torch.tensor(0.0), 2).tolist()
        [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    t = t.unsqueeze(-1)
    angles = [math.pi * k * t for k in range(1, frequencies + 1)]
    return torch.cat((t, *(a.cos() for a in angles), *(a.sin() for a in angles)), -1)


class Embedding(nn.Module):
    """One vector for the time and the context of a row.

    Args:
        width: Width of the vector.
        context: Width of the context, 0 for none.
        frequencies: Number of frequencies of the clock.
    """

    def __init__(self, width: int, context: int = 0, frequencies: int = 4) -> None:
        super().__init__()
        check(frequencies >= 0, ConfigError, f"frequencies must not be negative, got {frequencies}.")
        self.width, self.context, self.frequencies = width, context, frequencies
        self.first = Dense(1 + 2 * frequencies, width, context)

    def forward(self, t: Tensor, c: Tensor | None = None) -> Tensor:
        """The vector ``(*batch, width)``; the batch is that of ``t`` and ``c`` together."""
        return silu(self.first(clock(t, self.frequencies), c))


class Modulation(nn.Module):
    r"""Scale and shift of hidden units by an embedding: :math:`h (1 + s) + b`.

    Args:
        width: Width of the embedding.
        hidden: Number of hidden units, or of channels of an image.
        trailing: Number of dimensions of ``h`` behind its units: 2 for an image.
    """

    def __init__(self, width: int, hidden: int, trailing: int = 0) -> None:
        super().__init__()
        self.width, self.hidden, self.trailing = width, hidden, trailing
        self.head = Dense(width, 2 * hidden)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """``1 + s`` and ``b``, shaped to broadcast against ``h``."""
        scale, shift = self.head(embedding).chunk(2, -1)
        ones = (1,) * self.trailing
        return tuple(u.reshape(*u.shape, *ones) for u in (1 + scale, shift))

r"""Transformers over tokens: causal with an explicit key-value cache, and bidirectional (ViT).

A token is a vector; a sequence ``(*batch, tokens, width)`` passes through pre-norm blocks

.. math:: h \leftarrow h + \mathrm{Attention}(\mathrm{LN}(h)), \qquad h \leftarrow h + \mathrm{MLP}(\mathrm{LN}(h)).

Positions are learned; the context enters as an embedding added to every token. The last normalisation bounds what the head
sees, so outputs stay bounded however large the inputs. Attention is the explicit softmax: the fused kernels of
``scaled_dot_product_attention`` have no second derivatives, and these networks sit inside maps that promise them.
Projections have no bias where it could not matter (softmax forgets what it adds to every key).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.mlp import HEAD_SCALE
from bijectory.ops.scalar import saturate

EXPANSION = 4  # width of the hidden layer of a block's MLP, in widths of the token


class Cache(NamedTuple):
    """What a causal transformer remembers of the tokens it has read: a value, passed in and handed back.

    Attributes:
        keys: For each block ``(*batch, heads, tokens so far, width / heads)``.
        values: The same shapes.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class Block(nn.Module):
    """Pre-norm attention and MLP with residual connections.

    Args:
        width: Width of a token.
        heads: Number of attention heads; divides ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """All tokens at once; ``mask[i, j]`` lets token ``i`` read token ``j``."""
        query, key, value = self._project(h)
        return self._absorb(h, attend(query, key, value, mask))

    def step(self, h: Tensor, keys: Tensor | None, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """One more token ``(*batch, 1, width)`` after those remembered; returns it with the longer memory."""
        query, key, value = self._project(h)
        keys = key if keys is None else torch.cat((keys, key), -2)
        values = value if values is None else torch.cat((values, value), -2)
        return self._absorb(h, attend(query, keys, values)), keys, values

    def _project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(*batch, heads, tokens, width / heads)``."""
        split = self.query_key_value(self.attention_norm(h)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.movedim(-4, -2).unbind(-4)
        return query, key, value

    def _absorb(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.merge(attended.transpose(-3, -2).flatten(-2))
        return h + self.down(ACTIVATIONS["gelu"](self.up(self.mlp_norm(h))))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    r""":math:`\mathrm{softmax}(Q K^\top / \sqrt d)\, V` over the last two dimensions; False in ``mask`` hides a key."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ value


class Trunk(nn.Module):
    """What both transformers are made of: embedding, positions, context, blocks, and the head.

    Args:
        tokens: Length of the sequence.
        inputs: Numbers in each token that enters.
        outputs: Numbers in each token that leaves.
        context: Width of ``c``.
        width: Width of a token inside.
        depth: Number of blocks.
        heads: Number of attention heads.
        head_scale: Multiplies the initial weights of the last layer.
    """

    def __init__(
        self,
        tokens: int,
        inputs: int,
        outputs: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        head_scale: float,
    ) -> None:
        super().__init__()
        check(
            min(tokens, inputs, outputs, width, depth, heads) >= 1 and context >= 0,
            ConfigError,
            f"sizes must be at least 1 (context 0), got tokens={tokens}, inputs={inputs}, outputs={outputs}, "
            f"context={context}, width={width}, depth={depth}, heads={heads}.",
        )
        near = max(n for n in range(1, width + 1) if width % n == 0 and n <= heads)
        check(width % heads == 0, ConfigError, f"heads={heads} must divide width={width}; use heads={near}.")
        self.content = nn.Linear(inputs, width)
        self.position = nn.Parameter(0.1 * torch.randn(tokens, width))
        self.from_context = nn.Linear(context, width, bias=False) if context else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        with torch.no_grad():
            self.head.weight.mul_(head_scale)
            self.head.bias.mul_(head_scale)

    def enter(self, x: Tensor) -> Tensor:
        """Tokens inside, ``(*batch, n, width)``; a layer norm squares, so what would overflow there is read as less."""
        return self.content(saturate(x, 0.4))

    def place(self, first: int, last: int, c: Tensor | None) -> Tensor:
        """Positions ``first … last - 1`` plus the context: ``(*batch of c, last - first, width)``."""
        position = self.position[first:last]
        if self.from_context is None or c is None:
            return position
        return position + self.from_context(c).unsqueeze(-2)

    def leave(self, h: Tensor) -> Tensor:
        """Normalise, and read the outputs off."""
        return self.head(self.norm(h))

    def chain(self) -> list[Block]:
        """The blocks, in order."""
        return list(self.blocks)  # type: ignore[arg-type]


class CausalTransformer(nn.Module):
    """Causal transformer: ``(*batch, tokens, features) -> (*batch, tokens, n_params * features)``.

    Parameters ``t`` depend on the tokens *before* ``t`` and on the context; the first on the context alone. In a token of
    the output, row ``p * features + i`` is parameter ``p`` of feature ``i``. ``begin`` and ``step`` compute the same one
    token after another and hand back a ``Cache``: nothing is remembered inside.

    Args:
        tokens: Length of the sequence.
        features: Numbers in each token.
        n_params: Outputs for each number.
        context: Width of ``c``, 0 for none.
        width: Width of a token inside.
        depth: Number of blocks.
        heads: Number of attention heads; divides ``width``.
        head_scale: Multiplies the initial weights of the last layer; small values start near ``phi = 0``.

    Raises:
        ConfigError: On a size below 1, or if ``heads`` does not divide ``width``.

    References:
        Attention Is All You Need, Vaswani+ 2017, arXiv:1706.03762; On Layer Normalization in the Transformer
        Architecture (pre-norm), Xiong+ 2020, arXiv:2002.04745.

    Example:
        >>> net = CausalTransformer(tokens=5, features=2, n_params=3, context=4, width=8, heads=2)
        >>> x, c = torch.randn(7, 5, 2), torch.randn(4)
        >>> out = net(x, c)
        >>> first, cache = net.begin((7,), c)
        >>> second, cache = net.step(x[:, 0], cache, c)
        >>> out.shape, bool(torch.allclose(torch.stack((first, second), 1), out[:, :2], atol=1e-6))
        (torch.Size([7, 5, 6]), True)
    """

    _mask: Tensor

    def __init__(
        self,
        tokens: int,
        features: int,
        n_params: int,
        context: int = 0,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        self.tokens, self.features, self.n_params, self.context = tokens, features, n_params, context
        self.width, self.depth, self.heads, self.head_scale = width, depth, heads, head_scale
        self.trunk = Trunk(tokens, features, n_params * features, context, width, depth, heads, head_scale)
        self.register_buffer("_mask", torch.ones(tokens, tokens, dtype=torch.bool).tril(), persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """All tokens in one pass; ``c`` broadcasts against the batch of ``x``."""
        before = self.trunk.enter(x[..., : self.tokens - 1, :])
        h = pad(before, (0, 0, 1, 0)) + self.trunk.place(0, self.tokens, c)
        for block in self.trunk.chain():
            h = block(h, self._mask)
        return self.trunk.leave(h)

    def begin(self, batch: tuple[int, ...], c: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Outputs for the first token, before any is known: ``(*batch, n_params * features)``.

        Args:
            batch: The joint batch shape of tokens and context.
            c: Context.
        """
        start = self.trunk.place(0, 1, c)
        nothing = (None,) * self.depth
        return self._advance(start.expand(*batch, *start.shape[-2:]), nothing, nothing)

    def step(self, x: Tensor, cache: Cache, c: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read one more token ``(*batch, features)``; returns the outputs for the next one and the longer cache."""
        at = cache.keys[0].shape[-2]
        h = self.trunk.enter(x).unsqueeze(-2) + self.trunk.place(at, at + 1, c)
        return self._advance(h, cache.keys, cache.values)

    def _advance(
        self, h: Tensor, keys: tuple[Tensor | None, ...], values: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, Cache]:
        memory = []
        for block, key, value in zip(self.trunk.chain(), keys, values, strict=True):
            h, key, value = block.step(h, key, value)
            memory.append((key, value))
        new_keys, new_values = zip(*memory, strict=True)
        return self.trunk.leave(h).squeeze(-2), Cache(new_keys, new_values)


class ViT(nn.Module):
    """Vision transformer for vectors, ``(*batch, tokens * inputs) -> (*batch, n_params * tokens * outputs)``.

    The vector is cut into ``tokens`` tokens of ``inputs`` numbers; every token reads every other and gives ``n_params``
    parameters for each of ``outputs`` numbers. Rows are plane-major, as the wirings want them: row
    ``(p * tokens + t) * outputs + i`` is parameter ``p`` of number ``i`` of token ``t``.

    Args:
        tokens: Length of the sequence.
        inputs: Numbers in each token that enters.
        outputs: Numbers in each token that leaves.
        n_params: Parameters of each number that leaves.
        context: Width of ``c``, 0 for none.
        width: Width of a token inside.
        depth: Number of blocks.
        heads: Number of attention heads; divides ``width``.
        head_scale: Multiplies the initial weights of the last layer; 0 starts at ``phi = 0``.

    Raises:
        ConfigError: On a size below 1, or if ``heads`` does not divide ``width``.

    References:
        An Image is Worth 16x16 Words, Dosovitskiy+ 2020, arXiv:2010.11929, sec. 3.1.

    Example:
        >>> ViT(tokens=4, inputs=3, outputs=2, n_params=2, width=8, heads=2)(torch.zeros(5, 12)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        tokens: int,
        inputs: int,
        outputs: int,
        n_params: int,
        context: int = 0,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        self.tokens, self.inputs, self.outputs, self.n_params, self.context = tokens, inputs, outputs, n_params, context
        self.width, self.depth, self.heads, self.head_scale = width, depth, heads, head_scale
        self.trunk = Trunk(tokens, inputs, n_params * outputs, context, width, depth, heads, head_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network; ``c`` broadcasts against the batch of ``x``."""
        h = self.trunk.enter(x.unflatten(-1, (self.tokens, self.inputs))) + self.trunk.place(0, self.tokens, c)
        for block in self.trunk.chain():
            h = block(h)
        return self.trunk.leave(h).unflatten(-1, (self.n_params, self.outputs)).movedim(-2, -3).flatten(-3)

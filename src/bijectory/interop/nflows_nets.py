"""The conditioners of nflows: residual networks with pre-activation blocks, plain and masked.

They differ from those of ``nets`` in how a context enters, so they are kept as they are to hold imported weights.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import glu

from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.masked import MaskedDense
from bijectory.nets.unrolled import Step
from bijectory.spec import register


class Block(nn.Module):
    """Residual block ``h + W2 a(W1 a(h))``, gated by the context.

    Args:
        hidden: Width.
        context: Width of the context, 0 for none.
        activation: Its name.
    """

    def __init__(self, hidden: int, context: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.first, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.gate = nn.Linear(context, hidden) if context else None

    def forward(self, h: Tensor, c: Tensor | None) -> Tensor:
        """Apply the block; ``c`` has the batch of ``h``."""
        act = ACTIVATIONS[self.activation]
        new = self.second(act(self.first(act(h))))
        return h + (new if self.gate is None or c is None else glu(torch.cat((new, self.gate(c)), -1), -1))


@register
class ResidualConditioner(nn.Module):
    """Residual network ``(x, c) -> (*batch, outputs)`` for a ``Coupling``.

    Args:
        inputs: Width of ``x``.
        outputs: Width of the result.
        hidden: Width of the blocks.
        blocks: Number of blocks.
        context: Width of the context, 0 for none.
        activation: Its name.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int = 64, blocks: int = 2, context: int = 0, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.hidden = inputs, outputs, hidden
        self.context, self.activation = context, activation
        self.initial = nn.Linear(inputs + context, hidden)
        self.steps = nn.ModuleList(Block(hidden, context, activation) for _ in range(blocks))
        self.final = nn.Linear(hidden, outputs)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.steps)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate; ``c`` broadcasts against the batch of ``x``."""
        if c is not None and self.context:
            c = c.expand(*x.shape[:-1], self.context)
            x = torch.cat((x, c), -1)
        h = self.initial(x)
        for block in self.steps:
            h = block(h, c)
        return self.final(h)


@register
class ResidualMade(nn.Module):
    """Masked residual network for an ``Autoregressive`` layer, in the natural order of the features, plane-major rows.

    Sampling takes one pass for each feature; ``MaskedMLP`` does it in about one pass in all.

    Args:
        features: Number of features.
        n_params: Number of outputs for each.
        units: Width of the blocks.
        blocks: Number of blocks.
        context: Width of the context, 0 for none.
        activation: Its name.
    """

    order = None
    adjacency = None

    def __init__(
        self, features: int, n_params: int, units: int, blocks: int = 2, context: int = 0, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.features, self.n_params, self.units = features, n_params, units
        self.blocks, self.context, self.activation = blocks, context, activation
        self.hidden, self.topological, self.levels = (units,) * (2 * blocks + 1), tuple(range(features)), features
        inputs = torch.arange(1, features + 1)
        degrees = torch.arange(units) % max(1, features - 1) + min(1, features - 1)
        inner = degrees[:, None] >= degrees
        self.initial = MaskedDense(degrees[:, None] >= inputs)
        self.first = nn.ModuleList(MaskedDense(inner) for _ in range(blocks))
        self.second = nn.ModuleList(MaskedDense(inner) for _ in range(blocks))
        self.final = MaskedDense((inputs[:, None] > degrees).repeat(n_params, 1))
        sides = blocks + 1 if context else 0
        self.sides = nn.ModuleList(nn.Linear(context, units) for _ in range(sides))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate in one pass; ``c`` broadcasts against the batch of ``x``."""
        act, h = ACTIVATIONS[self.activation], self.initial(x)
        if c is not None and self.context:
            h = h + act(self.sides[0](c))
        for k, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            new = first(act(h))
            if c is not None and self.context:
                new = new + self.sides[k + 1](c)
            h = h + second(act(new))
        return self.final(h)

    def sweep(self, step: Step, batch: torch.Size, c: Tensor | None = None) -> Tensor:
        """Feature by feature, while ``step`` supplies the inputs: ``(features, N)``."""
        rows = batch.numel()
        given = None if c is None or not self.context else c.expand(*batch, self.context).reshape(rows, self.context)
        x = self.initial.weight.new_zeros(self.features, rows)
        for i in range(self.features):
            raw = self.forward(x.mT, given).reshape(rows, self.n_params, self.features)
            new = step(i, i + 1, raw[..., i].mT.unsqueeze(1))
            x = torch.cat((x[:i], new, x[i + 1 :]))
        return x

    def iterate(
        self, step: Step, guess: Tensor, batch: torch.Size, c: Tensor | None = None, **limits: object
    ) -> tuple[Tensor, int, bool]:
        """The same as ``sweep``, which is exact: there is nothing to iterate."""
        return self.sweep(step, batch, c), self.levels, True

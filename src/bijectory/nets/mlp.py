"""Dense conditioners in feature-major layout."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.ops.shape import linear

HEAD_SCALE = 0.01  # shrinks the last layer at initialisation: every map starts near the identity, yet all weights learn


class Dense(nn.Module):
    """Affine layer ``(*batch, i) -> (*batch, o)``, plus an optional additive context term without bias.

    Args:
        inputs: Width of ``x``, may be 0.
        outputs: Width of the result.
        context: Width of ``c``; the context enters additively, so one row of ``c`` serves many rows of ``x``.
        scale: Multiplies the initial weights.

    Example:
        >>> Dense(3, 2, context=1)(torch.zeros(5, 3), torch.zeros(1)).shape
        torch.Size([5, 2])
    """

    def __init__(self, inputs: int, outputs: int, context: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.inputs, self.outputs, self.context, self.scale = inputs, outputs, context, scale
        bound = scale / math.sqrt(max(inputs + context, 1))
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-bound, bound)) if context else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Apply the layer; ``c`` is ``(*batch, context)`` and broadcasts against the batch of ``x``."""
        out = linear(x, self.weight, self.bias)
        return out if c is None or self.context_weight is None else out + linear(c, self.context_weight)


class MLP(nn.Module):
    """Multilayer perceptron with context: ``(*batch, inputs), (*batch, context) -> (*batch, outputs)``.

    Args:
        inputs: Width of ``x``; 0 gives a function of the context alone.
        outputs: Width of the result (for a wiring: ``n_params * features``, plane-major rows).
        hidden: Widths of the hidden layers.
        context: Width of ``c``, 0 for none.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.
        head_scale: Multiplies the initial weights of the last layer; small values start near ``phi = 0``.

    Raises:
        ConfigError: On a negative width or an unknown activation.

    Example:
        >>> MLP(2, 6, hidden=(16,), context=3)(torch.zeros(5, 2), torch.zeros(3)).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (128, 128),
        context: int = 0,
        activation: str = "silu",
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        check(inputs >= 0 and context >= 0, ConfigError, f"inputs={inputs} and context={context} must not be negative.")
        check(
            outputs > 0 and all(h > 0 for h in hidden), ConfigError, f"outputs={outputs}, hidden={hidden} must be > 0."
        )
        check(
            activation in ACTIVATIONS,
            ConfigError,
            f"activation={activation!r} is unknown; use one of {list(ACTIVATIONS)}.",
        )
        self.inputs, self.outputs, self.hidden, self.context = inputs, outputs, tuple(hidden), context
        self.activation, self.head_scale = activation, head_scale
        widths = (inputs, *hidden)
        self.layers = nn.ModuleList(
            Dense(i, o, context if k == 0 else 0) for k, (i, o) in enumerate(itertools.pairwise(widths))
        )
        self.head = Dense(widths[-1], outputs, 0 if hidden else context, head_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network; ``c`` broadcasts against the batch of ``x``."""
        h = x
        act = ACTIVATIONS[self.activation]
        for layer in self.layers:
            h = act(layer(h, c))
        return self.head(h, c)

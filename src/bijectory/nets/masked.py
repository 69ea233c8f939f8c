"""Masked networks: output ``i`` depends only on the inputs that a graph allows, and can be evaluated level by level."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.freezable import Freezable
from bijectory.nets.mlp import HEAD_SCALE
from bijectory.nets.unrolled import Step, Unrolled
from bijectory.ops import masks
from bijectory.ops.shape import linear


class MaskedDense(Freezable):
    """Affine layer with a fixed 0/1 mask on its weight, plus an optional additive context term without mask.

    Args:
        mask: ``(o, i)`` booleans.
        context: Width of ``c``.
        scale: Multiplies the initial weights.
        bias: Whether to add a bias.
    """

    _mask: Tensor

    def __init__(self, mask: Tensor, context: int = 0, scale: float = 1.0, *, bias: bool = True) -> None:
        super().__init__()
        self.context, self.scale = context, scale
        outputs, inputs = mask.shape
        # Fan-in counts the inputs that the mask leaves, row by row.
        bound = scale / (mask.sum(1) + context).clamp(min=1).sqrt()
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) * bound[:, None] * mask)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) * bound) if bias else None
        self.context_weight = None
        if context:
            self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-1, 1) * bound[:, None])
        self.register_buffer("_mask", mask.to(self.weight.dtype), persistent=False)

    def masked_weight(self) -> Tensor:
        """Return ``weight * mask``."""
        return self.weight if self.is_frozen else self.weight * self._mask

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Apply the layer; ``c`` is ``(*batch, context)`` and broadcasts against the batch of ``x``."""
        out = linear(x, self.masked_weight(), self.bias)
        return out if c is None or self.context_weight is None else out + linear(c, self.context_weight)

    def precompute(self) -> None:
        """Multiply the mask into the weight."""
        with torch.no_grad():
            self.weight.mul_(self._mask)


class MaskedMLP(nn.Module):
    """Masked perceptron ``(*batch, features) -> (*batch, n_params * features)``, plane-major rows.

    Parameter ``p`` of feature ``i`` (row ``p * features + i``) depends on ``x[..., j]`` exactly where
    ``adjacency[i, j]``, and on the whole context. Hidden units are sorted by level, and how many belong to each level is
    known: ``sweep`` can evaluate every unit once while the inputs become known. A hidden layer narrower than the number
    of distinct parent sets cannot carry them all; a masked direct connection from the inputs to the outputs then makes
    sure that no dependency is lost.

    Args:
        features: Number of inputs.
        n_params: Number of outputs for each feature.
        hidden: Widths of the hidden layers.
        context: Width of ``c``, 0 for none.
        order: Features in the order of dependence: each may depend on all before it. None: ``0, 1, 2, …``.
        adjacency: ``(features, features)`` booleans, instead of ``order``; acyclic.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.
        head_scale: Multiplies the initial weights of the last layer; small values start near ``phi = 0``.

    Raises:
        ConfigError: On a width below 1, an order that is no permutation, an adjacency of another shape or with a cycle,
            or both an order and an adjacency.

    References:
        MADE, Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509.

    Example:
        >>> MaskedMLP(3, 2, hidden=(16,), context=4)(torch.zeros(5, 3), torch.zeros(4)).shape
        torch.Size([5, 6])
    """

    def __init__(
        self,
        features: int,
        n_params: int,
        hidden: Sequence[int] = (128, 128),
        context: int = 0,
        order: Sequence[int] | None = None,
        adjacency: Sequence[Sequence[bool]] | Tensor | None = None,
        activation: str = "silu",
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        check(
            features >= 1 and n_params >= 1 and context >= 0 and all(h >= 1 for h in hidden),
            ConfigError,
            f"features={features}, n_params={n_params}, hidden={tuple(hidden)} must be > 0, context={context} >= 0.",
        )
        check(
            activation in ACTIVATIONS,
            ConfigError,
            f"activation={activation!r} is unknown; use one of {list(ACTIVATIONS)}.",
        )
        self.features, self.n_params, self.hidden, self.context = features, n_params, tuple(hidden), context
        self.activation, self.head_scale = activation, head_scale
        self.order = None if order is None else tuple(int(i) for i in order)
        graph = _graph(features, self.order, adjacency)
        self.adjacency = None if adjacency is None else tuple(tuple(row) for row in graph.tolist())

        level = masks.feature_levels(graph)
        self.topological = tuple(level.argsort(stable=True).tolist())
        n_levels = int(level.max()) + 1
        sets, set_levels = masks.parent_sets(graph, level, empty=context > 0)
        units = [masks.share_units(h, len(sets), empty=context > 0) for h in hidden] if len(sets) else []
        # _known[k][l]: how many units of layer k (0: the inputs) are computable once all levels below l are known.
        self._known = [[int((level < n).sum()) for n in range(n_levels + 1)]]
        self._known += [[int((set_levels[u] <= n).sum()) for n in range(n_levels)] for u in units]
        owned = [torch.eye(features, dtype=torch.bool), *(sets[u] for u in units)]
        self.layers = nn.ModuleList(
            MaskedDense(masks.subset_mask(owned[k + 1], owned[k]), context if k == 0 else 0) for k in range(len(units))
        )
        head = masks.subset_mask(graph, owned[-1]).repeat(n_params, 1)
        self.head = MaskedDense(head, 0 if units else context, head_scale)
        narrow = any(len(u.unique()) < len(sets) for u in units)
        self.direct = MaskedDense(graph.repeat(n_params, 1), 0, head_scale, bias=False) if narrow else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network in one pass; ``c`` broadcasts against the batch of ``x``."""
        act, h = ACTIVATIONS[self.activation], x
        for layer in self.layers:
            h = act(layer(h, c))
        out = self.head(h, c)
        return out if self.direct is None else out + self.direct(x)

    @property
    def levels(self) -> int:
        """Steps of a sweep: the length of the longest chain of dependence."""
        return len(self._known[0]) - 1

    def sweep(self, step: Step, batch: torch.Size, c: Tensor | None = None) -> Tensor:
        """Evaluate level by level, every unit once, while ``step`` supplies the inputs.

        Args:
            step: Called as ``step(start, stop, raw)`` for the features ``topological[start:stop]`` of one level, with
                their parameters ``raw``, ``(n_params, stop - start, N)``; returns the values of these features,
                ``(stop - start, N)``.
            batch: The joint batch shape, with ``N`` elements.
            c: Context ``(*batch_c, context)``.

        Returns:
            The inputs in topological order, ``(features, N)``.
        """
        return self._unroll(batch, c).by_levels(step)

    def iterate(
        self,
        step: Step,
        guess: Tensor,
        batch: torch.Size,
        c: Tensor | None = None,
        *,
        block: int,
        tolerance: float,
        limit: int | None = None,
    ) -> tuple[Tensor, int, bool]:
        """Like ``sweep``, but a block of levels at a time, by fixed-point iteration from a guess: it reads values.

        Args:
            step: As for ``sweep``, for all features of a block, and called until they settle.
            guess: First guess of the inputs in topological order, ``(features, N)``.
            batch: The joint batch shape, with ``N`` elements.
            c: Context ``(*batch_c, context)``.
            block: Levels in a block; a block of ``k`` levels is exact after ``k`` iterations, whatever the guess.
            tolerance: A block has settled when no input moves by more than ``tolerance * (1 + |input|)``.
            limit: At most so many iterations for each block; None: until it is exact.

        Returns:
            The inputs in topological order, ``(features, N)``, the number of iterations over all blocks, and whether every
            block settled or became exact.
        """
        return self._unroll(batch, c).by_blocks(step, guess, block, tolerance, limit)

    def _unroll(self, batch: torch.Size, c: Tensor | None) -> Unrolled:
        weights, head, direct = self._sweep_weights()
        return Unrolled(
            ACTIVATIONS[self.activation],
            self._known,
            weights,
            [_offset(layer, c, batch) for layer in self._hidden_layers()],
            head,
            self._by_feature(_offset(self.head, c, batch)),
            direct,
            math.prod(batch),
        )

    def _hidden_layers(self) -> list[MaskedDense]:
        return list(self.layers)  # type: ignore[arg-type]

    def _sweep_weights(self) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """Masked weights with inputs in topological order; rows of head and direct ``(features, n_params, …)``."""
        columns = list(self.topological)
        weights = [layer.masked_weight() for layer in self._hidden_layers()]
        head = self._by_feature(self.head.masked_weight())
        direct = None if self.direct is None else self._by_feature(self.direct.masked_weight())[..., columns]
        if not weights:
            return weights, head[..., columns], direct
        return [weights[0][:, columns], *weights[1:]], head, direct

    def _by_feature(self, rows: Tensor) -> Tensor:
        """Plane-major rows ``(n_params * features, …)`` as ``(features, n_params, …)``, features topologically sorted."""
        return rows.unflatten(0, (self.n_params, self.features)).transpose(0, 1)[list(self.topological)]


def _graph(features: int, order: Sequence[int] | None, adjacency: Sequence[Sequence[bool]] | Tensor | None) -> Tensor:
    """Validate, and return the adjacency as ``(features, features)`` booleans."""
    if adjacency is None:
        order = range(features) if order is None else order
        ok = sorted(order) == list(range(features))
        check(ok, ConfigError, f"order must hold every index from 0 to {features - 1} once, got {tuple(order)}.")
        return masks.adjacency_from_order(order)
    check(order is None, ConfigError, "give an order or an adjacency, not both.")
    graph = torch.as_tensor(adjacency).bool().cpu()
    check(
        graph.shape == (features, features),
        ConfigError,
        f"adjacency must have shape ({features}, {features}), got {tuple(graph.shape)}.",
    )
    cycle = masks.find_cycle(graph)
    check(
        not cycle,
        ConfigError,
        f"adjacency has the cycle {' -> '.join(map(str, cycle))}; remove one of its edges (the diagonal must be False).",
    )
    return graph


def _offset(layer: MaskedDense, c: Tensor | None, batch: torch.Size) -> Tensor:
    """What a layer adds whatever its input: bias and context term as columns, ``(o, N)``, or ``(o, 1)`` if all the same."""
    offset = layer.bias.unsqueeze(-1)  # type: ignore[union-attr]  # only direct layers lack a bias
    if c is None or layer.context_weight is None:
        return offset
    term = linear(c, layer.context_weight)
    if math.prod(term.shape[:-1]) == 1:
        return offset + term.reshape(-1, 1)
    return offset + term.expand(*batch, term.shape[-1]).movedim(-1, 0).flatten(1)

r"""Masks of autoregressive networks, from a dependency graph.

``adjacency[i, j]`` says that output :math:`i` may depend on input :math:`j`. Every unit of a masked network owns a *set*
of inputs, and reads a unit of the layer below only if that unit's set is a subset of its own: then an output with set
:math:`S` depends on :math:`S` and nothing else. Inputs own singletons, outputs own the rows of the adjacency, and hidden
units share out the distinct rows. For a total order these sets are the prefixes, and the rule is that of MADE
(Germain, Gregor, Murray, Larochelle 2015, arXiv:1502.03509, eq. 12-13).

The *level* of a feature is the length of the longest path that leads to it. A unit with the parents of a feature for its
set has that feature's level; sorted by level, all masks are block triangular, which is what a sweep through the levels
lives on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def adjacency_from_order(order: Sequence[int]) -> Tensor:
    """Adjacency in which every feature depends on all that come before it in ``order``: ``(d, d)`` booleans."""
    rank = torch.tensor(order).argsort()
    return rank[None, :] < rank[:, None]


def find_cycle(adjacency: Tensor) -> list[int]:
    """Return the features along a cycle of the graph (first and last the same), or an empty list."""
    parents = [row.nonzero().flatten().tolist() for row in adjacency]
    alive = set(range(len(parents)))
    while leaves := [i for i in alive if not any(j in alive for j in parents[i])]:
        alive.difference_update(leaves)
    if not alive:
        return []
    path = [min(alive)]  # every feature left has a parent left: walk until one comes again
    while True:
        parent = next(j for j in parents[path[-1]] if j in alive)
        if parent in path:
            return [*path[path.index(parent) :], parent]
        path.append(parent)


def feature_levels(adjacency: Tensor) -> Tensor:
    """Length of the longest path to every feature of an acyclic graph: ``(d,)`` integers."""
    level = torch.zeros(len(adjacency), dtype=torch.long)
    for _ in range(len(adjacency)):
        level = torch.where(adjacency, level + 1, 0).amax(1)
    return level


def parent_sets(adjacency: Tensor, level: Tensor, *, empty: bool) -> tuple[Tensor, Tensor]:
    """Distinct parent sets for hidden units, sorted by level.

    Args:
        adjacency: ``(d, d)`` booleans.
        level: ``(d,)`` levels of the features.
        empty: Whether to keep the empty set (first), for units that read the context alone.

    Returns:
        Sets ``(s, d)`` and their levels ``(s,)``.
    """
    rows: dict[tuple[bool, ...], int] = {(False,) * len(level): 0} if empty else {}
    for i in level.argsort(stable=True).tolist():
        if bool(adjacency[i].any()):
            rows.setdefault(tuple(adjacency[i].tolist()), int(level[i]))
    sets = torch.tensor(list(rows), dtype=torch.bool).reshape(-1, len(level))
    return sets, torch.tensor(list(rows.values()), dtype=torch.long)


def share_units(width: int, n_sets: int, *, empty: bool) -> Tensor:
    """Share ``width`` hidden units out among sets, evenly: ``(width,)`` sorted set indices.

    With the empty set in first place at least a quarter of the units go to it, since the first feature and the context
    have no other way.
    """
    if n_sets == 0:
        return torch.zeros(0, dtype=torch.long)
    if not empty:
        return torch.arange(width) * n_sets // width
    alone = width if n_sets == 1 else max(1, width // 4, width // n_sets)
    rest = torch.arange(width - alone) * (n_sets - 1) // max(width - alone, 1) + 1
    return torch.cat((torch.zeros(alone, dtype=torch.long), rest))


def subset_mask(outer: Tensor, inner: Tensor) -> Tensor:
    """``mask[o, i]`` is True where set ``inner[i]`` is a subset of ``outer[o]``: ``(o, d), (i, d) -> (o, i)``."""
    return (~outer).float() @ inner.float().T == 0

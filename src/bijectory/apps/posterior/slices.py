r"""Slice sampling of many chains at once.

To sample from :math:`p(u)`: draw a height under :math:`p(u)`, then a point of the slice above that height along a random
direction. The slice is found by stepping out and shrinking, both for all chains together; nothing has to be tuned.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STEPS_OUT, SHRINKS = 8, 60


def slice_sample(
    log_prob: Callable[..., Tensor],
    start: Tensor,
    steps: int,
    *,
    width: Tensor,
    keep: int,
    generator: torch.Generator,
    given: Tensor | None = None,
) -> Tensor:
    """Run all chains and return the last states, ``(keep, chains, features)``.

    Args:
        log_prob: ``(chains, features) -> (chains,)``, unnormalised; with ``given`` it takes the rows of that too.
        start: ``(chains, features)``, where ``log_prob`` is finite.
        steps: Updates, each along one direction.
        width: ``(features,)`` or ``(chains, features)``, the scale of the target; directions are normal in units of it.
        keep: Number of last states, spread over the second half of the run.
        generator: Of everything random.
        given: ``(chains, ...)``: what the target of each chain depends on.

    References:
        Slice sampling, Neal 2003, Annals of Statistics 31, fig. 3 (stepping out) and 5 (shrinkage).

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> normal = lambda u: -0.5 * u.square().sum(-1)
        >>> u = slice_sample(normal, torch.zeros(500, 2), 60, width=torch.ones(2), keep=1, generator=g)
        >>> u.shape, 0.9 < u.std().item() < 1.1
        (torch.Size([1, 500, 2]), True)
    """

    def score_of(u: Tensor, rows: Tensor | slice) -> Tensor:
        return log_prob(u) if given is None else log_prob(u, given[rows])

    u, score = start, score_of(start, slice(None))
    chosen = set(torch.linspace(steps // 2, steps - 1, keep).round().long().tolist())
    kept = []
    for step in range(steps):
        u, score = _update(score_of, u, score, width, generator)
        if step in chosen:
            kept.append(u)
    while len(kept) < keep:  # fewer steps than states asked for
        u, score = _update(score_of, u, score, width, generator)
        kept.append(u)
    return torch.stack(kept)


def _update(
    log_prob: Callable[[Tensor, Tensor], Tensor], u: Tensor, score: Tensor, width: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    chains = len(u)

    def uniform() -> Tensor:
        return torch.rand(chains, generator=generator, dtype=u.dtype)

    way = torch.randn(u.shape, generator=generator, dtype=u.dtype)
    way = way / way.norm(dim=-1, keepdim=True) * width
    height = score + (1 - uniform()).log()  # 1 - u is never 0
    left = -2 * uniform()
    ends = torch.stack((left, left + 2.0))
    growing = torch.ones_like(ends, dtype=torch.bool)
    for _ in range(STEPS_OUT):  # both ends in one call: a call costs more than its rows
        side, rows = growing.nonzero(as_tuple=True)
        if not len(rows):
            break
        inside = log_prob(u[rows] + ends[side, rows, None] * way[rows], rows) > height[rows]
        growing[side, rows] = inside
        ends[side, rows] += torch.where(inside, 4.0 * side - 2.0, 0.0)
    left, right = ends
    new, new_score = u.clone(), score.clone()
    open_ = torch.ones(chains, dtype=torch.bool)
    for _ in range(SHRINKS):
        rows = open_.nonzero()[:, 0]
        if not len(rows):
            break
        t = left + (right - left) * uniform()
        trial = u[rows] + t[rows, None] * way[rows]
        found = log_prob(trial, rows)
        hit = found > height[rows]
        new[rows[hit]], new_score[rows[hit]] = trial[hit], found[hit]
        open_[rows[hit]] = False
        missed = rows[~hit]
        negative = t[missed] < 0
        left[missed[negative]] = t[missed[negative]]
        right[missed[~negative]] = t[missed[~negative]]
    return new, new_score

r"""Rectified flow: pairs that a flow itself makes, on which it is trained again, and how straight it is.

The coupling :math:`(x, e)` of a flow's own ends has no larger transport cost, for any convex cost, than the one that it was
trained with, and its paths cross less; training again on these pairs ("reflow") gives a straighter flow with the same
marginals, up to the errors of the first one, which are inherited.

References:
    Flow Straight and Fast, Liu, Gong, Liu 2022, arXiv:2209.03003, algorithm 1, and sec. 2 for straightness.
"""

import torch
from torch import Tensor

from bijectory.densities import Flow
from bijectory.errors import ConfigError, ContextError, check
from bijectory.objectives.batch import Batch
from bijectory.objectives.matching import draw_base, matched
from bijectory.ops.ode import fixed

CHUNK = 4096


@torch.no_grad()
def reflow(flow: Flow, rows: int, c: Tensor | None = None) -> Batch:
    """Pairs of draws of the flow and of its base, for training with ``FlowMatching(coupling=Paired())``.

    Args:
        flow: A trained flow.
        rows: Number of pairs.
        c: Contexts ``(rows, *context)``, e.g. those of the training rows.

    Returns:
        A batch of ``(rows, 2, *event)``, with contexts ``(rows, 1, *context)``; ``fit`` takes it as data.

    Raises:
        ConfigError: If ``rows < 1``, or the flow does not end in its only continuous layer.
        ContextError: If there is not one context for each row.

    Example:
        >>> from bijectory import cnf
        >>> reflow(cnf(2), 5).x.shape
        torch.Size([5, 2, 2])
    """
    matched(flow)
    check(rows >= 1, ConfigError, f"rows must be at least 1, got {rows}.")
    check(c is None or len(c) == rows, ContextError, f"c has {0 if c is None else len(c)} rows, expected {rows}.")
    parts = []
    for k in range(0, rows, CHUNK):
        part = None if c is None else c[k : k + CHUNK]
        e = draw_base(flow, min(CHUNK, rows - k), _embedded(flow, part))
        parts.append(torch.stack((flow.to_data(e, part)[0], e), 1))
    return Batch(torch.cat(parts), None if c is None else c.unsqueeze(1))


@torch.no_grad()
def straightness(flow: Flow, rows: int = 1024, c: Tensor | None = None, *, steps: int = 32) -> float:
    r"""How much the velocity changes along the solutions: 0 where all of them are straight and of constant speed.

    .. math:: S = E \int_0^1 \|z_1 - z_0 - v(t, z_t)\|^2 dt = E \Bigl[\int_0^1 \|v(t, z_t)\|^2 dt - \|z_1 - z_0\|^2\Bigr]

    in the space of the continuous layer. With :math:`S = 0` a single step of Euler's method is exact.

    Args:
        flow: A flow that ends in its only continuous layer.
        rows: Number of solutions, each from a draw of the base.
        c: Contexts ``(rows, *context)``.
        steps: Of the solver.

    Raises:
        ConfigError: If the flow does not end in its only continuous layer.
        ContextError: If there is not one context for each row.

    Example:
        >>> from bijectory import cnf
        >>> straightness(cnf(2)) < 0.1  # near the identity at first
        True
    """
    flow, _, layer = matched(flow)
    check(c is None or len(c) == rows, ContextError, f"c has {0 if c is None else len(c)} rows, expected {rows}.")
    c = _embedded(flow, c)
    e = draw_base(flow, rows, c)

    def slope(t: Tensor, y: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        v = layer.field(t, y[0], c if layer.context else None)
        return v, v.square().flatten(1).sum(1)

    z, energy = fixed(slope, (e, e.new_zeros(rows)), start=1.0, end=0.0, steps=steps)
    gap = -energy - (e - z).square().flatten(1).sum(1)  # time runs backwards, so the energy is negative
    return max(0.0, float(gap.mean()))


def _embedded(flow: Flow, c: Tensor | None) -> Tensor | None:
    c = flow.embed(c) if flow.embed is not None and c is not None else c
    return c if flow.context else None

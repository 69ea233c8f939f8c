"""Continuous flows in native kernels: which can run there, and their derivatives.

The solve of a ``TimeMLP`` on a fixed grid is one call, with the exact divergence for one and two hidden layers; see
``ops.field``. Gradients are those of ``gradient="solver"``, to rounding. Second derivatives go through the plain solve.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bijectory.nets.field import Field, Prepared, TimeMLP
from bijectory.ops.eager import is_direct
from bijectory.ops.field import SMOOTH, Solve, run, run_back, stage_times
from bijectory.ops.layers import DEEPEST
from bijectory.ops.native import REALS, is_first_order
from bijectory.ops.ode import State, fixed

Tensors = list[Tensor | None]


def can_solve(field: Field, *, joint: bool) -> bool:
    """Whether the kernels know a field, or with ``joint`` its divergence too."""
    if not isinstance(field, TimeMLP) or type(field) is not TimeMLP:  # a subclass may be another field
        return False
    return field.activation in SMOOTH and 0 < len(field.hidden) < (3 if joint else DEEPEST)


def fits(field: TimeMLP, x: Tensor, c: Tensor | None) -> bool:
    """Whether a call can be native: on the CPU, of one dtype with all weights and the context, without autocast."""
    if x.dtype not in REALS or x.device.type != "cpu" or not is_direct(x) or torch.is_autocast_enabled("cpu"):
        return False
    if c is not None and (c.dtype != x.dtype or c.device != x.device or not is_direct(c)):
        return False
    return all(t.dtype == x.dtype and t.device == x.device for t in field._tensors(None))


def solved(
    field: TimeMLP, x: Tensor, c: Tensor | None, method: str, steps: int, start: float, end: float, *, joint: bool
) -> State:
    """The end of the solve from ``x``, ``(*batch, features)``, and with ``joint`` the gathered trace ``(*batch,)``.

    Args:
        field: One that the kernels ``can_solve``.
        x: Of the joint batch shape of point and context.
        c: Context.
        method: Name of a tableau.
        steps: Of the grid.
        start: First time.
        end: Last time.
        joint: Whether the trace is asked for.
    """
    ready = field.prepare(c, divergence=joint, functional=False)
    first, bias, *layers = ready.tensors[: 2 * len(field.hidden) + 2]
    drift = ready.clock(stage_times(method, steps, start, end, x.dtype), *ready.tensors)  # type: ignore[misc]
    term = None
    if bias.dim() > 1:
        term = bias.expand(*x.shape[:-1], bias.shape[-1]).movedim(-1, 0).reshape(bias.shape[-1], -1).contiguous()
    once = ready.tensors[2 * len(field.hidden) + 3].contiguous() if joint else None
    tensors = [first.contiguous(), drift.contiguous(), *(t.contiguous() for t in layers), term, once]
    solve = Solve(field.features, field.hidden, field.activation, method, steps, start, end, joint)
    points = x if x.dim() == 2 else x.movedim(-1, 0).reshape(field.features, -1).mT
    if torch.is_grad_enabled() and (x.requires_grad or any(t is not None and t.requires_grad for t in tensors)):
        y, *ladj = _Solved.apply(solve, ready, points, *tensors)
    else:
        y, *ladj = (t for t in run(solve, points, tensors, keep=False)[:2] if t is not None)
    if x.dim() != 2:
        y, ladj = y.mT.reshape(field.features, *x.shape[:-1]).movedim(0, -1), [t.reshape(x.shape[:-1]) for t in ladj]
    return (y, *ladj)


class _Solved(torch.autograd.Function):
    """The kernels with their derivatives; derivatives of those are taken through plain operations."""

    @staticmethod
    def forward(ctx: Any, solve: Solve, ready: Prepared, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        y, ladj, points = run(solve, x, tensors, keep=True)
        ctx.solve, ctx.clocked = solve, ready.clocked
        ctx.save_for_backward(x, points, *tensors)
        return (y,) if ladj is None else (y, ladj)

    @staticmethod
    def backward(ctx: Any, *g: Tensor) -> tuple[Tensor | None, ...]:
        x, points, *tensors = ctx.saved_tensors
        if is_first_order(*g):
            g_x, gradients = run_back(ctx.solve, points, tensors, g[0], g[1] if len(g) > 1 else None)
            return None, None, g_x, *gradients
        with torch.enable_grad():
            wanted = [(i, t) for i, t in enumerate((x, *tensors)) if t is not None and t.requires_grad]
            y = plain(ctx.solve, ctx.clocked, x, tensors)
            ends, seeds = zip(*[pair for pair in zip(y, g, strict=True) if pair[0].requires_grad], strict=True)
            found = torch.autograd.grad(ends, [t for _, t in wanted], seeds, create_graph=True, allow_unused=True)
        result: Tensors = [None] * (1 + len(tensors))
        for (i, _), gradient in zip(wanted, found, strict=True):
            result[i] = gradient
        return None, None, *result


def plain(solve: Solve, clocked: tuple[Callable[..., Any], ...], x: Tensor, tensors: Tensors) -> State:
    """What ``ops.field.run`` computes, by the operations of the field; ``clocked`` as in ``Prepared``."""
    drift: Any
    first, drift, *layers, term, once = tensors
    velocity, joint = clocked
    bias = x.new_zeros(()).expand(solve.hidden[0]) if term is None else term.mT
    prepared = () if once is None else (once, once.sum(1)) if once.dim() == 2 else (once,)
    given = (first, bias, *layers, x.new_zeros(0), *prepared)
    slope = joint if solve.joint else functools.partial(_alone, velocity)
    state = (x, x.new_zeros(x.shape[:-1])) if solve.joint else (x,)
    ends: dict[str, Any] = {"start": solve.start, "end": solve.end, "steps": solve.steps, "method": solve.method}
    slopes = functools.partial(_slope, slope)
    return fixed(slopes, state, given, **ends, gathered=len(state) - 1, clock=lambda *_: drift)


def _alone(velocity: Callable[..., Tensor], *given: Tensor) -> tuple[Tensor]:
    return (velocity(*given),)


def _slope(slope: Callable[..., State], drift: Tensor, y: State, *given: Tensor) -> State:
    return slope(drift, y[0], *given)

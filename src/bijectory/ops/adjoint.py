r"""Gradients through a fixed grid in bounded memory: two functions with the signature of ``ode.fixed``.

``checkpointed`` keeps the state at every step and computes each step a second time when gradients pass through it: the same
gradients as ``ode.fixed`` in the memory of one step (plus the states).

``adjoint`` keeps the last state only. With :math:`a = \partial L / \partial y` it solves backwards in time

.. math::
    \dot y = f, \qquad \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
    \dot g = -a^\top \frac{\partial f}{\partial \theta},

so its gradients carry the error of the grid, like the solution itself.

Gradients of both reach the state and ``params``, not tensors that ``f`` closes over: hand over all of them. Both backward
passes are made of differentiable operations, so they can be differentiated again (that, in the memory of a plain solver).
They are no steps of ``vmap`` or ``compile``. The checkpoints are our own, for those of torch refuse a slope that itself
takes derivatives, as an estimate of a divergence does.

References:
    Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366, algorithm 1.
    ANODE: Unconditionally Accurate Memory-Efficient Gradients for Neural ODEs, Gholami, Keutzer, Biros 2019,
    arXiv:1902.10298 (checkpoints).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.ode import Slope, State, find_tableau, fixed, fixed_step


def checkpointed(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 8,
    method: str = "tsit5",
) -> State:
    """``ode.fixed`` that computes each step again for its gradients; see there for arguments and errors.

    Example:
        >>> y = torch.ones((), requires_grad=True)
        >>> (z,) = checkpointed(lambda t, y: (-y[0],), (y,))
        >>> round(torch.autograd.grad(z, y)[0].item(), 5)  # exp(-1)
        0.36788
    """
    check(steps >= 1, ConfigError, f"steps must be at least 1, got {steps}.")
    tableau, h, n = find_tableau(method), (end - start) / steps, len(y)

    def step(t: float, *tensors: Tensor) -> State:
        return fixed_step(f, tensors[:n], tensors[n:], t, h, tableau)

    for k in range(steps):
        y = _Checkpoint.apply(functools.partial(step, start + k * h), *y, *params)
    return y


def adjoint(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 8,
    method: str = "tsit5",
) -> State:
    """``ode.fixed`` with gradients by the adjoint equation; see there for arguments and errors.

    Example:
        >>> rate = torch.ones((), requires_grad=True)
        >>> (z,) = adjoint(lambda t, y, a: (-a * y[0],), (torch.ones(()),), (rate,))
        >>> round(torch.autograd.grad(z, rate)[0].item(), 5)  # -exp(-1)
        -0.36788
    """
    grid = {"start": start, "end": end, "steps": steps, "method": method}
    return _Adjoint.apply(f, len(y), grid, *y, *params)


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Callable[..., State], *tensors: Tensor) -> State:
        ctx.step = step
        ctx.save_for_backward(*tensors)
        return step(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _, pull, *_ = torch.func.vjp(ctx.step, *ctx.saved_tensors)
        return (None, *pull(grads))


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Slope, n: int, grid: dict[str, Any], *tensors: Tensor) -> State:
        y = fixed(f, tensors[:n], tensors[n:], **grid)
        ctx.f, ctx.n, ctx.grid = f, n, grid
        ctx.save_for_backward(*y, *tensors[n:])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        f, n, grid = ctx.f, ctx.n, ctx.grid
        y, params = ctx.saved_tensors[:n], ctx.saved_tensors[n:]

        def slope(t: Tensor, state: State, *params: Tensor) -> State:
            with torch.enable_grad():
                v, pull, *_ = torch.func.vjp(lambda *u: f(t, u[:n], *u[n:]), *state[:n], *params)
                return (*v, *(-g for g in pull(state[n : 2 * n])))

        back = {**grid, "start": grid["end"], "end": grid["start"]}
        state = (*y, *grads, *(torch.zeros_like(p) for p in params))
        return (None, None, None, *fixed(slope, state, params, **back)[n:])

r"""Gradients through a fixed grid in bounded memory: two functions with the signature of ``ode.fixed``.

``checkpointed`` keeps the state at every step and computes each step a second time when gradients pass through it: the same
gradients as ``ode.fixed`` in the memory of one step (plus the states).

``adjoint`` keeps the last state only. With :math:`a = \partial L / \partial y` it solves backwards in time

.. math::
    \dot y = f, \qquad \dot a = -a^\top \frac{\partial f}{\partial y}, \qquad
    \dot g = -a^\top \frac{\partial f}{\partial \theta},

so its gradients carry the error of the grid, like the solution itself. ``ops.reversible`` has a third way, and
``ops.adaptive_gradients`` the first two for adaptive steps.

Gradients of all of them reach the state and ``params``, not tensors that ``f`` closes over: hand over all of them. The
backward passes are made of differentiable operations, so they can be differentiated again (that, in the memory of a plain
solver). They are no steps of ``vmap`` or ``compile``. The checkpoints are our own, for those of torch refuse a slope that
itself takes derivatives, as an estimate of a divergence does.

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
from bijectory.ops.ode import Slope, State, find_tableau, fixed, fixed_slopes, moved


def checkpointed(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 8,
    method: str = "tsit5",
    gathered: int = 0,
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
        y, params = tensors[:n], tensors[n:]
        return moved(y, fixed_slopes(f, y, params, t, h, tableau, gathered), tableau.b, h)

    for k in range(steps):
        y = Checkpoint.apply(functools.partial(step, start + k * h), *y, *params)
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
    gathered: int = 0,
) -> State:
    """``ode.fixed`` with gradients by the adjoint equation; see there for arguments and errors.

    Example:
        >>> rate = torch.ones((), requires_grad=True)
        >>> (z,) = adjoint(lambda t, y, a: (-a * y[0],), (torch.ones(()),), (rate,))
        >>> round(torch.autograd.grad(z, rate)[0].item(), 5)  # -exp(-1)
        -0.36788
    """
    grid = {"start": start, "end": end, "steps": steps, "method": method}
    return _Adjoint.apply(f, len(y), gathered, grid, *y, *params)


class Checkpoint(torch.autograd.Function):
    """A function of tensors that keeps its inputs alone, and runs again for its gradients."""

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
    def forward(ctx: Any, f: Slope, n: int, gathered: int, grid: dict[str, Any], *tensors: Tensor) -> State:
        y = fixed(f, tensors[:n], tensors[n:], **grid, gathered=gathered)
        ctx.f, ctx.read, ctx.grid = f, n - gathered, grid
        ctx.n = n
        ctx.save_for_backward(*y, *tensors[n:])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        f, n, read, grid = ctx.f, ctx.n, ctx.read, ctx.grid
        y, params = ctx.saved_tensors[:n], ctx.saved_tensors[n:]

        def slope(t: Tensor, state: State, *params: Tensor) -> State:
            with torch.enable_grad():
                v, pull, *_ = torch.func.vjp(lambda *u: f(t, (*u[:read], *y[read:]), *u[read:]), *state[:read], *params)
                # The gradient of an integral is the same at all times.
                return (*v[:read], *(-g for g in pull((*state[read : 2 * read], *grads[read:]))))

        back = {**grid, "start": grid["end"], "end": grid["start"]}
        state = (*y[:read], *grads[:read], *(torch.zeros_like(p) for p in params))
        solved = fixed(slope, state, params, **back, gathered=len(params))
        of_y, of_params = solved[read : 2 * read], solved[2 * read :]
        return (None, None, None, None, *of_y, *grads[read:], *of_params)

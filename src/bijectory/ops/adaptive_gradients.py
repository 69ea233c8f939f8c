r"""Gradients of adaptive solves in bounded memory: two functions with the signature of ``ode.adaptive``.

``ode.adaptive`` itself can be differentiated, but its graph holds every attempt of the whole batch. Here the accepted steps
of each row are found without a graph first, and then taken again: the ``k``-th step of every row together, however many
attempts lay between them.

``adaptive_checkpointed`` takes each of these steps a second time in the backward pass: the gradients of the discrete
solution, in the memory of one step plus the states.

``adaptive_adjoint`` keeps the last state. It solves the adjoint equation backwards with adaptive steps of its own, under the
same tolerances for the state and its gradient; those of ``params`` are gathered by the quadrature of the method along the
accepted steps, without a say in their size. Its gradients are true to the tolerances.

What ``ops.adjoint`` says of parameters, second derivatives, ``vmap`` and ``compile`` holds here too. Steps are constants.

References:
    Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366, algorithm 1.
    Adaptive Checkpoint Adjoint Method for Gradient Estimation in Neural ODE, Zhuang et al. 2020, arXiv:2006.02493 (the
    accepted steps taken again).
    "Hey, that's not an ODE": Faster ODE Adjoints via Seminorms, Kidger, Chen, Lyons 2021, arXiv:2009.09457 (no control of
    the integrals).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bijectory.ops.adjoint import Checkpoint
from bijectory.ops.ode import Slope, Solution, State, adaptive, find_tableau, stepped, widen
from bijectory.ops.tableaus import Tableau


def adaptive_checkpointed(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    method: str = "tsit5",
    max_steps: int = 1000,
    batch_dim: int | None = None,
    gathered: int = 0,
) -> Solution:
    """``ode.adaptive`` that takes each accepted step again for its gradients; see there for arguments and errors.

    Example:
        >>> y = torch.ones(1, requires_grad=True)
        >>> (z,) = adaptive_checkpointed(lambda t, y: (-y[0],), (y,)).y
        >>> round(torch.autograd.grad(z, y)[0].item(), 5)  # exp(-1)
        0.36788
    """
    control = {"start": start, "end": end, "rtol": rtol, "atol": atol, "method": method, "max_steps": max_steps}
    with torch.no_grad():
        found = adaptive(f, y, params, **control, batch_dim=batch_dim, gathered=gathered)  # type: ignore[arg-type]
    if not torch.is_grad_enabled():
        return found
    tableau, n = find_tableau(method), len(y)

    def step(t: Tensor, h: Tensor, *tensors: Tensor) -> State:
        y, params = tensors[:n], tensors[n:]
        return stepped(y, _slopes(f, y, params, t, h, tableau, gathered), tableau.b, h)

    for t, h in _grid(found.grid, start):
        y = Checkpoint.apply(functools.partial(step, t, h), *y, *params)
    failed = found.status != 0
    return found._replace(y=tuple(torch.where(widen(failed, u), torch.full_like(u, torch.nan), u) for u in y))


def adaptive_adjoint(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    method: str = "tsit5",
    max_steps: int = 1000,
    batch_dim: int | None = None,
    gathered: int = 0,
) -> Solution:
    """``ode.adaptive`` with gradients by the adjoint equation; see there for arguments and errors.

    The backward pass too raises ``ConvergenceError`` at the cap.

    Example:
        >>> rate = torch.ones((), requires_grad=True)
        >>> (z,) = adaptive_adjoint(lambda t, y, a: (-a * y[0],), (torch.ones(1),), (rate,)).y
        >>> round(torch.autograd.grad(z, rate)[0].item(), 5)  # -exp(-1)
        -0.36788
    """
    rows = min(u.dim() for u in y) if batch_dim is None else batch_dim
    control = {"start": start, "end": end, "rtol": rtol, "atol": atol, "method": method, "max_steps": max_steps}
    out = _AdaptiveAdjoint.apply(f, len(y), gathered, control | {"batch_dim": rows}, *y, *params)
    return Solution(out[: len(y)], *out[len(y) :])


class _AdaptiveAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Slope, n: int, gathered: int, control: dict[str, Any], *tensors: Tensor) -> State:
        found = adaptive(f, tensors[:n], tensors[n:], **control, gathered=gathered)
        ctx.f, ctx.n, ctx.read, ctx.control = f, n, n - gathered, control
        ctx.save_for_backward(*found.y, *tensors[n:])
        ctx.mark_non_differentiable(*found[1:])
        return (*found.y, *found[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        f, n, read, control = ctx.f, ctx.n, ctx.read, ctx.control
        y, params, grads = ctx.saved_tensors[:n], ctx.saved_tensors[n:], grads[:n]
        tableau = find_tableau(control["method"])

        def pulled(t: Tensor, u: State, *params: Tensor) -> tuple[State, Callable[..., State]]:
            with torch.enable_grad():
                v, pull, *_ = torch.func.vjp(lambda *w: f(t, (*w[:read], *y[read:]), *w[read:]), *u, *params)
            return v, pull

        def slope(t: Tensor, state: State) -> State:
            with torch.enable_grad():
                v, pull, *_ = torch.func.vjp(lambda *w: f(t, (*w, *y[read:]), *params), *state[:read])
            return (*v[:read], *(-g for g in pull((*state[read:], *grads[read:]))))

        back = control | {"start": control["end"], "end": control["start"]}
        state = (*y[:read], *grads[:read])
        with torch.no_grad():
            found = adaptive(slope, state, **back)
        u, a, of_params = y[:read], grads[:read], tuple(torch.zeros_like(p) for p in params)
        for t, h in _grid(found.grid, control["end"]):
            # What is pulled back is scaled by the step of its row: one pull then gives the changes of the rows' gradients,
            # and that of the parameters' gradients, which is a sum over rows.
            ahead: list[State] = []
            behind: list[State] = []
            minus = -torch.ones_like(h)
            steady = tuple(widen(h, g) * g for g in grads[read:])
            for c, row, b in zip(tableau.c, ((), *tableau.a), tableau.b, strict=True):
                v, pull = pulled(t + c * h, stepped(u, ahead, row, h), *params)
                moving = tuple(widen(h, g) * g for g in stepped(a, behind, row, minus))
                back_pulled = pull((*moving, *steady))
                ahead.append(v)
                behind.append(back_pulled[:read])
                if b:
                    of_params = tuple(
                        torch.add(p, g, alpha=-b) for p, g in zip(of_params, back_pulled[read:], strict=True)
                    )
            u, a = stepped(u, ahead, tableau.b, h), stepped(a, behind, tableau.b, minus)
        return (None, None, None, None, *a, *grads[read:], *of_params)


def _grid(steps: Tensor, start: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Where each step of each row begins, and its size."""
    gone = steps.new_zeros(steps.shape[1:])
    for h in steps.unbind():
        yield start + gone, h
        gone = gone + h


def _slopes(
    f: Slope, y: State, params: Sequence[Tensor], t: Tensor, h: Tensor, tableau: Tableau, gathered: int
) -> list[State]:
    """The slopes at the stages of one step, of another size for each row."""
    slopes: list[State] = []
    for c, a in zip(tableau.c, ((), *tableau.a), strict=True):
        slopes.append(f(t + c * h, stepped(y, slopes, a, h, gathered), *params))
    return slopes

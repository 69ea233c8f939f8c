r"""Inverse of :math:`x \mapsto x + g(x)` for a contraction :math:`g`, with implicit gradients.

Banach's iteration :math:`x \leftarrow z - g(x)` shrinks the residual :math:`r = \|x + g(x) - z\|` by the Lipschitz constant
:math:`\kappa` of :math:`g` at every step. Several steps in a row that do not are a sign that only rounding is left: the row
stands still from there on, at its smallest residual. So no tolerance is needed, and the number of steps that reach the
resolution of the dtype follows from :math:`\kappa` alone: under ``vmap``, ``compile`` and ``export``, where values cannot be
looked at, all of them are taken. In eager mode the loop ends as soon as every row stands still, with the same result.

Gradients do not go through the iterations, see ``attach``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

Map = Callable[[Tensor], Tensor]
PATIENCE = 6  # steps without a smaller residual after which a row is at its rounding


def steps_needed(rate: float, dtype: torch.dtype) -> int:
    """Steps after which a residual that shrinks by ``rate`` in each has lost all digits of the dtype."""
    return 2 + math.ceil(math.log(torch.finfo(dtype).eps) / math.log(max(rate, 1e-3)))


def contraction_inverse(
    g: Map, z: Tensor, rate: float, event_dim: int = 1, order: float = 2.0, steps: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`x + g(x) = z` for every event; without gradient.

    Args:
        g: ``(*batch, *event)`` to the same shape, event by event, with a Lipschitz constant of at most ``rate``.
        z: ``(*batch, *event)``.
        rate: Below 1.
        event_dim: Number of rightmost dimensions of an event.
        order: The norm in which ``g`` contracts.
        steps: Number of evaluations of ``g`` at most; None: as many as ``rate`` and dtype ask for.

    Returns:
        ``x``, NaN where ``z`` is, and the norm of what is left of ``x + g(x) - z``, ``(*batch,)``.

    Example:
        >>> x, residual = contraction_inverse(lambda v: 0.5 * v.sin(), torch.tensor([2.0]), rate=0.5)
        >>> round(x.item(), 4), residual.item() < 1e-6
        (1.5012, True)
    """
    dims = tuple(range(-event_dim, 0))

    def size(v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v, order, dim=dims, keepdim=True)

    with torch.no_grad():
        z = z.detach()
        x, f = z, g(z)
        r = size(f)
        best, least, stale = x, r, torch.zeros_like(r)
        for _ in range(steps_needed(rate, z.dtype) if steps is None else steps):
            moving = stale < PATIENCE  # a row that stands still goes on in vain: its best is not touched again
            x = x - f
            f = g(x) + (x - z)
            r = size(f)
            better = (r < least) & moving
            best, least = torch.where(better, x, best), torch.where(better, r, least)
            stale = (stale + 1).masked_fill(better, 0.0)
            if _none(moving):
                break
        return torch.where(least.isnan(), least, best), least.flatten(-event_dim).squeeze(-1)


def attach(x: Tensor, z: Tensor, g: Map, solve: Map) -> Tensor:
    r"""Give the solution of :math:`x + g(x) = z` its first and second derivatives and leave its value alone.

    Two Newton steps in derivatives only, :math:`x \leftarrow x + s - \operatorname{detach}(s)` with
    :math:`s = (I + J)^{-1} (z - x - g(x))` and a constant :math:`J`: the first makes the first derivatives right (the
    implicit function theorem), the second those of second order.

    Args:
        x: Solution, a constant.
        z: Right-hand side.
        g: Differentiable in ``x`` and in all that it closes over.
        solve: ``v -> (I + J)^{-1} v`` with the Jacobian of ``g`` at ``x``, linear and differentiable in ``v``.
    """
    for _ in range(2):
        step = solve(z - x - g(x))
        x = x + (step - step.detach())
    return x


def _products(g: Map, x: Tensor, *, transposed: bool) -> Map:
    """The product with the Jacobian of ``g`` at ``x``, or with its transpose."""
    pull = vjp(g, x)[1]
    if transposed:
        return lambda u: pull(u)[0]
    push = vjp(lambda w: pull(w)[0], torch.zeros_like(x))[1]  # the transpose of a linear map is its derivative
    return lambda u: push(u)[0]


def _none(moving: Tensor) -> bool:
    """True if no row moved, where that can be known: not in a graph, under ``vmap``, or without data."""
    if torch.compiler.is_compiling():
        return False
    try:
        return not bool(moving.any())
    except RuntimeError:  # what torch raises when a batched or meta tensor is asked for its value
        return False


def linear_solve(g: Map, x: Tensor, v: Tensor, rate: float, event_dim: int = 1, order: float = 2.0) -> Tensor:
    r"""Solve :math:`(I + J) u = v` with the Jacobian of a contraction ``g`` at ``x``, by iterations.

    Differentiable in ``v``: the derivative of a solve is a solve with the transpose, and back; no iteration is recorded
    (but in a captured graph, which cannot look into such a rule without a warning).
    """
    if torch.compiler.is_compiling():
        push, u = _products(g, x.detach(), transposed=False), v
        for _ in range(steps_needed(rate, v.dtype)):
            u = v - push(u)
        return u
    out: Tensor = _LinearSolve.apply(v, x, g, rate, event_dim, order, False)  # noqa: FBT003
    return out


class _LinearSolve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, x: Tensor, g: Map, rate: float, event_dim: int, order: float, transposed: bool) -> Tensor:  # noqa: FBT001
        if transposed:
            order = math.inf if order == 1 else 1.0 if order == math.inf else order / (order - 1)
        return contraction_inverse(_products(g, x, transposed=transposed), v, rate, event_dim, order)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, x, *ctx.rest, ctx.transposed = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return _LinearSolve.apply(grad, x, *ctx.rest, not ctx.transposed), None, None, None, None, None, None

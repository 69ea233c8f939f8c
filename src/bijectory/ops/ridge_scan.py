r"""Many ridges one after the other, in their own few dimensions.

A stack :math:`x \leftarrow x + U_l t_l,\; t_l = \tanh(W_l x + b_l)` needs of :math:`x` only the products :math:`W_l x`. With
all of them at the start, :math:`a = W x + b`, and all products :math:`G = W U`,

.. math:: t_l = \tanh\bigl(a_l + \sum_{j < l} G_{lj}\, t_j\bigr), \qquad x \leftarrow x + U t :

two matrix products for a block of layers, and between them a recursion that never touches the dimensions of :math:`x`. Its
derivative is the same recursion backwards, with :math:`1 - t^2`; both work in one piece of memory.
"""

from typing import Any

import torch
from torch import Tensor

_tanh_backward = torch.ops.aten.tanh_backward


def ridge_scan(start: Tensor, coupling: Tensor, size: int) -> Tensor:
    r"""Solve :math:`t = \tanh(a + N t)` from the top, with ``N`` strictly block lower triangular.

    Plain calls only (``ops.eager.is_direct``); differentiable twice.

    Args:
        start: :math:`a`, ``(rows, columns)``.
        coupling: ``(rows, rows)``, of which the blocks below the diagonal are read.
        size: Rows of a block, a divisor of ``rows``.

    Example:
        >>> start, coupling = torch.tensor([[1.0], [2.0]]), torch.tensor([[9.0, 9.0], [-2.0, 9.0]])
        >>> t = ridge_scan(start, coupling, 1)
        >>> bool(t[1] == (2 - 2 * torch.tensor(1.0).tanh()).tanh())
        True
    """
    if torch.is_grad_enabled() and (start.requires_grad or coupling.requires_grad):
        out: Tensor = _Scan.apply(start, coupling, size)
        return out
    return _scan(start, coupling, size)


def _scan(start: Tensor, coupling: Tensor, size: int) -> Tensor:
    t = torch.empty_like(start)
    for i in range(0, len(start), size):
        rows = t[i : i + size]
        if i:
            torch.addmm(start[i : i + size], coupling[i : i + size, :i], t[:i], out=rows).tanh_()
        else:
            torch.tanh(start[:size], out=rows)
    return t


def _recorded(start: Tensor, coupling: Tensor, size: int) -> Tensor:
    """The same of operations that autograd can differentiate any number of times."""
    t = torch.tanh(start[:size])
    for i in range(size, len(start), size):
        t = torch.cat((t, torch.tanh(torch.addmm(start[i : i + size], coupling[i : i + size, :i], t))))
    return t


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, start: Tensor, coupling: Tensor, size: int) -> Tensor:
        t = _scan(start, coupling, size)
        ctx.size = size
        ctx.save_for_backward(start, coupling, t)
        return t

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        start, coupling, t = ctx.saved_tensors
        size, n = ctx.size, len(t)
        if torch.is_grad_enabled():  # a backward pass that is itself recorded
            d_start, d_coupling = torch.func.vjp(lambda a, m: _recorded(a, m, size), start, coupling)[1](g)
            return d_start, d_coupling, None
        d, across = torch.empty_like(t), coupling.mT
        for i in range(n - size, -1, -size):
            rows, done = d[i : i + size], i + size
            seen = g[i:done]
            if done < n:
                seen = torch.addmm(seen, across[i:done, done:], d[done:], out=rows)
            _tanh_backward.grad_input(seen, t[i:done], grad_input=rows)
        below = (d @ t.mT).tril(-1)
        if size > 1:  # the blocks on the diagonal are not read
            block = torch.arange(n, device=t.device) // size
            below = below.masked_fill(block.unsqueeze(1) == block, 0.0)
        return d, below, None

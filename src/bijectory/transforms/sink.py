"""Gradients of a fit that go past the graph, straight from the kernels into one piece of memory."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bijectory.errors import FlowError, check
from bijectory.ops.layers import Homes, Kept, Program, run, run_back
from bijectory.ops.native import is_first_order

if TYPE_CHECKING:
    from bijectory.transforms.fused import Run

Tensors = list[Tensor | None]


class Sink:
    """Gradients of weights in one piece of memory, to which the kernels add them past the graph.

    A graph hands every weight its gradient by itself, which for forty weights costs as much as a small model. Here ``grad``
    of every weight is a view of ``flat``; what else depends on a weight adds to the same view. Good for one ``backward``,
    not for ``torch.autograd.grad`` or second derivatives; so it is open for the loss of a step, from ``clear`` to ``close``.

    Args:
        runs: Whose weights these are; those with hooks, not trained, or of another dtype than the first
            stay with the graph.
    """

    is_open = False

    def __init__(self, runs: "Sequence[Run]") -> None:
        self.runs, self.anchor = list(runs), torch.zeros((), requires_grad=True)  # for which there is a graph at all
        trained = [t for own in runs for t in own.jobs["forward"][1].weights() if t.requires_grad and not _hooks(t)]
        found = {id(t): t for t in trained if t.dtype == trained[0].dtype}
        self.weights = list(found.values())
        sizes = [t.numel() for t in self.weights]
        self.flat = torch.zeros(sum(sizes), dtype=trained[0].dtype if trained else None)
        self.grads = [g.view(t.shape) for t, g in zip(self.weights, self.flat.split(sizes), strict=True)]
        self._places = dict(zip(found, self.grads, strict=True))
        self._homes: dict[int, Homes] = {}
        for own in runs:
            own.sink = self

    def homes(self, program: Program, tensors: Tensors) -> Homes:
        """Where the gradients of tensors of a program are added to; those of others stay with the graph."""
        places = [self._places.get(id(t)) for t in tensors]
        known = self._homes.get(id(program))
        if known is None or not all(map(operator.is_, places, known.places)):
            known = self._homes[id(program)] = Homes(places)
        return known

    def clear(self) -> None:
        """Start a step: every gradient is zero, and what runs from now on adds to it."""
        self.is_open = True
        self.flat.zero_()
        for t, g in zip(self.weights, self.grads, strict=True):
            t.grad = g

    def close(self) -> None:
        """The gradients are complete: what runs from now on leaves its own to the graph."""
        self.is_open = False

    def release(self) -> None:
        """Leave gradients to the graph again."""
        for own in self.runs:
            own.sink = None
        for t in self.weights:
            t.grad = None


class Sunk(torch.autograd.Function):
    """A run of layers whose weights hand their gradients to a sink: once, and not twice differentiable."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, tensors: Tensors, homes: Homes, _: Tensor, x: Tensor, *graphed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        y, ladj, kept = run(program, x, tensors, keep=True)
        ctx.program, ctx.tensors, ctx.homes = program, tensors, homes
        ctx.save_for_backward(*kept)  # type: ignore[misc]
        return y, ladj

    @staticmethod
    def backward(ctx: Any, g_y: Tensor, g_ladj: Tensor) -> tuple[Tensor | None, ...]:
        text = "the loss of a step is not twice differentiable; take second derivatives of copy.deepcopy(model)."
        check(is_first_order(g_y, g_ladj), FlowError, text)
        g_x, gradients = run_back(ctx.program, Kept(*ctx.saved_tensors), ctx.tensors, g_y, g_ladj, ctx.homes)
        return None, None, None, None, g_x, *(gradients[i] for i in ctx.homes.others)


def _hooks(t: Tensor) -> bool:
    return bool(t._backward_hooks or t._post_accumulate_grad_hooks)

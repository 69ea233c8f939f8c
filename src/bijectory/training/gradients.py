"""Loss and gradients of a batch: operation by operation, or by replaying a captured CUDA graph.

A flow of many small layers keeps a GPU waiting for Python. A *graph* holds every kernel of forward pass, backward pass
and gradient norm, and runs them with one call. It repeats what it saw: the same kernels on the same memory. So the
batch and its share are copied into tensors that the graph reads, gradients are lent to the parameters after each
replay, and whatever changes from step to step stays outside: whether the step counts (the guard reads loss and norm),
the learning rate, clipping, the optimiser and the average of the weights, which are a handful of calls that each serve
all parameters at once.

What Python computes from step to step would be frozen in a graph. Hence only the likelihood of an exact flow without random
numbers of its own is captured; a graph is made again where parameters were moved, frozen or thawed; and before it is used
its loss and norm must equal those of a plain step on another batch than the one that it was captured with.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from bijectory.densities import Flow
from bijectory.errors import DtypeError, check
from bijectory.nets.redrawn import redrawn_parts
from bijectory.objectives import Batch, nll
from bijectory.objectives.batch import Objective
from bijectory.ops.native import on_gpu
from bijectory.training import rng
from bijectory.training.update import Update
from bijectory.transforms.regions import RegionWarning

WARM_UP = 3  # steps before a capture, in which libraries and the allocator settle
AGREE = 1e-3  # relative: largest difference in loss and norm between a replayed and a plain step
Precision = Literal["full", "bf16"]
Result = tuple[Tensor, Tensor]


def graphable(model: nn.Module, objective: Objective) -> bool:
    """Whether steps may be captured: the likelihood of an exact flow on a GPU, without random numbers of its own."""
    there = all(on_gpu(p.device) for p in model.parameters())
    return there and objective is nll and isinstance(model, Flow) and model.exact and not redrawn_parts(model)


class Gradients:
    """Computes gradients into ``p.grad``.

    Args:
        model: The model in training.
        params: What is trained.
        sample: A batch of full size, to capture with.
        precision: "bf16": networks compute in bfloat16 (autocast); parameters, gradients and log-determinants do not.
        update: Drops gradients and computes their norm.

    Raises:
        DtypeError: If the precision is "bf16" and a parameter is not float32, which autocast would leave as it is.
    """

    def __init__(
        self,
        model: nn.Module,
        params: list[nn.Parameter],
        sample: Batch,
        precision: Precision,
        update: Update,
    ) -> None:
        self.update = update
        self.model, self.params, self.sample, self.precision = model, params, sample, precision
        self.graph: Graph | None = None
        self.refused = False  # after the first failure
        other = next((p.dtype for p in params if p.dtype != torch.float32), torch.float32)
        text = f"precision='bf16' is for float32 models, this one holds {other}; use model.float() or precision='full'."
        check(precision == "full" or other == torch.float32, DtypeError, text)

    def __call__(self, loss: Objective, batch: Batch, share: float, *, capture: bool) -> Result:
        """Loss and norm of the gradients.

        Args:
            loss: The objective.
            batch: Rows.
            share: Their part of a full batch, by which gradients are multiplied.
            capture: Whether a graph may be made and replayed.
        """
        if not capture or self.refused:
            self.graph = None
            return self.plain(loss, batch, share)
        if len(batch.x) != len(self.sample.x):  # the last, smaller batch of an epoch
            return self.plain(loss, batch, share)
        if self.graph is None or self.graph.marks != marks(self.model, self.params):
            return self.capture(loss, batch, share)
        return self.graph(batch, share)

    def plain(self, loss: Objective, batch: Batch, share: float | Tensor) -> Result:
        """Operation by operation."""
        self.update.forget()
        with self.arithmetic():
            value = loss(self.model, batch)
        # Every row weighs the same over an epoch, in a small last batch or in one of light weights too.
        (value if isinstance(share, float) and share == 1.0 else value * share).backward()
        return value.detach(), self.update.norm()

    def arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """The precision of the forward pass."""
        if self.precision == "full":
            return contextlib.nullcontext()
        return torch.autocast(self.params[0].device.type, torch.bfloat16)

    def capture(self, loss: Objective, batch: Batch, share: float) -> Result:
        """A plain step, and a graph for those that follow if it agrees; else one warning, and plain steps."""
        graph, problem = None, ""
        try:
            with unchanged(self.model):
                graph = Graph(self, loss)
                found = [t.clone() for t in graph(batch, share)]
        except Exception as error:  # of the driver, or an operation that cannot be captured
            problem = str(error).strip().partition("\n")[0] or repr(error)
        exact = self.plain(loss, batch, share)
        if graph is not None and all(math.isfinite(t.item()) for t in exact):  # else nothing can be compared: try again
            if all(torch.allclose(a, b, rtol=AGREE) for a, b in zip(found, exact, strict=True)):
                self.graph = graph
            else:
                problem = f"it gives {found[0].item():.6g} where a plain step gives {exact[0].item():.6g}"
        if problem:
            self.refused = True
            text = f"capturing the step failed, going on without: {problem}"
            warnings.warn(text, RegionWarning, stacklevel=6)
        return exact


class Graph:
    """A captured step.

    Args:
        gradients: The plain step, with its sample.
        loss: The objective.
    """

    def __init__(self, gradients: Gradients, loss: Objective) -> None:
        self.params = gradients.params
        self.marks = marks(gradients.model, self.params)
        x, c, weight = gradients.sample
        self.batch = Batch(x.clone(), None if c is None else c.clone(), None if weight is None else weight.clone())
        self.share = torch.ones((), dtype=self.params[0].dtype, device=self.params[0].device)

        def step() -> Result:
            return gradients.plain(loss, self.batch, self.share)

        warm_up(step, x.device)
        for p in self.params:
            p.grad = None  # so that those of the graph are its own
        self.result, self.replay = capture(step, x.device)
        self.grads = [p.grad for p in self.params]  # where every replay writes them

    def __call__(self, batch: Batch, share: float) -> Result:
        """Replay for another batch of the same size; what is returned is overwritten by the next call."""
        for mine, new in zip(self.batch, batch, strict=True):
            if mine is not None and new is not None:
                mine.copy_(new)
        self.share.fill_(share)
        self.replay()
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad
        return self.result


def warm_up(function: Callable[[], Result], device: torch.device) -> None:
    """Run a function a few times beside the stream of the others, as a capture asks for."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)


def capture(function: Callable[[], Result], device: torch.device) -> tuple[Result, Callable[[], None]]:
    """Capture a function: what it returns, and how to repeat it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        result = function()
    return result, graph.replay


def marks(model: nn.Module, params: list[nn.Parameter]) -> tuple[object, ...]:
    """What a graph has frozen: where parameters lie, which are trained, and the mode of the model."""
    return model.training, *((p.data_ptr(), p.requires_grad) for p in params)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Take back what runs of the model do to the random generators and to its buffers."""
    states, buffers = rng.capture(), [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        rng.restore(states)
        with torch.no_grad():
            for buffer, old in buffers:
                buffer.copy_(old)

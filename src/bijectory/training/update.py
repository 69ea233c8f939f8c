"""From gradients to new weights: what ``torch.optim.AdamW`` does, without what it finds out anew in every step.

A small model has some fifty parameters, and a step that looks at each of them from Python several times costs as much as
the model itself. Here the gradients that lie side by side in one piece of memory (so the native kernels write them) count as
one, are scaled only when they are too long, and the counters of the optimiser are one tensor of which each parameter has an
element. The state is where torch keeps it, and the numbers are those of ``optimizer.step()``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.transforms.sink import Sink


class Update:
    """The steps of an optimiser.

    Args:
        optimizer: AdamW with one group of parameters.
        params: Of the group, in its order.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter]) -> None:
        self.optimizer = optimizer
        self.params: list[Tensor] = list(params)
        self.singly = self.params  # those whose gradients the graph brings
        self.entries: list[dict[str, Tensor]] = []  # the state of every parameter, of which the lists below are made
        self.lists: tuple[list[Tensor], ...] = ()
        self.counts = torch.empty(0)
        self.sink: Sink | None = None
        group = optimizer.param_groups[0]
        self.alike = all(p.device.type == "cpu" and p.dtype == params[0].dtype for p in params)
        self.simple = self.alike and bool(group["fused"]) and len(optimizer.param_groups) == 1

    def lend(self, sink: Sink | None) -> None:
        """Let gradients of weights go past the graph, or (None) take that back."""
        if self.sink is not None:
            self.sink.release()
        self.sink = sink
        sunk = set() if sink is None else {id(t) for t in sink.weights}
        self.singly = [p for p in self.params if id(p) not in sunk]

    def forget(self) -> None:
        """Drop the gradients."""
        if self.sink is not None and not all(t.requires_grad for t in self.sink.weights):
            self.lend(None)  # frozen on the way: no gradient is not a gradient of zero
        for p in self.singly:
            p.grad = None
        if self.sink is not None:
            self.sink.clear()

    def gradients(self) -> list[Tensor]:
        """The gradients; neighbours within one piece of memory are one flat tensor."""
        pairs = [(p.grad, p.numel() * p.element_size()) for p in self.singly if p.grad is not None]
        found: list[Tensor] = [] if self.sink is None else [self.sink.flat]
        k = 0
        while k < len(pairs):
            first, start = pairs[k][0], k
            end = first.data_ptr()
            # Two pieces that only happen to touch stay two: then the order of a sum would hang on the allocator.
            storage = first.untyped_storage()
            limit = storage.data_ptr() + storage.nbytes()
            while k < len(pairs) and (g := pairs[k][0]).data_ptr() == end and g.is_contiguous():
                if end + pairs[k][1] > limit or g.dtype != first.dtype:
                    break
                end += pairs[k][1]
                k += 1
            if k - start < 2:
                found.append(first)
                k = start + 1
            else:
                count = (end - first.data_ptr()) // first.element_size()
                found.append(first.as_strided((count,), (1,)))
        return found

    def norm(self) -> Tensor:
        """The joint norm of the gradients that the parameters hold now, complete."""
        self._close()
        return self.length(self.gradients())

    def length(self, gradients: list[Tensor]) -> Tensor:
        """The joint norm of ``gradients()``."""
        if len(gradients) == 1:
            return torch.linalg.vector_norm(gradients[0])
        if not gradients or not self.alike:
            return nn.utils.get_total_norm(gradients)
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def step(self, lr: float) -> None:
        """Move the weights.

        Args:
            lr: Learning rate.
        """
        self._close()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if not self._is_ready():
            self.optimizer.step()
            self._bind()
            return
        group = self.optimizer.param_groups[0]
        with torch.no_grad():
            self.counts.add_(1)
            torch._fused_adamw_(
                self.params, [p.grad for p in self.params if p.grad is not None], *self.lists,
                lr=lr, beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
                eps=group["eps"], amsgrad=False, maximize=group["maximize"], grad_scale=None, found_inf=None,
            )  # fmt: skip

    def _close(self) -> None:
        if self.sink is not None:
            self.sink.close()

    def _is_ready(self) -> bool:
        """Whether the lists are those of the optimiser's state, and the step is one that needs nothing else."""
        state: Any = self.optimizer.state
        if not self.lists or len(state) != len(self.params) or any(p.grad is None for p in self.params):
            return False
        ours = all(state.get(self.params[k]) is self.entries[k] for k in (0, -1))
        hooked = self.optimizer._optimizer_step_pre_hooks or self.optimizer._optimizer_step_post_hooks
        return ours and not hooked and "step" not in vars(self.optimizer)

    def _bind(self) -> None:
        """Take hold of the state, with one tensor for all counters."""
        state: Any = self.optimizer.state
        self.lists = ()
        if not self.simple or len(state) != len(self.params):
            return
        self.entries = [state[p] for p in self.params]
        if any(set(entry) != {"step", "exp_avg", "exp_avg_sq"} for entry in self.entries):
            return
        self.counts = torch.stack([entry["step"] for entry in self.entries])
        for entry, count in zip(self.entries, self.counts.unbind(), strict=True):
            entry["step"] = count
        columns = [[entry[name] for entry in self.entries] for name in ("exp_avg", "exp_avg_sq", "step")]
        self.lists = (columns[0], columns[1], [], columns[2])


def shorten(gradients: Sequence[Tensor], longest: float, norm: Tensor, value: float) -> None:
    """Scale gradients in place so that their norm is at most ``longest``.

    Args:
        gradients: As from ``Update.gradients``.
        longest: Largest norm.
        norm: Their norm.
        value: The same as a number.
    """
    if value + 1e-6 > longest:
        scale = (longest / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))

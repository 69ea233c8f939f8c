"""Exponential moving average of the weights."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class EMA:
    r"""Average :math:`\bar\theta \leftarrow \beta_t \bar\theta + (1 - \beta_t) \theta` of the trainable parameters.

    Args:
        model: The module whose parameters are averaged.
        decay: :math:`\beta`. The first updates use :math:`\beta_t = \min(\beta, (1 + t) / (10 + t))`, so that the random
            start is forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shadow = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the current weights."""
        beta = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self.shadow.values()), list(self.live.values()), 1 - beta)

    @torch.no_grad()
    def reset(self) -> None:
        """Start again from the current weights."""
        for name, p in self.live.items():
            self.shadow[name].copy_(p)
        self.updates = 0

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Lend the averaged weights to the model."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.live.items():
            held = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(held)

"""The protocol of modules that hold random numbers of their own, the probes of an estimate."""

import abc
import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class Redrawn(nn.Module, abc.ABC):
    """A module that keeps random numbers in buffers, so that it is a function, and can be asked for others.

    A network that is trained with the same numbers throughout learns to please them. ``fit`` lends every step of training
    fresh ones, and validates and saves with those that the module came with.

    Attributes:
        drawn: Names of the buffers that ``redraw`` replaces; the buffers may be None.
    """

    drawn: tuple[str, ...] = ()

    @abc.abstractmethod
    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Replace the numbers, in place.

        Args:
            generator: Where they come from; None: the global generator.
        """


@contextlib.contextmanager
def redrawn(model: nn.Module, generator: torch.Generator | None = None) -> Iterator[None]:
    """Lend fresh numbers to all ``Redrawn`` parts of a model, and give the old ones back afterwards."""
    parts = [part for part in model.modules() if isinstance(part, Redrawn)]
    buffers = [getattr(part, name) for part in parts for name in part.drawn]
    kept = [(b, b.clone()) for b in buffers if b is not None]
    for part in parts:
        part.redraw(generator)
    try:
        yield
    finally:
        for buffer, old in kept:
            buffer.copy_(old)

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


def redrawn_parts(model: nn.Module) -> list[Redrawn]:
    """All parts of a model that hold random numbers; the search costs as much as a layer, so do it once."""
    return [part for part in model.modules() if isinstance(part, Redrawn)]


def redrawn(
    model: nn.Module | list[Redrawn], generator: torch.Generator | None = None
) -> contextlib.AbstractContextManager[None]:
    """Lend fresh numbers to all ``Redrawn`` parts of a model (or to those given), and take them back afterwards."""
    parts = redrawn_parts(model) if isinstance(model, nn.Module) else model
    return _lent(parts, generator) if parts else contextlib.nullcontext()


@contextlib.contextmanager
def _lent(parts: list[Redrawn], generator: torch.Generator | None) -> Iterator[None]:
    buffers = [getattr(part, name) for part in parts for name in part.drawn]
    kept = [(b, b.clone()) for b in buffers if b is not None]
    for part in parts:
        part.redraw(generator)
    try:
        yield
    finally:
        for buffer, old in kept:
            buffer.copy_(old)

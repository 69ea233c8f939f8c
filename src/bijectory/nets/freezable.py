"""The protocol of modules that can precompute something for evaluation."""

import abc
from typing import Any

from torch import nn


class Freezable(nn.Module, abc.ABC):
    """A module that can be asked to ``freeze``: to precompute what its weights alone determine.

    ``Flow.frozen`` asks, on a copy. The ``state_dict`` keeps its keys and meaning: a frozen copy is stored and loaded as
    the plain module, and new weights loaded into a frozen copy are frozen again.

    Attributes:
        is_frozen: Whether ``freeze`` was called.
        precomputed: Names of the buffers that are None unless frozen.
    """

    is_frozen: bool = False
    precomputed: tuple[str, ...] = ()

    def freeze(self) -> None:
        """Precompute, once and for all: later changes of the weights (other than by loading) are not followed."""
        self.precompute()
        self.is_frozen = True

    def thaw(self) -> None:
        """Forget what was precomputed: the plain module again, with the same numbers."""
        if self.is_frozen:
            del self.is_frozen  # back to the default of the class
            for name in self.precomputed:
                setattr(self, name, None)

    @abc.abstractmethod
    def precompute(self) -> None:
        """Set non-persistent buffers from the weights."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.is_frozen:
            self.precompute()

"""The protocol of modules that can precompute something for evaluation."""

import abc


class Freezable(abc.ABC):
    """A module that ``Flow.frozen`` asks, on the copy, to precompute what only its weights determine."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Precompute, once the weights are final.

        The ``state_dict`` keeps its keys and meaning, so a frozen copy is stored and loaded as the plain module.
        """

"""Hooks into the loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bijectory.training.state import FitResult, Run


class Callback:
    """Something that watches a fit: derive from it and override what you need.

    Hooks run between steps, when model, optimizer and counters agree. Returning True from ``on_step`` or ``on_epoch`` ends
    the fit (``stop_reason="callback"``) after a checkpoint; so does raising KeyboardInterrupt ("interrupted").

    Example:
        >>> class StopAt(Callback):
        ...     def on_step(self, run):
        ...         return run.step >= 10
    """

    def on_start(self, run: "Run") -> None:
        """Before the first step; ``run`` holds model, optimizer and all counters."""

    def on_step(self, run: "Run") -> bool | None:
        """After every step."""

    def on_epoch(self, run: "Run", record: dict[str, float]) -> bool | None:
        """After every validation; ``record`` is the line added to the history."""

    def on_stop(self, run: "Run", result: "FitResult") -> None:
        """After the last step, with the best weights restored."""

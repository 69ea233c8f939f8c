"""Ctrl-C and SIGTERM as a polite request to stop after the step."""

import contextlib
import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupts:
    """While active, the first SIGINT or SIGTERM is noted in ``signum``; the second acts at once, as it would have before.

    Outside the main thread, where Python allows no handlers, nothing is installed.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = number
            return
        old = self._old.get(number)
        self._restore()
        if callable(old):
            old(number, frame)
        else:
            signal.raise_signal(number)

    def _restore(self) -> None:
        while self._old:
            number, handler = self._old.popitem()
            with contextlib.suppress(TypeError):  # a handler that was not installed from Python cannot be put back
                signal.signal(number, handler)

"""Compilation in a fit: never, from the first step, or once the work ahead is worth what it costs.

On the CPU couplings, autoregressive layers, planar maps and splines run in native kernels (see ``Flow.compiled``), compiled
in seconds.
``"always"`` compiles other models as a whole with ``torch.compile``, objective included: minutes, for deep flows.
On a GPU the kernels are Triton's, and steps that can be are captured as a CUDA graph instead of being compiled as a whole;
see ``gradients.py``.
"""

import statistics
import sys
import warnings
from typing import Literal

from torch import nn

from bijectory.objectives.batch import Objective
from bijectory.training.evaluate import compiled
from bijectory.training.gradients import graphable
from bijectory.transforms.chain import has_native, plain_layers, use_native
from bijectory.transforms.regions import RegionWarning

SECONDS = 5.0  # to compile the kernels, on a slow or busy machine
WORTH = 10  # the plain steps ahead must take so many times longer: if compiling gains nothing, a tenth is lost
STEPS = 25  # looked at before a decision
SETTLE = 4  # steps after the first compiled one that may still be slower
GAIN = 0.95  # a compiled step must take at most so much of a plain one


class Compilation:
    """What of a fit is compiled now.

    With ``"auto"`` the first steps are plain and timed. If the rest of the run, at that pace, is ``WORTH`` times longer
    than compiling may take, the kernels are compiled and timed, and kept if they are faster.

    Args:
        mode: "never", "always" or "auto".
        model: The model in training.
        objective: Its loss.
        progress: Whether to say on stderr what was decided.
    """

    def __init__(
        self, mode: Literal["never", "always", "auto"], model: nn.Module, objective: Objective, *, progress: bool
    ) -> None:
        self.model, self.objective, self.progress = model, objective, progress
        self.loss = objective
        self.active = False  # whether steps run compiled
        self.graphs = graphable(model, objective)
        self.phase = "watch" if mode == "auto" else "done"
        self.plain, self.times = 0.0, list[float]()
        if mode == "always" and self.worthwhile():
            self.start()
        elif mode == "always":
            self.loss, self.active = compiled(objective), True

    def worthwhile(self) -> bool:
        """Whether there are kernels for the model, or its steps can be captured."""
        return self.graphs or has_native(self.model)

    @property
    def captures(self) -> bool:
        """Whether steps may run as a captured graph now."""
        return self.active and self.graphs

    def start(self) -> None:
        """Run in native kernels and graphs from the next step on; without a compiler one warning, and plain layers."""
        self.active = self.graphs
        try:
            self.active = use_native(self.model) or self.graphs
        except OSError as error:
            warnings.warn(f"compile failed, going on without: {error}", RegionWarning, stacklevel=2)

    def stop(self) -> None:
        """Give the model back as it was."""
        if self.active:
            plain_layers(self.model)
        self.active, self.phase, self.loss = False, "done", self.objective

    def give_up(self, error: Exception) -> bool:
        """After an error in a step: whether it may be the compiler's, so that a plain step is worth a try."""
        if not self.active:
            return False
        self.stop()
        first = str(error).strip().partition("\n")[0] or repr(error)
        warnings.warn(f"compile failed, going on without: {first}", RegionWarning, stacklevel=3)
        return True

    def after_step(self, seconds: float, ahead: float) -> None:
        """Look at the time of a step and decide.

        Args:
            seconds: Of the step just taken.
            ahead: What is left: seconds if the clock ends the run, else minus the number of steps.
        """
        if self.phase == "done":
            return
        self.times.append(seconds)
        if self.phase == "watch" and len(self.times) == STEPS:
            self.plain = statistics.median(self.times)
            left = ahead if ahead >= 0 else -ahead * self.plain
            self.phase, self.times = "done", []
            if self.worthwhile() and left >= WORTH * SECONDS:
                self.start()
                self.phase = "trial" if self.active else "done"
        elif self.phase == "trial" and len(self.times) == SETTLE + STEPS:
            fast = statistics.median(self.times[SETTLE:])
            kept = fast <= GAIN * self.plain
            if self.progress:
                fate = "kept" if kept else "taken back"
                text = f"compiled: {fast * 1e3:.2f} ms a step instead of {self.plain * 1e3:.2f}, {fate}"
                print(text, file=sys.stderr, flush=True)
            self.phase = "done"
            if not kept:
                self.stop()

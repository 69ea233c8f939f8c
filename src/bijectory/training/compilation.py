"""Compilation in a fit: never, from the first step, or once the work ahead is worth what it costs.

Chains are compiled in regions (see ``Flow.compiled``), for steps only; validation and checkpoints run the plain layers. A
model without regions is compiled as a whole, objective included, if that is asked for by ``"always"``.
"""

import os
import shutil
import statistics
import sys
import warnings
from typing import Literal

import torch
from torch import nn

from bijectory.objectives.batch import Objective
from bijectory.training.evaluate import compiled
from bijectory.transforms.chain import compile_regions, plain_regions
from bijectory.transforms.regions import RegionWarning

BACKEND = "inductor"
REGION_SECONDS = 30.0  # of one core, to compile a region of splines with its gradients and nothing cached
WORTH = 10  # the plain steps ahead must take so many times longer: if compiling gains nothing, a tenth is lost
STEPS = 25  # looked at before a decision
SETTLE = 4  # steps after the first compiled one in which other shapes may still be compiled
GAIN = 0.95  # a compiled step must take at most so much of a plain one
COMPILERS = ("c++", "g++", "clang++", "cl")


class Compilation:
    """What of a fit is compiled now.

    With ``"auto"`` the first steps are plain and timed. If the rest of the run, at that pace, is ``WORTH`` times longer
    than compiling may take, regions are compiled and timed, and kept if they are faster.

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
        self.phase = "watch" if mode == "auto" else "done"
        self.plain, self.times, self.regions = 0.0, list[float](), 0
        if mode == "always":
            self.start()
            if not self.active:
                self.loss, self.active = compiled(objective), True

    def start(self) -> None:
        """Compile in regions from the next step on, if there are any."""
        found = compile_regions(self.model, backend=BACKEND, training=True)
        # Objectives look at data or at draws: one direction has to be compiled.
        self.regions = max(sum(r.way == way for r in found) for way in ("forward", "inverse"))
        self.active = self.regions > 0

    def stop(self) -> None:
        """Give the model back as it was."""
        if self.active:
            plain_regions(self.model)
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
            ahead: Seconds or steps left: the seconds if the clock ends the run, else the negative number of steps.
        """
        if self.phase == "done":
            return
        self.times.append(seconds)
        if self.phase == "watch" and len(self.times) == STEPS:
            self.plain = statistics.median(self.times)
            self._decide(ahead if ahead >= 0 else -ahead * self.plain)
        elif self.phase == "trial" and len(self.times) == SETTLE + STEPS:
            fast = statistics.median(self.times[SETTLE:])
            kept = fast <= GAIN * self.plain
            self._say(f"{fast * 1e3:.2f} ms a step, {self.plain * 1e3:.2f} before{'' if kept else ': taken back'}")
            self.phase = "done"
            if not kept:
                self.stop()

    def _decide(self, left: float) -> None:
        self.phase, self.times = "done", []
        self.start()
        if not self.active:
            return
        if left < WORTH * REGION_SECONDS * self.regions:
            self.stop()
        elif not has_compiler(next(self.model.parameters()).device):
            self.stop()
            warnings.warn(
                "no C++ compiler was found, so nothing is compiled; install g++.", RegionWarning, stacklevel=5
            )
        else:
            self._say(f"{self.regions} regions, worth it for the {left / 60:.0f} minutes ahead")
            self.phase = "trial"

    def _say(self, text: str) -> None:
        if self.progress:
            print(f"compile: {text}", file=sys.stderr, flush=True)


def has_compiler(device: torch.device) -> bool:
    """Whether there is what ``torch.compile`` needs on a device: a C++ compiler, on a GPU Triton too."""
    if device.type != "cpu":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS))))

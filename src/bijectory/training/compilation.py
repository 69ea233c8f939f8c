"""Compilation in a fit: never, always, or where the work ahead is worth what it costs.

On the CPU couplings, autoregressive layers, planar maps, splines and continuous flows run in native kernels (see
``Flow.compiled``), compiled in seconds. ``"always"`` compiles other models as a whole with ``torch.compile``, objective
included: minutes, for deep flows.
On a GPU the kernels are Triton's, and steps that can be are captured as a CUDA graph instead of being compiled as a whole;
see ``gradients.py``.

Kernels differ from plain layers in rounding. So ``"auto"`` decides before the first step, by counting: neither the clock nor
what this machine has compiled before has a say, and the same fit gives the same numbers. The run remembers: a continued run
goes on as it began.
"""

import warnings
from typing import Literal

from torch import nn

from bijectory.bijections import RationalQuadratic
from bijectory.objectives.batch import Objective
from bijectory.objectives.matching import FlowMatching
from bijectory.ops.ode import find_tableau
from bijectory.training.evaluate import compiled
from bijectory.training.gradients import graphable
from bijectory.transforms.chain import has_native, plain_layers, use_native
from bijectory.transforms.continuous import Continuous
from bijectory.transforms.regions import RegionWarning

SECONDS = 5.0  # to compile the kernels, on a slow or busy machine
WORTH = 4  # the plain steps ahead must take so many times longer: kernels save a third to two thirds of a step
RATE = 5e10  # operations of plain layers in a second, of a core; and what a step takes whatever the number of rows:
PER_TENSOR, PER_SPLINE = 8e-5, 1e-3  # seconds for every trained tensor, and for every layer of splines
PER_EVALUATION = 3e-4  # seconds for every evaluation of the field of a continuous flow, and of its trace


class Compilation:
    """What of a fit is compiled now.

    Args:
        mode: "never", "always" or "auto".
        model: The model in training.
        objective: Its loss.
    """

    def __init__(self, mode: Literal["never", "always", "auto"], model: nn.Module, objective: Objective) -> None:
        self.mode, self.model, self.objective = mode, model, objective
        self.loss = objective
        self.active = False  # whether steps run compiled
        self.graphs = graphable(model, objective)
        self.why = f"compile={mode!r}"

    def begin(self, steps: float, rows: int, budget: float, *, earlier: bool | None) -> bool:
        """Decide, and compile what is to be compiled.

        Args:
            steps: Ahead; infinite if only the clock ends the run.
            rows: Of a step.
            budget: Seconds after which the clock ends the run; infinite if it does not.
            earlier: What was decided in the first part of a continued run; None in a new one.

        Returns:
            Whether steps run compiled; without a compiler they do not, after one warning.
        """
        known = self.graphs or has_native(self.model, solves=not isinstance(self.objective, FlowMatching))
        if self.mode == "auto" and not known:
            self.why = "there are no kernels for this model"
        elif self.mode == "auto" and earlier is not None:
            self.why = "as the run began"
        elif self.mode == "auto":
            earlier = self.pays(min(steps * step_seconds(self.model, rows), budget))
        if known and (self.mode == "always" or (self.mode == "auto" and earlier)):
            self.start()
        elif self.mode == "always":
            self.loss, self.active = compiled(self.objective), True
        return self.active

    def pays(self, ahead: float) -> bool:
        """Whether kernels are worth their compilation for so many seconds of plain steps."""
        least = WORTH * SECONDS
        self.why = f"about {ahead:.3g} s of plain steps ahead, worth it from {least:.3g} s"
        return ahead >= least

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
            self.why = f"compile failed: {error}"
            warnings.warn(f"compile failed, going on without: {error}", RegionWarning, stacklevel=2)

    def stop(self) -> None:
        """Give the model back as it was."""
        if self.active:
            plain_layers(self.model)
        self.active, self.loss = False, self.objective

    def give_up(self, error: Exception) -> bool:
        """After an error in a step: whether it may be the compiler's, so that a plain step is worth a try."""
        if not self.active:
            return False
        self.stop()
        first = str(error).strip().partition("\n")[0] or repr(error)
        self.why = f"compile failed: {first}"
        warnings.warn(f"compile failed, going on without: {first}", RegionWarning, stacklevel=3)
        return True

    def __str__(self) -> str:
        return f"{'compiled' if self.active else 'plain'} steps: {self.why}"


def step_seconds(model: nn.Module, rows: int) -> float:
    """What a plain step takes, roughly, by counting: within a factor of two for the recipes that have kernels.

    Networks that look at a row more than once (convolutions, solvers with adaptive steps) take longer.

    Example:
        >>> from bijectory import cnf, nsf, real_nvp
        >>> [f"{step_seconds(recipe(6), 512) * 1e3:.0f} ms" for recipe in (nsf, real_nvp, cnf)]
        ['20 ms', '13 ms', '46 ms']
    """
    params = [p for p in model.parameters() if p.requires_grad]
    splines = sum(isinstance(getattr(m, "bijection", None), RationalQuadratic) for m in model.modules())
    solves = 0.0  # every evaluation of a field has products for its velocity and as many for its trace
    for m in model.modules():
        if isinstance(m, Continuous) and m.steps is not None:
            once = 12 * rows * sum(p.numel() for p in m.field.parameters()) / RATE + PER_EVALUATION
            solves += m.steps * len(find_tableau(m.method).b) * once
    # Three products for every weight and row, each a multiplication and an addition.
    return 6 * rows * sum(p.numel() for p in params) / RATE + PER_TENSOR * len(params) + PER_SPLINE * splines + solves

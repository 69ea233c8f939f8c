r"""How accurate is the solver of a continuous flow, and how many evaluations does it need?

The density of a continuous flow is true to the accuracy of its solver. ``check_solver`` asks for the same log-likelihoods
at a tolerance a hundred times tighter; ``tune_solver`` measures error against evaluations of the field (NFE) on grids of
growing size and picks the cheapest that is good enough. Errors are those of single rows, in nats:
those of a mean could cancel.
"""

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bijectory.densities import Flow
from bijectory.errors import ConfigError, check
from bijectory.transforms import Chain, Continuous

TIGHTER = 100
GRIDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
FINEST = 1e-9  # nats: a hundredth of it is the finest tolerance of the solves that errors are measured against
ACCURATE = 0.01  # nats a row: far below what a finite number of rows can tell


def solved_layers(flow: Flow) -> list[Continuous]:
    """The continuous layers of a flow, in order.

    Example:
        >>> from bijectory import cnf
        >>> len(solved_layers(cnf(2)))
        1
    """
    return [m for m in flow.transform.modules() if isinstance(m, Continuous)]


def with_solver(flow: Flow, **settings: Any) -> Flow:
    """A copy of a flow whose continuous layers have other solver settings.

    Args:
        flow: Left as it is.
        **settings: ``method``, ``steps``, ``rtol``, ``atol``, ``max_steps`` of ``Continuous``; ``steps=None`` adapts.

    Raises:
        ConfigError: On another setting, or one out of range.

    Example:
        >>> from bijectory import cnf
        >>> solved_layers(with_solver(cnf(2), steps=32))[0].steps
        32
    """
    known = ("method", "steps", "rtol", "atol", "max_steps")
    wrong = [name for name in settings if name not in known]
    check(not wrong, ConfigError, f"{wrong} are no settings of a solver; use {known}.")
    flow = copy.deepcopy(flow)
    for parent in list(flow.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Continuous):
                kept = {k: getattr(layer, k) for k in inspect.signature(Continuous).parameters}
                made = Continuous(**{**kept, **settings})
                made.load_state_dict(layer.state_dict())  # the probes of an estimated trace
                setattr(parent, name, made.train(layer.training))
    return flow


@dataclasses.dataclass(frozen=True)
class SolverCheck:
    """The same rows at two accuracies of the solver.

    Attributes:
        settings: The solver, as text.
        tolerance: Of the tighter solve.
        log_likelihood: Mean log-likelihood with the flow's own settings, nats.
        reference: The same with the tighter ones.
        error: Mean absolute difference of a row, nats.
        largest: The largest one.
        evaluations: Evaluations of the field for a row, mean, with the flow's own settings.
        reference_evaluations: The same with the tighter ones.
        standard_error: Mean standard error of a row's log-density where the trace is estimated; 0 where it is exact.
    """

    settings: str
    tolerance: float
    log_likelihood: float
    reference: float
    error: float
    largest: float
    evaluations: float
    reference_evaluations: float
    standard_error: float

    def __str__(self) -> str:
        noise = f", trace estimated to ± {self.standard_error:.2g} nats a row" if self.standard_error else ""
        return (
            f"{self.settings}: {self.evaluations:.0f} evaluations a row, off by {self.error:.2g} nats a row (largest "
            f"{self.largest:.2g}) from tolerance {self.tolerance:g} with {self.reference_evaluations:.0f} evaluations{noise}"
        )

    @property
    def ok(self) -> bool:
        """Whether a row is off by no more than 0.01 nats on average."""
        return self.error <= ACCURATE


def check_solver(flow: Flow, x: Tensor, c: Tensor | None = None, *, tolerance: float | None = None) -> SolverCheck:
    """Compare the log-likelihoods of a flow with those of a more accurate solver.

    Args:
        flow: A flow with continuous layers.
        x: Rows, ``(n, *event)``.
        c: Their contexts.
        tolerance: ``rtol`` and ``atol`` of the tighter solve; None: a hundredth of the flow's own ``rtol``.

    Raises:
        ConfigError: If no layer of the flow is continuous.
        ConvergenceError: If the tighter solve reaches its cap of steps.

    Example:
        >>> from bijectory import cnf
        >>> found = check_solver(cnf(2), torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
        >>> found.ok, found.evaluations
        (True, 48.0)
    """
    layers = _layers(flow)
    tight = min(layer.rtol for layer in layers) / TIGHTER if tolerance is None else tolerance
    exact = reference(flow, tight)
    with torch.no_grad():
        own, best = flow.log_prob(x, c).double(), exact.log_prob(x.double(), _double(c))
    gap = (own - best).abs()
    error = 0.0
    if not flow.exact:
        error = float(flow.log_prob_and_error(x, c, generator=torch.Generator().manual_seed(0))[1].mean())
    return SolverCheck(
        settings=describe(layers),
        tolerance=tight,
        log_likelihood=float(own.mean()),
        reference=float(best.mean()),
        error=float(gap.mean()),
        largest=float(gap.max()),
        evaluations=evaluations(flow, x, c),
        reference_evaluations=evaluations(exact, x.double(), _double(c)),
        standard_error=error,
    )


def tune_solver(
    flow: Flow,
    x: Tensor,
    c: Tensor | None = None,
    *,
    tolerance: float = ACCURATE,
    methods: Sequence[str] = ("midpoint", "rk4", "tsit5"),
    grids: Sequence[int] = GRIDS,
) -> tuple[Flow, pd.DataFrame]:
    """Find the solver with the fewest evaluations of the field whose log-likelihoods are accurate enough.

    Args:
        flow: A flow with continuous layers; left as it is.
        x: Rows to measure on, ``(n, *event)``; a few hundred are enough.
        c: Their contexts.
        tolerance: Largest mean absolute error of a row, nats.
        methods: Names of tableaus to try.
        grids: Numbers of steps to try, ascending; a method is left once it is accurate enough.

    Returns:
        A copy of the flow with the chosen solver, and the trade-off: one line for each solver tried, with its evaluations,
        mean and largest error.

    Raises:
        ConfigError: If no layer is continuous, the tolerance is below 1e-9, or no solver tried is accurate enough: then the
            best one is named.

    Example:
        >>> from bijectory import cnf
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> tuned, table = tune_solver(cnf(2), x, tolerance=1e-4)
        >>> list(table.columns)
        ['method', 'steps', 'evaluations', 'error', 'largest']
    """
    layers = _layers(flow)
    fine = tolerance >= FINEST
    check(fine, ConfigError, f"tolerance={tolerance:g} is below what double precision tells; use {FINEST:g} or more.")
    exact = reference(flow, min(min(layer.rtol for layer in layers) / TIGHTER, tolerance / TIGHTER))
    lines, flows = [], []
    with torch.no_grad():
        best = exact.log_prob(x.double(), _double(c))
        for method in methods:
            for steps in grids:
                tried = with_solver(flow, method=method, steps=steps)
                gap = (tried.log_prob(x, c).double() - best).abs()
                flows.append(tried)
                lines.append((method, steps, evaluations(tried, x, c), float(gap.mean()), float(gap.max())))
                if lines[-1][3] <= tolerance:
                    break
    table = pd.DataFrame(lines, columns=["method", "steps", "evaluations", "error", "largest"])
    good = table[table.error <= tolerance]
    if good.empty:
        line = table.loc[table.error.idxmin()]
        raise ConfigError(
            f"no solver tried is within {tolerance:g} nats; the best is method={line.method!r}, steps={line.steps} with "
            f"{line.error:.3g}. Allow more steps (grids), or use steps=None, which adapts."
        )
    return flows[good.evaluations.idxmin()], table


def reference(flow: Flow, tolerance: float) -> Flow:
    """A float64 copy with adaptive steps of the given tolerance."""
    return with_solver(flow, method="dopri8", steps=None, rtol=tolerance, atol=tolerance, max_steps=10_000).double()


def evaluations(flow: Flow, x: Tensor, c: Tensor | None = None) -> float:
    """Mean number of evaluations of the fields for one row, data -> latent, over all continuous layers."""
    total = 0.0
    with torch.no_grad():
        if flow.embed is not None and c is not None:
            c = flow.embed(c)
        for layer in flow.transform if isinstance(flow.transform, Chain) else [flow.transform]:
            if isinstance(layer, Continuous):
                total += float(layer.evaluations(x, c).number.double().mean())
            x = layer.forward(x, c)[0]
    return total


def describe(layers: Sequence[Continuous]) -> str:
    """The solvers of the layers, as text."""
    texts = [
        f"{k.method}, {k.steps} steps" if k.steps else f"{k.method}, adaptive, rtol {k.rtol:g}, atol {k.atol:g}"
        for k in layers
    ]
    return "; ".join(dict.fromkeys(texts))


def _layers(flow: Flow) -> list[Continuous]:
    layers = solved_layers(flow)
    check(bool(layers), ConfigError, "no layer of this flow is continuous: it has no solver to check.")
    return layers


def _double(c: Tensor | None) -> Tensor | None:
    return None if c is None else c.double()


def settle_solver(flow: Flow, x: Tensor, c: Tensor | None = None) -> tuple[Flow, SolverCheck | None]:
    """Check a fitted flow, and take more steps where the ones it was fitted with are too coarse.

    Returns:
        The flow (a copy with a finer solver, if it needed one) and its check; no check for a flow without solvers.
    """
    if not solved_layers(flow):
        return flow, None
    found = check_solver(flow, x, c)
    if not found.ok:
        methods = dict.fromkeys([*(k.method for k in solved_layers(flow)), "tsit5"])
        with contextlib.suppress(ConfigError):  # no grid is good enough: the check says by how much
            flow = tune_solver(flow, x, c, methods=tuple(methods))[0]
            found = check_solver(flow, x, c)
    return flow, found

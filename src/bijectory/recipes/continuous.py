"""Continuous flows: solutions of differential equations whose velocity is a network.

Their density is true to the accuracy of the solver, see ``Continuous``: with more ``steps`` it is more so, and
``steps=None`` adapts them to the data, row by row.
"""

from collections.abc import Sequence
from typing import Literal

from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, check
from bijectory.nets import TimeMLP
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Continuous


@recipe(
    paper="Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt, Duvenaud, arXiv:1806.07366",
    year=2018,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
)
def cnf(
    features: int,
    context: int = 0,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """One solution of a differential equation, with the exact trace of its velocity.

    The paper's velocity is a sum of planar maps gated by time, its solver adaptive with gradients by the adjoint. Here it is
    a perceptron whose trace has a closed form, on a fixed grid with gradients through the solver.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> cnf(4).sample(2).shape
        torch.Size([2, 4])
    """
    field = TimeMLP(features, context, hidden, activation, frequencies)
    return Flow(Continuous(field, method, steps), StandardNormal(features))


@recipe(
    paper="FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models, Grathwohl, Chen, "
    "Bettencourt, Sutskever, Duvenaud, arXiv:1810.01367",
    year=2018,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
)
def ffjord(
    features: int,
    context: int = 0,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    frequencies: int = 1,
    trace: Literal["exact", "hutchinson"] = "exact",
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """Several solutions, one after the other.

    The paper estimates the trace, gates every layer by time, and solves adaptively with Dormand-Prince. Here the trace has a
    closed form that costs less than one estimate, so it is exact unless you pass ``trace="hutchinson"``, which makes the
    density an estimate (``flow.exact`` is False; redraw its probes in training, see ``Continuous``).

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of solutions.
        hidden: Hidden widths of each velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        trace: Exact, or estimated.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> ffjord(4).sample(2).shape
        torch.Size([2, 4])
    """
    check(layers >= 1, ConfigError, f"layers must be at least 1, got {layers}.")
    fields = [TimeMLP(features, context, hidden, activation, frequencies) for _ in range(layers)]
    solutions = [Continuous(field, method, steps, trace, seed=k) for k, field in enumerate(fields)]
    return Flow(Chain(*solutions), StandardNormal(features))


@recipe(
    paper="How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization, Finlay, Jacobsen, Nurbekyan, "
    "Oberman, arXiv:2002.02798",
    year=2020,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
    objective="rnode",
)
def rnode(
    features: int,
    context: int = 0,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "softplus",
    frequencies: int = 1,
    trace: Literal["exact", "hutchinson"] = "exact",
    method: str = "rk4",
    steps: int | None = 4,
) -> Flow:
    """One solution whose path is kept straight in training, so that few steps follow it.

    Train it with ``RegularizedLikelihood()``, which makes it what it is; with ``nll`` it is a ``cnf`` on too coarse a grid.
    Solver, its four steps and the activation are the paper's, whose networks are convolutional and whose trace is estimated.
    Here the trace has a closed form and is exact unless you pass ``trace="hutchinson"``.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        trace: Exact, or estimated.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> rnode(4).sample(2).shape
        torch.Size([2, 4])
    """
    field = TimeMLP(features, context, hidden, activation, frequencies)
    return Flow(Continuous(field, method, steps, trace), StandardNormal(features))

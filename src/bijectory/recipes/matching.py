"""Continuous flows that are trained by flow matching: a regression, in which no equation is solved.

Their density and draws are those of a continuous flow, true to the accuracy of the solver, see ``Continuous``.
"""

from collections.abc import Sequence

from bijectory.densities import Flow, StandardNormal
from bijectory.nets import TimeMLP
from bijectory.recipes.registry import recipe
from bijectory.transforms import Continuous


@recipe(
    paper="Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport, Tong, Fatras, Malkin, "
    "Huguet, Zhang, Rector-Brooks, Wolf, Bengio, arXiv:2302.00482",
    year=2023,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
    objective="ot_flow_matching",
)
def cfm(
    features: int,
    context: int = 0,
    *,
    hidden: Sequence[int] = (128, 128),
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 16,
) -> Flow:
    """One solution of a differential equation, trained by conditional flow matching.

    The architecture of ``cnf``, wider, for a step of training costs one evaluation of the velocity and not a solution.
    ``fit_table`` trains it by ``FlowMatching`` with draws of the base paired to the rows by optimal transport; with
    ``objective="nll"`` by likelihood, which may also follow to polish it.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity; up to two have the trace of their Jacobian in closed form.
        activation: A smooth one, see ``nets.TimeMLP``. After equal training ``"tanh"`` separates modes far better,
            ``"silu"`` bends rings better.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> cfm(4).sample(2).shape
        torch.Size([2, 4])
    """
    field = TimeMLP(features, context, hidden, activation, frequencies)
    return Flow(Continuous(field, method, steps), StandardNormal(features))

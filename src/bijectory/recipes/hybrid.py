"""Discrete and continuous layers in one chain."""

from collections.abc import Sequence

from bijectory.densities import Flow, StandardNormal
from bijectory.nets import TimeMLP
from bijectory.recipes.coupling import bounded_spline, coupling_stack, linear_mixing, locate
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Continuous


@recipe(
    paper="Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios, arXiv:1906.04032, and FFJORD, Grathwohl, Chen, "
    "Bettencourt, Sutskever, Duvenaud, arXiv:1810.01367",
    year=2019,
    density="integral",
    sampling="integral",
    ladj="one more hidden layer",
)
def hybrid(
    features: int,
    context: int = 0,
    *,
    layers: int = 2,
    hidden: Sequence[int] = (64, 64),
    bins: int = 8,
    bound: float = 5.0,
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """Spline couplings and continuous layers in turn: sharp edges from the one, smooth mixing from the other.

    The steps of the two papers, one pair of coupling layers before each continuous one, so that every feature passes a
    spline. The trace of a continuous layer is exact and in closed form.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of pairs of couplings, and of continuous layers.
        hidden: Hidden widths of each conditioner and each velocity.
        bins: Number of spline bins.
        bound: Half width of the splines' box; the identity outside.
        activation: Of the velocities, a smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> hybrid(4).sample(2).shape
        torch.Size([2, 4])
    """
    couplings = coupling_stack(bounded_spline(bins, bound, 2 * layers), features, context, 2 * layers, hidden)
    stack = locate(features, context, hidden)
    for k in range(layers):
        field = TimeMLP(features, context, hidden, activation, frequencies)
        stack += [*linear_mixing(features, k, layers), *couplings[2 * k : 2 * k + 2], Continuous(field, method, steps)]
    return Flow(Chain(*stack), StandardNormal(features))

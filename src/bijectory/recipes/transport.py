"""Flows along paths of optimal transport."""

from bijectory.densities import Flow, StandardNormal
from bijectory.nets import Potential
from bijectory.recipes.registry import recipe
from bijectory.transforms import Continuous


@recipe(
    paper="OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport, Onken, Wu Fung, Li, Ruthotto, "
    "arXiv:2006.00104",
    year=2020,
    density="integral",
    sampling="integral",
    ladj="O(m² d)",
    objective="transport",
)
def otflow(
    features: int,
    context: int = 0,
    *,
    hidden: int = 64,
    blocks: int = 1,
    rank: int = 10,
    method: str = "rk4",
    steps: int | None = 8,
) -> Flow:
    """The descent of a potential: straight paths, gradient and trace in closed form.

    The objective that makes the paths straight, ``TransportRegularized``, is what ``fit_table`` trains it with unless asked
    otherwise; pass it to ``fit`` yourself. Network, rank and solver are the paper's, which takes 6 to 14 steps in training
    and up to three times as many to test; its networks for tables are 128 to 512 wide.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Width m of the network.
        blocks: Number of its residual layers.
        rank: Of the quadratic part of the potential; never more than there are features.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> otflow(4).sample(2).shape
        torch.Size([2, 4])
    """
    field = Potential(features, context, hidden, blocks, rank)
    return Flow(Continuous(field, method, steps), StandardNormal(features))

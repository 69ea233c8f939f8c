"""Flows for heavy tails."""

from collections.abc import Sequence

from bijectory.bijections import Affine, PowerTails, RationalQuadratic
from bijectory.densities import Flow, StandardNormal
from bijectory.recipes.coupling import coupling_stack, linear_mixing
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Elementwise, Transform


@recipe(paper="Flexible Tails for Normalizing Flows, Hickling, Prangle, arXiv:2406.16971", year=2024)
def ttf(
    features: int,
    context: int = 0,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
    tail: float = 0.2,
) -> Flow:
    """Tail transform flow: a neural spline flow behind a layer that learns a power law for each tail of each feature.

    From the data: a place and scale, the tail transform, then rational-quadratic couplings on the now light-tailed values,
    on a normal base. As published, here with couplings as the body, no attention, and the tails trained along with it
    from one starting index; place, scale and tails are functions of the context if there is one.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.
        bins: Number of spline bins.
        bound: Half width of the spline's box; the identity outside.
        tail: Starting tail index: a survival function falls as ``t ** (-1 / tail)``.

    Example:
        >>> ttf(4).sample(2).shape
        torch.Size([2, 4])
    """
    steps: list[Transform] = [Elementwise(f, features, context, hidden) for f in (Affine(), PowerTails(tail))]
    for k, coupling in enumerate(coupling_stack(RationalQuadratic(bins, bound), features, context, layers, hidden)):
        steps += [*linear_mixing(features, k, layers), coupling]
    return Flow(Chain(*steps, *linear_mixing(features, layers, layers)), StandardNormal(features))

"""The autoregressive lineage: MAF, IAF and autoregressive splines."""

from collections.abc import Sequence

from bijectory.bijections import Bijection
from bijectory.densities import Flow, StandardNormal
from bijectory.recipes.coupling import bounded_affine, bounded_spline, linear_mixing, locate
from bijectory.recipes.registry import recipe
from bijectory.transforms import Autoregressive, Chain, Elementwise, Inverse, Transform


def autoregressive_layer(
    bijection: Bijection, features: int, context: int, hidden: Sequence[int], *, backwards: bool = False
) -> Transform:
    """One autoregressive layer; with one feature there is nothing to condition on and it is elementwise."""
    if features == 1:
        return Elementwise(bijection, 1, context, hidden)
    order = range(features - 1, -1, -1) if backwards else None
    return Autoregressive(bijection, features, context, hidden, order)


def alternating_layers(
    bijection: Bijection, features: int, context: int, layers: int, hidden: Sequence[int]
) -> list[Transform]:
    """Layers with the order reversed in turn: by the order itself, so that nothing has to be permuted."""
    return [autoregressive_layer(bijection, features, context, hidden, backwards=k % 2 == 1) for k in range(layers)]


@recipe(
    paper="Masked Autoregressive Flow for Density Estimation, Papamakarios, Pavlakou, Murray, arXiv:1705.07057",
    year=2017,
    sampling="by features",
)
def maf(features: int, context: int = 0, *, layers: int = 5, hidden: Sequence[int] = (128, 128)) -> Flow:
    """Affine autoregressive layers with the order reversed in turn: density in one pass, sampling feature by feature.

    As published, without batch normalisation: bounded log-scales make it unnecessary.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers.
        hidden: Hidden widths of each masked network.

    Example:
        >>> maf(4).sample(2).shape
        torch.Size([2, 4])
    """
    steps = alternating_layers(bounded_affine(layers), features, context, layers, hidden)
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Improving Variational Inference with Inverse Autoregressive Flow, Kingma et al., arXiv:1606.04934",
    year=2016,
    density="by features",
)
def iaf(features: int, context: int = 0, *, layers: int = 5, hidden: Sequence[int] = (128, 128)) -> Flow:
    """Inverse affine autoregressive layers: sampling (with its density) in one pass, density of data feature by feature.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers, the order reversed in turn.
        hidden: Hidden widths of each masked network.

    Example:
        >>> iaf(4).sample(2).shape
        torch.Size([2, 4])
    """
    steps = alternating_layers(bounded_affine(layers), features, context, layers, hidden)
    return Flow(Chain(*(Inverse(step) for step in steps)), StandardNormal(features))


@recipe(
    paper="Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios, arXiv:1906.04032",
    year=2019,
    sampling="by features",
)
def nsf_ar(
    features: int,
    context: int = 0,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
) -> Flow:
    """Autoregressive rational-quadratic splines, RQ-NSF (AR): a permutation and a linear layer before each.

    As published, but the linear layer is a well-conditioned QR in place of an LU, more than six layers share the bending of
    six, and with a context a conditional location and scale comes first.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of spline layers.
        hidden: Hidden widths of each masked network.
        bins: Number of spline bins.
        bound: Half width of the spline's box; the identity outside.

    Example:
        >>> nsf_ar(4).sample(2).shape
        torch.Size([2, 4])
    """
    spline, steps = bounded_spline(bins, bound, layers), locate(features, context, hidden)
    for k in range(layers):
        steps += [*linear_mixing(features, k, layers), autoregressive_layer(spline, features, context, hidden)]
    return Flow(Chain(*steps, *linear_mixing(features, layers, layers)), StandardNormal(features))

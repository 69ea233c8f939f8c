"""The lineage of expressive scalar maps: networks, polynomials and mixtures that increase."""

from collections.abc import Sequence

import torch

from bijectory.bijections import Bernstein, Gaussianization, MixtureCdf, Sigmoidal, SumOfSquares
from bijectory.densities import Flow, StandardNormal
from bijectory.nets import MLP
from bijectory.recipes.autoregressive import alternating_layers
from bijectory.recipes.coupling import coupling_stack, linear_mixing
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Elementwise, Householder, MonotoneIntegral, Transform


@recipe(
    paper="Neural Autoregressive Flows, Huang, Krueger, Lacoste, Courville, arXiv:1804.00779",
    year=2018,
    sampling="root by features",
)
def naf(
    features: int,
    context: int = 0,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    units: int = 16,
    depth: int = 1,
) -> Flow:
    """Autoregressive layers of sigmoidal units, NAF with deep sigmoidal flows (DSF): orders reversed in turn.

    As published, with a least slope in each layer of units. ``depth`` stacks layers of units within one autoregressive
    layer, through one scalar each: DSF, not its dense variant DDSF.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers.
        hidden: Hidden widths of each masked network.
        units: Sigmoidal units in each layer of them.
        depth: Layers of units in each autoregressive layer.

    Example:
        >>> naf(4).sample(2).shape
        torch.Size([2, 4])
    """
    family = Sigmoidal(units, depth)
    steps = alternating_layers(family, features, context, layers, hidden)
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Unconstrained Monotonic Neural Networks, Wehenkel, Louppe, arXiv:1908.05164",
    year=2019,
    sampling="root by features",
)
def umnn(
    features: int,
    context: int = 0,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    embedding: int = 16,
    integrand: Sequence[int] = (50, 50),
    nodes: int = 24,
    bound: float = 5.0,
) -> Flow:
    """Autoregressive integrals of positive networks, UMNN-MAF: orders reversed in turn.

    As published, but with a smooth activation, Gauss-Legendre nodes, and straight lines outside a box.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers.
        hidden: Hidden widths of each masked network.
        embedding: Width of what it tells the integrand about the features before.
        integrand: Hidden widths of each integrand network.
        nodes: Evaluations of the integrand for one integral.
        bound: Half width of the box; straight lines outside.

    Example:
        >>> umnn(4, integrand=[8]).sample(2).shape
        torch.Size([2, 4])
    """
    steps = []
    for k in range(layers):
        g = MLP(1, 1, integrand, embedding, activation="tanh", head_scale=0.1)
        order = range(features - 1, -1, -1) if k % 2 == 1 else None
        steps.append(
            MonotoneIntegral(
                features, context, hidden, order, embedding=embedding, nodes=nodes, bound=bound, integrand=g
            )
        )
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Sum-of-Squares Polynomial Flow, Jaini, Selby, Yu, arXiv:1905.02325",
    year=2019,
    sampling="root by features",
)
def sos(
    features: int,
    context: int = 0,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    polynomials: int = 2,
    degree: int = 6,
    bound: float = 5.0,
) -> Flow:
    """Autoregressive integrals of sums of squared polynomials: orders reversed in turn.

    As published, but with straight lines outside a box, where a stack of polynomials would overflow.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers.
        hidden: Hidden widths of each masked network.
        polynomials: Polynomials in each sum.
        degree: Their degree; the maps have degree ``2 * degree + 1``.
        bound: Half width of the box; straight lines outside.

    Example:
        >>> sos(4).sample(2).shape
        torch.Size([2, 4])
    """
    family = SumOfSquares(polynomials, degree, bound)
    steps = alternating_layers(family, features, context, layers, hidden)
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Robust normalizing flows using Bernstein-type polynomials, Ramasinghe, Fernando, Khan, Barnes, arXiv:2102.03509",
    year=2021,
    sampling="root by features",
)
def bernstein(
    features: int,
    context: int = 0,
    *,
    layers: int = 5,
    hidden: Sequence[int] = (128, 128),
    degree: int = 16,
    bound: float = 5.0,
) -> Flow:
    """Autoregressive Bernstein polynomials with increasing coefficients: orders reversed in turn.

    The paper fixes the ends of a compact range; here they are free and straight lines go on, for data on the whole line.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of autoregressive layers.
        hidden: Hidden widths of each masked network.
        degree: Degree of the polynomials.
        bound: Half width of the box; straight lines outside.

    Example:
        >>> bernstein(4).sample(2).shape
        torch.Size([2, 4])
    """
    family = Bernstein(degree, bound)
    steps = alternating_layers(family, features, context, layers, hidden)
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Gaussianization Flows, Meng, Song, Song, Ermon, arXiv:2003.01941",
    year=2020,
    sampling="root",
)
def gaussianization(
    features: int,
    context: int = 0,
    *,
    layers: int = 10,
    hidden: Sequence[int] = (128, 128),
    components: int = 16,
) -> Flow:
    """Every feature to a normal by a mixture of logistics, then a trained rotation, again and again: no networks.

    As published, rotations are products of reflections, and ``initialize`` (``fit`` calls it) places the components of
    each layer at quantiles of the data that reach it: the flow is a good one before the first step. With a context,
    networks of it move the components, and the start is that of the marginals.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of rotations; one more layer of mixtures.
        hidden: Hidden widths of the networks of the context.
        components: Logistics for each feature of each layer.

    Example:
        >>> gaussianization(4).sample(2).shape
        torch.Size([2, 4])
    """
    family = Gaussianization(components)
    steps: list[Transform] = [Elementwise(family, features, context, hidden)]
    for _ in range(layers):
        if features > 1:
            rotation = Householder(features)
            with torch.no_grad():
                rotation.factors.normal_()  # at the identity a layer would find its features normal already
            steps.append(rotation)
        steps.append(Elementwise(family, features, context, hidden))
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design, "
    "Ho, Chen, Srinivas, Duan, Abbeel, arXiv:1902.00275",
    year=2019,
    sampling="root",
)
def flowpp(
    features: int,
    context: int = 0,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    components: int = 8,
) -> Flow:
    """Mixture-of-logistics couplings, Flow++ for rows of a table: a permutation and a linear layer before each.

    The scalar map is the published one with bounded slopes, so that a stack can be undone; perceptrons stand in for the
    convolutions with attention that images need, and a well-conditioned QR for the invertible 1x1 convolution.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.
        components: Logistics in each mixture.

    Example:
        >>> flowpp(4).sample(2).shape
        torch.Size([2, 4])
    """
    family = MixtureCdf(components, max_log_scale=3.0, max_log_affine=1.0, min_slope=1e-2)
    steps: list[Transform] = []
    for k, coupling in enumerate(coupling_stack(family, features, context, layers, hidden)):
        steps += [*linear_mixing(features, k, layers), coupling]
    return Flow(Chain(*steps, *linear_mixing(features, layers, layers)), StandardNormal(features))

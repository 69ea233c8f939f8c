"""The classics: planar, radial and Sylvester flows, and block neural autoregressive flow.

Their published maps go one way in one pass: from noise where the papers infer, from data where they estimate densities.
``acts_on`` chooses: the map acts on "data" (density in one pass, for training on data) or on "noise" (sampling in one pass,
for training on an energy). Either way both directions work; what ``acts_on`` swaps is their cost.

A learned location and scale next to the base (of the context, if there is one) makes it the diagonal normal of the papers,
while the latent stays standard normal.
"""

from collections.abc import Sequence
from typing import Literal

from bijectory.bijections import Affine
from bijectory.densities import Flow, StandardNormal
from bijectory.recipes.registry import recipe
from bijectory.transforms import (
    BlockAutoregressive,
    Chain,
    Elementwise,
    Inverse,
    Planar,
    Radial,
    Sylvester,
    Transform,
    reversal,
)

ActsOn = Literal["data", "noise"]


def over_normal(
    steps: Sequence[Transform], features: int, context: int, hidden: Sequence[int], acts_on: ActsOn
) -> Flow:
    """The flow of ``steps`` over a learned diagonal normal; the first step is the one next to the data or the noise."""
    if acts_on == "noise":  # data -> latent runs through them backwards
        steps = [Inverse(step) for step in reversed(steps)]
    base = Elementwise(Affine(), features, context, hidden)
    return Flow(Chain(*steps, base), StandardNormal(features))


@recipe(
    paper="Variational Inference with Normalizing Flows, Rezende, Mohamed, arXiv:1505.05770",
    year=2015,
    sampling="root",
)
def planar(
    features: int,
    context: int = 0,
    *,
    layers: int = 64,
    hidden: Sequence[int] = (128, 128),
    acts_on: ActsOn = "data",
) -> Flow:
    """Shifts along directions, by ridge functions of a projection.

    With a context its network puts out the parameters of all layers, as the inference network of the paper. There the
    maps act on noise: for training on an energy pass ``acts_on="noise"``, which makes sampling the direction in one pass
    and the density the one with a root.

    Few weights, and not those of a network: a learning rate of about 1e-2 suits them.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of maps.
        hidden: Hidden widths of the context's networks.
        acts_on: "data" for a density in one pass, "noise" for sampling in one pass.

    Example:
        >>> planar(4).sample(2).shape
        torch.Size([2, 4])
    """
    return over_normal([Planar(features, context, hidden, layers=layers)], features, context, hidden, acts_on)


@recipe(paper="Variational Inference with Normalizing Flows, Rezende, Mohamed, arXiv:1505.05770", year=2015)
def radial(
    features: int,
    context: int = 0,
    *,
    layers: int = 64,
    hidden: Sequence[int] = (128, 128),
    acts_on: ActsOn = "data",
) -> Flow:
    """Contractions and expansions around points; both directions in closed form.

    With a context its network puts out the parameters of all layers, as the inference network of the paper, where the maps
    act on noise.

    Few weights, and not those of a network: a learning rate of about 1e-2 suits them.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of maps.
        hidden: Hidden widths of the context's networks.
        acts_on: Whether the published map acts on "data" or on "noise"; its inverse takes the other direction.

    Example:
        >>> radial(4).sample(2).shape
        torch.Size([2, 4])
    """
    return over_normal([Radial(features, context, hidden, layers=layers)], features, context, hidden, acts_on)


@recipe(
    paper="Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak, Welling, "
    "arXiv:1803.05649",
    year=2018,
    sampling="root by features",
)
def sylvester(
    features: int,
    context: int = 0,
    *,
    layers: int = 16,
    kind: Literal["householder", "orthogonal", "triangular"] = "householder",
    rank: int = 32,
    hidden: Sequence[int] = (128, 128),
    acts_on: ActsOn = "data",
) -> Flow:
    """Planar flow with several ridges a layer, kept solvable by triangular factors.

    With a context its network puts out the parameters of all layers, as in the paper, where the maps act on noise: for
    training on an energy pass ``acts_on="noise"``. See ``Sylvester`` for what differs from the paper.

    Few weights, and not those of a network: a learning rate of about 1e-2 suits them.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of maps.
        kind: How the orthogonal factors are made.
        rank: Ridges of a map, at most ``features`` are used.
        hidden: Hidden widths of the context's networks.
        acts_on: "data" for a density in one pass, "noise" for sampling in one pass.

    Example:
        >>> sylvester(4, layers=4).sample(2).shape
        torch.Size([2, 4])
    """
    step = Sylvester(features, context, kind, min(rank, features), hidden=hidden, layers=layers)
    return over_normal([step], features, context, hidden, acts_on)


@recipe(
    paper="Block Neural Autoregressive Flow, De Cao, Titov, Aziz, arXiv:1904.04676",
    year=2019,
    sampling="root by features",
)
def bnaf(
    features: int,
    context: int = 0,
    *,
    layers: int = 3,
    units: Sequence[int] = (32,),
    hidden: Sequence[int] = (128, 128),
    acts_on: ActsOn = "data",
) -> Flow:
    """Networks that increase in each feature given those before it, the order reversed in turn.

    The paper has no residual around its last network, which leaves that flow a density on a box only: here every network
    is gated. For training on an energy pass ``acts_on="noise"``.

    Few weights, and not those of a network: a learning rate of about 1e-2 suits them.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of networks.
        units: Units of a feature in each hidden layer of a network.
        hidden: Hidden widths of the context's networks.
        acts_on: "data" for a density in one pass, "noise" for sampling in one pass.

    Example:
        >>> bnaf(3, layers=2).sample(2).shape
        torch.Size([2, 3])
    """
    steps: list[Transform] = []
    for k in range(layers):
        steps += [reversal(features)] if k and features > 1 else []
        steps.append(BlockAutoregressive(features, context, units, hidden=hidden))
    return over_normal(steps, features, context, hidden, acts_on)

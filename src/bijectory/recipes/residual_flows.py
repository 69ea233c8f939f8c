"""The residual lineage: i-ResNets, residual flows and invertible DenseNets."""

from collections.abc import Sequence
from typing import Literal

from bijectory.densities import Flow, StandardNormal
from bijectory.nets import Contraction, LipschitzDenseNet, LipschitzNet
from bijectory.recipes.coupling import locate
from bijectory.recipes.images import MARGIN, choose_scales, image_flow
from bijectory.recipes.registry import recipe
from bijectory.transforms import ActNorm, Chain, Residual, Squeeze, Transform

Ladj = Literal["auto", "exact", "series", "roulette"]


def residual_stack(nets: Sequence[Contraction], ladj: Ladj) -> list[Transform]:
    """Residual layers with an actnorm before the first and after each; every layer has probes of its own."""
    norms = [ActNorm(net.shape[0], event_dim=len(net.shape)) for net in (nets[0], *nets)]
    steps: list[Transform] = [norms[0]]
    for k, net in enumerate(nets):
        steps += [Residual(net, ladj, seed=k), norms[k + 1]]
    return steps


@recipe(
    paper="Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen, arXiv:1906.02735",
    year=2019,
    sampling="fixed point",
    ladj="O(d³)",
)
def residual(
    features: int,
    context: int = 0,
    *,
    layers: int = 8,
    hidden: Sequence[int] = (64, 64, 64),
    lipschitz: float = 0.9,
    ladj: Ladj = "auto",
) -> Flow:
    """Residual layers x + g(x) with contractions g (LipSwish, bounded spectral norms) and an actnorm between.

    The log-determinant is exact up to 32 features, an unbiased estimate by Russian roulette above (``ladj`` chooses).
    Spectral norms are exact instead of estimated by power iteration, the Lipschitz constant is that of the whole block
    instead of each layer in it, there are fewer and smaller blocks than the published 100 of 4 x 128 for toy data, and
    LipSwish starts curved (beta 15) instead of almost linear (0.5). With a context a conditional location and scale comes
    first, since a contraction moves nothing far.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of residual layers.
        hidden: Hidden widths of each contraction.
        lipschitz: Lipschitz constant of each contraction, below 1; nearer to 1 is more flexible and slower to sample.
        ladj: How the log-determinant is found: ``auto``, ``exact``, ``series`` or ``roulette``.

    Example:
        >>> residual(4).sample(2).shape
        torch.Size([2, 4])
    """
    nets = [LipschitzNet((features,), context, hidden, lipschitz) for _ in range(layers)]
    steps = [*locate(features, context, hidden), *residual_stack(nets, ladj)]
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Invertible DenseNets, Perugachi-Diaz, Tomczak, Bhulai, arXiv:2010.02125",
    year=2020,
    sampling="fixed point",
    ladj="O(d³)",
)
def idensenet(
    features: int,
    context: int = 0,
    *,
    layers: int = 8,
    hidden: Sequence[int] = (32, 32, 32),
    lipschitz: float = 0.9,
    ladj: Ladj = "auto",
) -> Flow:
    """Residual layers whose contractions are dense blocks: learned concatenations and concatenated LipSwish.

    With the activation of the second paper (arXiv:2102.02694); otherwise as ``residual``, with the same differences.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of residual layers.
        hidden: What each layer of a dense block adds, before the activation doubles it.
        lipschitz: Lipschitz constant of each contraction, below 1; nearer to 1 is more flexible and slower to sample.
        ladj: How the log-determinant is found: ``auto``, ``exact``, ``series`` or ``roulette``.

    Example:
        >>> idensenet(4).sample(2).shape
        torch.Size([2, 4])
    """
    nets = [LipschitzDenseNet((features,), context, hidden, lipschitz) for _ in range(layers)]
    steps = [*locate(features, context, hidden), *residual_stack(nets, ladj)]
    return Flow(Chain(*steps), StandardNormal(features))


@recipe(
    paper="Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen, arXiv:1906.02735",
    year=2019,
    sampling="fixed point",
    ladj="O(d) per term",
    exact=False,
)
def residual_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    scales: int | None = None,
    steps: int = 4,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float = 0.9,
    block: Literal["plain", "dense"] = "plain",
    ladj: Literal["exact", "series", "roulette"] = "roulette",
) -> Flow:
    """Multi-scale residual layers with convolutional contractions (3x3, 1x1, 3x3) and actnorm, for images.

    The log-determinant is an estimate, fresh in training and fixed in evaluation, where its error is shared by all images:
    report bits per dimension from ``flow.log_prob_and_error``. Spectral norms are bounded in Fourier space instead of
    estimated by power iteration; the first scale is squeezed too, half of the channels leave after each, and the whole is
    smaller than published (3 scales of 16 blocks with 512 channels).

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``; height and width even.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        scales: Number of scales; each halves height and width. None: as many as divide, at most 3.
        steps: Residual layers on each scale.
        hidden: Hidden channels of each contraction.
        lipschitz: Lipschitz constant of each contraction, below 1.
        block: ``plain``, or ``dense`` for the block of an invertible DenseNet.
        ladj: How the log-determinant is found: ``exact``, ``series`` or ``roulette``.

    Example:
        >>> residual_image((1, 8, 8), levels=17, steps=1, hidden=(8,)).sample(2).shape
        torch.Size([2, 1, 8, 8])
    """
    shape, n = choose_scales(shape, scales)
    build = LipschitzDenseNet if block == "dense" else LipschitzNet
    channels, height, width = shape
    stacks = []
    for _ in range(n):
        channels, height, width = 4 * channels, height // 2, width // 2
        nets = [build((channels, height, width), context, hidden, lipschitz) for _ in range(steps)]
        stacks.append([Squeeze(), *residual_stack(nets, ladj)])
        channels //= 2
    return image_flow(shape, levels, stacks, margin=margin)

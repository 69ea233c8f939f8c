"""The transformer lineage: TarFlow (causal, over features or patches) and Jet (couplings with vision transformers)."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from bijectory.bijections import Inverted
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, check
from bijectory.nets import ViT
from bijectory.recipes.coupling import bounded_affine
from bijectory.recipes.images import pixel_logit
from bijectory.recipes.registry import recipe
from bijectory.transforms import Causal, Chain, Coupling, Elementwise, Patchify, Reshape, Standardize, Transform

TOKENS = 49  # an image is cut into at least so many patches, if it has so many pixels

Preprocess = Literal["logit", "scale"]


def causal_stack(
    tokens: int, features: int, context: int, layers: int, width: int, depth: int, heads: int
) -> list[Transform]:
    """Causal affine layers, first to last token and back in turn."""
    check(
        tokens > 1 or features == 1,
        ConfigError,
        f"one token of {features} numbers leaves them independent of each other; use smaller patches or groups.",
    )
    family = Inverted(bounded_affine(layers))
    if tokens == 1:
        return [Elementwise(family, 1, context, (width,) * depth) for _ in range(layers)]
    return [Causal(family, tokens, features, context, width, depth, heads, backwards=k % 2 == 1) for k in range(layers)]


def cut(shape: Sequence[int], patch: int | None) -> Patchify:
    """Patches of the given side, or of the largest that leaves ``TOKENS`` of them."""
    if patch is None and len(shape) == 3:
        _, height, width = shape
        sides = range(1, math.gcd(height, width) + 1)
        fits = [p for p in sides if height % p == width % p == 0 and height * width >= TOKENS * p**2]
        patch = max(fits, default=1)
    return Patchify(shape, patch or 1)


def pixel_units(levels: int, width: int, preprocess: Preprocess) -> Transform:
    """Pixels ``[0, levels)`` to the real line, or by scale alone to ``[-1, 1)``; for every row of ``width`` pixels."""
    if preprocess == "logit":
        return pixel_logit(levels, width)
    return Standardize(width, [levels / 2] * width, [levels / 2] * width)


@recipe(
    paper="Normalizing Flows are Capable Generative Models (TarFlow), Zhai et al., arXiv:2412.06329",
    year=2024,
    sampling="by features",
)
def tarflow(
    features: int,
    context: int = 0,
    *,
    layers: int = 4,
    group: int = 1,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
) -> Flow:
    """Causal transformers over the features in alternating directions: density in one pass, sampling by features.

    The paper's model of images (``tarflow_image``) for rows of a table: a token is a feature, or a group of neighbours.
    Numbers within a group do not read each other, in any layer's own step.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of causal layers.
        group: Features in one token; divides ``features``. Larger groups sample faster and model less.
        width: Width of a token inside the transformers.
        depth: Blocks in each transformer.
        heads: Attention heads; divides ``width``.

    Example:
        >>> tarflow(4, layers=2, width=8).sample(2).shape
        torch.Size([2, 4])
    """
    divides = features % group == 0
    check(divides, ConfigError, f"group={group} must divide features={features}; use group=1.")
    tokens = features // group
    stack = causal_stack(tokens, group, context, layers, width, depth, heads)
    if features == 1:
        return Flow(Chain(*stack), StandardNormal(1))
    cut, join = Reshape((features,), (tokens, group)), Reshape((tokens, group), (features,))
    return Flow(Chain(cut, *stack, join), StandardNormal(features))


@recipe(
    paper="Normalizing Flows are Capable Generative Models (TarFlow), Zhai et al., arXiv:2412.06329",
    year=2024,
    sampling="by features",
)
def tarflow_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    patch: int | None = None,
    preprocess: Preprocess = "logit",
    layers: int = 4,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
) -> Flow:
    """Causal transformers over the patches of an image in alternating directions.

    Each layer is ``z_t = (x_t - mu_t) exp(-alpha_t)``, mean and log-scale of patch ``t`` read from the patches before it.
    Other than in the paper the first patch is transformed too (by the context, or by free weights), log-scales are softly
    bounded, and the default sizes are those of a small computer: the paper's networks are far larger.
    With ``preprocess="scale"``, as published, values are not confined to ``[0, levels)``: that is what training with
    Gaussian noise (``NoisyData``) and ``denoise`` need. ``guided_sample`` draws with guidance.

    Args:
        shape: ``(channels, height, width)``; pixel values in ``[0, levels)``.
        context: Width of the context, 0 for none.
        levels: Number of pixel values.
        patch: Side of a patch; divides height and width. None: the largest that leaves 49 patches.
        preprocess: "logit" takes the values to the real line, "scale" only scales them to ``[-1, 1)``.
        layers: Number of causal layers.
        width: Width of a token inside the transformers.
        depth: Blocks in each transformer.
        heads: Attention heads; divides ``width``.

    Example:
        >>> tarflow_image((1, 4, 4), levels=17, layers=2, width=8).sample(2).shape
        torch.Size([2, 1, 4, 4])
    """
    patches = cut(shape, patch)
    tokens, size = patches.tokens, patches.features
    stack = causal_stack(tokens, size, context, layers, width, depth, heads)
    flat = Reshape((tokens, size), (tokens * size,))
    stack = [*stack, flat] if tokens > 1 else [flat, *stack]
    return Flow(Chain(pixel_units(levels, shape[-1], preprocess), patches, *stack), StandardNormal(tokens * size))


def splits(rows: int, columns: int, size: int) -> Iterator[tuple[int, list[bool]]]:
    """Endless ways to keep a part of ``rows * columns`` tokens of ``size`` numbers, each followed by its complement.

    Channels (a new random half each time), then tokens in alternating rows, alternating columns and as a checkerboard, as
    far as they halve the grid. Yields how many tokens each part has, and the mask of the numbers kept.
    """
    grid = list(itertools.product(range(rows), range(columns)))
    halves = [
        [kept(r, c) for r, c in grid]
        for even, kept in (
            (rows % 2, lambda r, c: r % 2 == 0),
            (columns % 2, lambda r, c: c % 2 == 0),
            (rows * columns % 2, lambda r, c: (r + c) % 2 == 0),
        )
        if even == 0
    ]
    for seed in itertools.count():
        if size > 1:
            channels = random.Random(seed).sample(range(size), size // 2)
            mask = [i in channels for _ in grid for i in range(size)]
            yield from ((len(grid), mask), (len(grid), [not m for m in mask]))
        for half in halves:
            mask = [m for m in half for _ in range(size)]
            yield from ((len(grid) // 2, mask), (len(grid) // 2, [not m for m in mask]))


@recipe(
    paper="Jet: A Modern Transformer-Based Normalizing Flow, Kolesnikov, Susano Pinto, Tschannen, arXiv:2412.15129",
    year=2024,
)
def jet(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    patch: int | None = None,
    preprocess: Preprocess = "logit",
    layers: int = 8,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
) -> Flow:
    """Affine couplings over the patches of an image, conditioned by vision transformers: both directions in one pass.

    The parts of a coupling are halves of the numbers in every patch, or halves of the patches: rows, columns, checkerboard.
    Heads start at zero, so the flow starts at its preprocessing. Other than in the paper scales are exponentials of softly
    bounded log-scales (there sigmoids), each split is followed by its complement, pixels go through a logit by default, and
    the default sizes are those of a small computer.

    Args:
        shape: ``(channels, height, width)``; pixel values in ``[0, levels)``.
        context: Width of the context, 0 for none.
        levels: Number of pixel values.
        patch: Side of a patch; divides height and width. None: the largest that leaves 49 patches.
        preprocess: "logit" takes the values to the real line, "scale" only scales them to ``[-1, 1)``.
        layers: Number of coupling layers.
        width: Width of a token inside the transformers.
        depth: Blocks in each transformer.
        heads: Attention heads; divides ``width``.

    Example:
        >>> jet((1, 4, 4), levels=17, layers=2, width=8).sample(2).shape
        torch.Size([2, 1, 4, 4])
    """
    patches, family = cut(shape, patch), bounded_affine(layers)
    tokens, size = patches.tokens, patches.features
    features = tokens * size
    steps = [pixel_units(levels, shape[-1], preprocess), patches, Reshape((tokens, size), (features,))]
    if features == 1:
        steps += [Elementwise(family, 1, context, (width,) * depth) for _ in range(layers)]
        return Flow(Chain(*steps), StandardNormal(1))
    check(
        size > 1 or tokens % 2 == 0,
        ConfigError,
        f"an odd number of tokens ({tokens}) of one number each cannot be halved; use a larger patch.",
    )
    for parts, mask in itertools.islice(splits(patches.rows, patches.columns, size), layers):
        kept = sum(mask)
        net = ViT(parts, kept // parts, (features - kept) // parts, 2, context, width, depth, heads, head_scale=0.0)
        steps.append(Coupling(family, mask, context, net=net))
    return Flow(Chain(*steps), StandardNormal(features))

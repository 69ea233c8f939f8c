"""Continuous flows of images."""

from collections.abc import Sequence
from typing import Literal

from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, check
from bijectory.nets import ConvField, UNetField
from bijectory.recipes.images import MARGIN, choose_scales, image_flow, pixel_logit
from bijectory.recipes.registry import recipe
from bijectory.transforms import ActNorm, Chain, Continuous, Squeeze, Transform


@recipe(
    paper="FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models, Grathwohl, Chen, "
    "Bettencourt, Sutskever, Duvenaud, arXiv:1810.01367",
    year=2018,
    density="integral",
    sampling="integral",
    ladj="one pass per probe",
    exact=False,
)
def ffjord_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    scales: int | None = None,
    layers: int = 1,
    hidden: int = 32,
    blocks: int = 1,
    frequencies: int = 1,
    trace: Literal["exact", "hutchinson"] = "hutchinson",
    probes: int = 1,
    method: str = "rk4",
    steps: int | None = 4,
) -> Flow:
    """Multi-scale solutions with convolutional velocities and an estimated trace, for images.

    On each scale a squeeze, an actnorm and the solutions; then half of the channels leave. The estimate of the trace makes
    the density one too (``flow.exact`` is False): its probes are fixed in evaluation, where their error is shared by all
    images, see ``Continuous``. The paper squeezes after the first solutions of a scale, has no actnorm, and solves
    adaptively with Dormand-Prince.

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``; height and width even.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        scales: Number of scales; each halves height and width. None: as many as divide, at most 3.
        layers: Solutions on each scale.
        hidden: Channels of each velocity.
        blocks: Residual blocks of each velocity.
        frequencies: Of time.
        trace: Estimated, or exact: as many passes as there are pixels.
        probes: Number of probes of an estimate.
        method: Of the solver.
        steps: Steps of the solver; None adapts them image by image.

    Example:
        >>> ffjord_image((1, 8, 8), levels=17, hidden=8).sample(2).shape
        torch.Size([2, 1, 8, 8])
    """
    shape, n = choose_scales(shape, scales)
    channels, height, width = shape
    stacks = []
    for scale in range(n):
        channels, height, width = 4 * channels, height // 2, width // 2
        stack: list[Transform] = [Squeeze(), ActNorm(channels, event_dim=3)]
        for k in range(layers):
            field = ConvField((channels, height, width), context, hidden, blocks, frequencies=frequencies)
            stack.append(Continuous(field, method, steps, trace, probes, seed=scale * layers + k))
        stacks.append(stack)
        channels //= 2
    return image_flow(shape, levels, stacks, margin=margin)


@recipe(
    paper="Flow Matching for Generative Modeling, Lipman, Chen, Ben-Hamu, Nickel, Le, arXiv:2210.02747",
    year=2022,
    density="integral",
    sampling="integral",
    ladj="one pass per probe",
    exact=False,
)
def cnf_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    hidden: int = 32,
    multipliers: Sequence[int] = (1, 2),
    blocks: int = 1,
    heads: int | None = None,
    groups: int | None = 8,
    frequencies: int = 4,
    trace: Literal["exact", "hutchinson"] = "hutchinson",
    probes: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """One solution at full resolution whose velocity is a U-Net, for images of any size.

    The model of flow matching and of probability-flow equations, behind the logit and the actnorm that likelihoods of pixels
    need; maximum likelihood trains it too, in more time. The estimate of the trace makes the density one (``flow.exact`` is
    False), see ``Continuous``.

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        hidden: Channels on the finest level of the U-Net.
        multipliers: Channels of every level, in units of ``hidden``.
        blocks: Blocks of each level, on both ways.
        heads: Heads of self-attention on the coarsest level; None for no attention.
        groups: Groups of the normalisation, a divisor of ``hidden``; None for no normalisation.
        frequencies: Of time.
        trace: Estimated, or exact: as many passes as there are pixels.
        probes: Number of probes of an estimate.
        method: Of the solver.
        steps: Steps of the solver; None adapts them image by image.

    Example:
        >>> cnf_image((1, 5, 7), levels=17, hidden=8).sample(2).shape
        torch.Size([2, 1, 5, 7])
    """
    check(len(shape) == 3, ConfigError, f"shape={tuple(shape)} must be (channels, height, width).")
    channels, height, width = shape
    size = (channels, height, width)
    parts = {"heads": heads or 0, "groups": groups or 0, "frequencies": frequencies}
    field = UNetField(size, context, hidden, multipliers, blocks, **parts)  # type: ignore[arg-type]
    pixels = pixel_logit(levels, width, margin), ActNorm(channels, event_dim=3)
    solution = Continuous(field, method, steps, trace, probes)
    return Flow(Chain(*pixels, solution), StandardNormal(size))

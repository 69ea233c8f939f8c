r"""The image lineage: flows of continuous pixels in data units.

All begin with the logit of Real NVP, :math:`\operatorname{logit}(\alpha + (1 - 2 \alpha) x / L)`. Its :math:`\alpha` is
stated as the ``margin`` :math:`m = \alpha L / (1 - 2 \alpha)` in grey levels: the logit of the interval :math:`(-m, L + m)`.
The published :math:`\alpha = 0.05` is :math:`m = 14.2` for 256 levels. It squeezes a black background into a spike that
takes long to learn; with a tenth of a level the background spreads, and hardly a draw lies outside the pixels.
"""

import itertools
import math
from collections.abc import Sequence

from bijectory.bijections import Logit, MixtureCdf
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, check
from bijectory.nets import ConvResNet, GatedConvNet
from bijectory.recipes.coupling import bounded_affine
from bijectory.recipes.registry import recipe
from bijectory.transforms import (
    ActNorm,
    Chain,
    Conv1x1,
    Elementwise,
    ImageCoupling,
    Multiscale,
    Reversible,
    Squeeze,
    Transform,
)
from bijectory.transforms.image_coupling import Mask, coupled_channels

MARGIN = 0.1
IMAGE_REACH = 40.0  # of all scales of a deep image flow, as it was measured on images; rows have less


def pixel_logit(levels: int, width: int, margin: float = MARGIN) -> Transform:
    """Logit of pixels in ``[0, levels)``, with a margin on both sides of the interval.

    Values in the margins count as inside: the density is defined a little beyond the pixels, and draws may lie there.
    """
    check(margin >= 0, ConfigError, f"margin must not be negative, got {margin}.")
    return Elementwise(Logit(-margin, levels + margin), width)


def choose_scales(shape: Sequence[int], scales: int | None) -> tuple[tuple[int, int, int], int]:
    """Check the shape of images and the number of scales; None: as many as leave at least 2 x 2 pixels, at most 3."""
    name = f"shape={tuple(shape)}"
    check(len(shape) == 3, ConfigError, f"{name} must be (channels, height, width).")
    channels, height, width = (int(n) for n in shape)
    most = 0
    while height % 2 ** (most + 1) == width % 2 ** (most + 1) == 0:
        most += 1
    n = scales
    if n is None:
        n = max(1, min(3, most, min(height, width).bit_length() - 2))
    step = 2**n
    padded = (channels, -(-height // step) * step, -(-width // step) * step)
    check(
        1 <= n <= most,
        ConfigError,
        f"{name} with {n} scale{'s' * (n > 1)} needs height and width divisible by {step}: pad the images to {padded}"
        + (f", or pass scales={most}." if most else ", or crop them."),
    )
    return (channels, height, width), n


def image_flow(
    shape: tuple[int, int, int],
    levels: int,
    scales: Sequence[Sequence[Transform]],
    *,
    margin: float = MARGIN,
    reversible: bool = False,
) -> Flow:
    """Logit, multi-scale stack and standard normal latent."""
    chains: list[Transform] = [Chain(*steps) for steps in scales]
    core = Multiscale(*(Reversible(chain) if reversible else chain for chain in chains), shape=shape)
    return Flow(Chain(pixel_logit(levels, shape[-1], margin), core), StandardNormal(math.prod(shape)))


@recipe(paper="Density estimation using Real NVP, Dinh, Sohl-Dickstein, Bengio, arXiv:1605.08803", year=2016)
def real_nvp_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    scales: int | None = None,
    couplings: int = 3,
    hidden: int = 32,
    blocks: int = 2,
    reversible: bool = False,
) -> Flow:
    """Multi-scale affine couplings with checkerboard and channel masks and residual convolutional networks, for images.

    As published: on each scale 3 checkerboard couplings, a squeeze, 3 channel couplings, half of the channels leave; then
    4 checkerboard couplings. Smaller networks (published: 4 blocks for 32 x 32 images), and actnorm after each coupling
    where the paper has batch normalisation.

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``; height and width even.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        scales: Number of scales; each halves height and width. None: as many as divide, at most 3.
        couplings: Couplings with each kind of mask on each scale; one more at the end.
        hidden: Channels of each residual network.
        blocks: Residual blocks of each network.
        reversible: Recompute activations in the backward pass: less memory, for about 1.6 times the time.

    Example:
        >>> real_nvp_image((1, 8, 8), levels=17, hidden=8).sample(2).shape
        torch.Size([2, 1, 8, 8])
    """
    shape, n = choose_scales(shape, scales)
    channels, height, width = shape
    affine = bounded_affine((2 * n + 1) * couplings + 1, IMAGE_REACH)

    def couple(channels: int, mask: Mask, count: int) -> list[Transform]:
        layers: list[Transform] = []
        for k in range(count):
            kept, moved = coupled_channels(channels, mask, swap=k % 2 == 1)
            net = ConvResNet(kept, affine.n_params * moved, hidden, blocks, context)
            layers += [ImageCoupling(affine, channels, mask, swap=k % 2 == 1, context=context, net=net)]
            layers += [ActNorm(channels, event_dim=3)]
        return layers

    stacks = []
    for _ in range(n):
        checkers, halves = couple(channels, "checkerboard", couplings), couple(4 * channels, "channels", couplings)
        stacks.append([*checkers, Squeeze(), *halves])
        channels, height, width = 2 * channels, height // 2, width // 2
    stacks.append(couple(channels, "checkerboard" if height * width > 1 else "channels", couplings + 1))
    return image_flow(shape, levels, stacks, margin=margin, reversible=reversible)


@recipe(paper="Glow: Generative Flow with Invertible 1x1 Convolutions, Kingma, Dhariwal, arXiv:1807.03039", year=2018)
def glow(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    scales: int | None = None,
    steps: int = 8,
    hidden: int = 64,
    reversible: bool = False,
) -> Flow:
    """Multi-scale steps of actnorm, invertible 1x1 convolution and affine channel coupling, for images.

    As published with learned split priors, but smaller (published: 3 scales, 32 steps, 512 channels), with tanh-bounded
    instead of sigmoid scales, without actnorm inside the conditioners, and with a logit so that pixels stay in range.

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``; height and width even.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        scales: Number of scales; each halves height and width. None: as many as divide, at most 3.
        steps: Steps of flow on each scale.
        hidden: Hidden channels of each conditioner.
        reversible: Recompute activations in the backward pass: memory that does not grow with ``steps``, for 1.6 x the time.

    Example:
        >>> glow((1, 8, 8), levels=17, steps=1, hidden=8).sample(2).shape
        torch.Size([2, 1, 8, 8])
    """
    shape, n = choose_scales(shape, scales)
    affine, channels, stacks = bounded_affine(n * steps, IMAGE_REACH), shape[0], []
    for scale in range(n):
        channels *= 4
        stack: list[Transform] = [Squeeze()]
        for step in range(steps):
            mixing = Conv1x1(channels, seed=scale * steps + step)
            coupling = ImageCoupling(affine, channels, context=context, hidden=hidden)
            stack += [ActNorm(channels, event_dim=3), mixing, coupling]
        if scale < n - 1:  # the density of what leaves, given what stays
            stack.append(ImageCoupling(affine, channels, context=context, hidden=hidden))
            channels //= 2
        stacks.append(stack)
    return image_flow(shape, levels, stacks, margin=margin, reversible=reversible)


@recipe(
    paper="Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design, "
    "Ho, Chen, Srinivas, Duan, Abbeel, arXiv:1902.00275",
    year=2019,
    sampling="root",
)
def flowpp_image(
    shape: Sequence[int],
    context: int = 0,
    *,
    levels: int = 256,
    margin: float = MARGIN,
    components: int = 8,
    couplings: Sequence[int] = (4, 2, 3),
    hidden: int = 32,
    blocks: int = 1,
    heads: int = 4,
    reversible: bool = False,
) -> Flow:
    """Mixture-of-logistics couplings with gated convolutions and self-attention, for images.

    As published: checkerboard couplings, a squeeze, channel couplings, checkerboard couplings, with an actnorm and a 1x1
    convolution before each. Smaller networks (published: 10 blocks of 96 channels, 32 components), and attention on the
    squeezed image only, where it costs a sixteenth. Variational dequantization is ``Dequantized`` around it.

    Args:
        shape: ``(channels, height, width)`` of an image with pixels in ``[0, levels)``; height and width even.
        context: Width of the context (a class as one-hot vector, say), 0 for none.
        levels: Number of grey levels of a pixel.
        margin: How far beyond both ends of ``[0, levels)`` the logit reaches, in grey levels.
        components: Logistics in each mixture.
        couplings: Numbers of couplings of the three kinds.
        hidden: Channels of each network.
        blocks: Blocks of each network.
        heads: Attention heads, a divisor of ``hidden``.
        reversible: Recompute activations in the backward pass: less memory; slow here, the inverse is a root search.

    Example:
        >>> flowpp_image((1, 4, 4), levels=17, hidden=8).sample(2).shape
        torch.Size([2, 1, 4, 4])
    """
    shape, _ = choose_scales(shape, 1)
    check(len(couplings) == 3, ConfigError, f"couplings must be three numbers, got {tuple(couplings)}.")
    family, seeds = MixtureCdf(components), itertools.count()

    def couple(channels: int, mask: Mask, count: int, heads: int) -> list[Transform]:
        layers: list[Transform] = []
        for k in range(count):
            kept, moved = coupled_channels(channels, mask, swap=k % 2 == 1)
            net = GatedConvNet(kept, family.n_params * moved, hidden, blocks, heads, context)
            coupling = ImageCoupling(family, channels, mask, swap=k % 2 == 1, context=context, net=net)
            layers += [ActNorm(channels, event_dim=3), Conv1x1(channels, next(seeds)), coupling]
        return layers

    full, small = shape[0], 4 * shape[0]
    last: Mask = "checkerboard" if shape[1] * shape[2] > 4 else "channels"
    steps = [
        *couple(full, "checkerboard", couplings[0], 0),
        Squeeze(),
        *couple(small, "channels", couplings[1], heads),
        *couple(small, last, couplings[2], heads),
    ]
    return image_flow(shape, levels, [steps], margin=margin, reversible=reversible)

"""Learned dequantization noise."""

import math
from collections.abc import Sequence

from bijectory.bijections import Affine, Logit
from bijectory.densities import Flow, StandardNormal
from bijectory.nets import ContextConv
from bijectory.transforms import Chain, Elementwise, Reshape


def pixel_noise(shape: Sequence[int], *, hidden: int = 32) -> Flow:
    r"""Noise :math:`q(u|x)` for ``Dequantized``: of every pixel logit-normal, its mean and width a function of the image.

    Far simpler than the coupling flow of Flow++: one pass through a small convolutional network that sees the 5 x 5
    neighbourhood, the noise of the pixels independent given the image.

    Args:
        shape: ``(channels, height, width)`` of an image.
        hidden: Hidden channels of the network.

    References:
        Variational dequantization: Ho et al. 2019, Flow++, arXiv:1902.00275, sec. 3.1.

    Example:
        >>> import torch
        >>> from bijectory import Dequantized, glow
        >>> model = Dequantized(glow((1, 4, 4), levels=8, steps=1, hidden=8), 8, pixel_noise((1, 4, 4)))
        >>> model.log_prob(torch.zeros(3, 1, 4, 4)).shape
        torch.Size([3])
    """
    d = math.prod(shape)
    shape = tuple(int(n) for n in shape)
    layer = Elementwise(Affine(), d, d, (hidden,), ContextConv(shape, Affine().n_params, hidden))
    return Flow(Chain(Reshape(shape, (d,)), Elementwise(Logit(), d), layer), StandardNormal(d))

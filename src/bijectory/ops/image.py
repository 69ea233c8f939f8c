"""Kernels for images ``(*batch, channels, height, width)``, with any batch shape, none and empty included.

*Memory* between the layers of a flow is channel-major, ``(channels, *batch, height, width)``, as the rows of a table are
feature-major: halves of the channels are slices without gaps, scaling a channel is one long vectorised pass, and mixing
the channels is one matrix product. Convolutions want the opposite, channels last, and get it inside their network. Every
function takes any strides.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolve with zero padding that keeps height and width; a stride divides them, rounded up.

    Args:
        x: ``(*batch, i, height, width)``.
        weight: ``(o, i, k, k)`` with odd ``k``.
        bias: ``(o,)`` or None.
        stride: Every which pixel of both directions is kept.
    """
    batch = x.shape[:-3]
    flat = x if x.dim() == 4 else x.reshape(math.prod(batch), *x.shape[-3:])
    out = F.conv2d(flat, weight, bias, stride, weight.shape[-1] // 2)
    return out if x.dim() == 4 else out.reshape(*batch, *out.shape[-3:])


def channel_major(x: Tensor) -> Tensor:
    """Copy ``(*batch, C, H, W)`` so that memory is ``(C, *batch, H, W)``; the logical shape stays."""
    return x.movedim(-3, 0).contiguous().movedim(0, -3)


def channels_last(x: Tensor) -> Tensor:
    """Copy ``(*batch, C, H, W)`` so that memory is ``(*batch, H, W, C)``; the logical shape stays."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def mix(x: Tensor, weight: Tensor) -> Tensor:
    """``W x`` at every pixel, as one matrix product: ``(*batch, i, H, W) -> (*batch, o, H, W)``, channel-major.

    Args:
        x: Channel-major for speed, any strides for correctness.
        weight: ``(o, i)``.
    """
    planes = x.movedim(-3, 0)
    out = weight @ planes.reshape(len(planes), math.prod(planes.shape[1:]))
    return out.reshape(len(weight), *planes.shape[1:]).movedim(0, -3)


def squeeze(x: Tensor, factor: int) -> Tensor:
    """Blocks of pixels to channels: ``(*batch, C, H, W) -> (*batch, C f f, H/f, W/f)``.

    Channel ``(c f + i) f + j`` of the result holds the pixels ``(i, j)`` of the blocks of channel ``c``.
    """
    *batch, c, h, w = x.shape
    blocks = x.movedim(-3, 0).reshape(c, *batch, h // factor, factor, w // factor, factor)
    planes = blocks.movedim((-3, -1), (1, 2)).reshape(c * factor**2, *batch, h // factor, w // factor)
    return planes.movedim(0, -3)


def unsqueeze(z: Tensor, factor: int) -> Tensor:
    """Undo ``squeeze``."""
    *batch, c, h, w = z.shape
    blocks = z.movedim(-3, 0).reshape(c // factor**2, factor, factor, *batch, h, w)
    planes = blocks.movedim((1, 2), (-3, -1)).reshape(c // factor**2, *batch, h * factor, w * factor)
    return planes.movedim(0, -3)


def double(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat every pixel in both directions, then cut to ``height`` and ``width``.

    Example:
        >>> double(torch.tensor([[[1.0, 2.0]]]), 1, 3)
        tensor([[[1., 1., 2.]]])
    """
    rows = x.unsqueeze(-2).expand(*x.shape[:-1], 2, x.shape[-1]).flatten(-3, -2)
    both = rows.unsqueeze(-1).expand(*rows.shape, 2).flatten(-2)
    return both[..., :height, :width]


def group_norm(x: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the pixels and channels of each group, every image by itself.

    Args:
        x: ``(*batch, C, H, W)``.
        groups: Number of groups, a divisor of ``C``.
        eps: Added to the variance.

    References:
        Group Normalization, Wu, He 2018, arXiv:1803.08494.
    """
    parts = x.unflatten(-3, (groups, -1))
    centred = parts - parts.mean((-3, -2, -1), keepdim=True)
    variance = centred.square().mean((-3, -2, -1), keepdim=True)
    return (centred * (variance + eps).rsqrt()).flatten(-4, -3)


def checkerboard(height: int, width: int, device: torch.device) -> Tensor:
    """Booleans ``(height, width)``, True where row plus column is even."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return (rows.unsqueeze(-1) + columns) % 2 == 0


def image_planes(raw: Tensor, n_params: int) -> Tensor:
    """Split a conditioner's output ``(*batch, P * C, H, W)`` into planes ``(P, *batch, C, H, W)``; a view, no copy."""
    return raw.unflatten(-3, (n_params, -1)).movedim(-4, 0)

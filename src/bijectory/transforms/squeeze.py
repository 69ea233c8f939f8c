"""Blocks of pixels to channels: space-to-depth and the Haar wavelet."""

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ShapeError, check
from bijectory.ops.image import squeeze, unsqueeze
from bijectory.transforms.base import Transform


class Squeeze(Transform):
    """Move every block of ``factor x factor`` pixels into channels; a permutation, log-determinant 0.

    ``(C, H, W) -> (C f f, H / f, W / f)``. With a larger factor this cuts an image into patches.

    Args:
        factor: Side ``f`` of a block.

    Raises:
        ConfigError: If ``factor < 1``.
        ShapeError: From ``latent_shape`` and ``data_shape``, if the blocks do not fit.

    References:
        Real NVP, Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803, sec. 3.6, fig. 3.

    Example:
        >>> Squeeze()(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))[0].flatten()
        tensor([1., 2., 3., 4.])
    """

    event_dim = latent_event_dim = 3

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check(factor >= 1, ConfigError, f"factor must be at least 1, got {factor}.")
        self.factor = factor

    def extra_repr(self) -> str:
        return f"factor={self.factor}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return squeeze(x, self.factor), x.new_zeros(x.shape[:-3])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return unsqueeze(z, self.factor), z.new_zeros(z.shape[:-3])

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        return squeezed(data_shape, self.factor)

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        return unsqueezed(latent_shape, self.factor)


class Haar(Transform):
    r"""Orthonormal Haar wavelet: means and differences of blocks of 2 x 2 pixels; log-determinant 0.

    ``(C, H, W) -> (4 C, H / 2, W / 2)``. The first ``C`` channels are a half-size image (block sums over 2), then follow
    horizontal, vertical and diagonal differences. The map is orthogonal, so lengths stay.

    Raises:
        ShapeError: From ``latent_shape`` and ``data_shape``, if the blocks do not fit.

    References:
        Guided Image Generation with Conditional Invertible Neural Networks, Ardizzone+ 2019, arXiv:1907.02392, sec. 3.3.

    Example:
        >>> Haar()(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))[0].flatten()
        tensor([ 5., -1., -2.,  0.])
    """

    event_dim = latent_event_dim = 3

    def __init__(self) -> None:  # without it the signature would be that of nn.Module, which takes anything
        super().__init__()

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = _hadamard(squeeze(x, 2).unflatten(-3, (-1, 4)))
        return z.transpose(-3, -4).flatten(-4, -3), x.new_zeros(x.shape[:-3])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = _hadamard(z.unflatten(-3, (4, -1)).transpose(-3, -4))
        return unsqueeze(x.flatten(-4, -3), 2), z.new_zeros(z.shape[:-3])

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        return squeezed(data_shape, 2)

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        return unsqueezed(latent_shape, 2)


def _hadamard(blocks: Tensor) -> Tensor:
    """Half of the 4 x 4 Hadamard matrix along dimension -3: symmetric, orthogonal, its own inverse."""
    a, b, c, d = blocks.unbind(-3)
    sums, differences = (a + b, c + d), (a - b, c - d)
    bands = (sums[0] + sums[1], differences[0] + differences[1], sums[0] - sums[1], differences[0] - differences[1])
    return torch.stack(bands, -3) / 2


def squeezed(shape: torch.Size, factor: int) -> torch.Size:
    """Event shape after blocks went into channels."""
    ok = len(shape) == 3 and shape[1] % factor == 0 and shape[2] % factor == 0
    check(
        ok,
        ShapeError,
        f"events of shape (channels, height, width) with height and width divisible by {factor} can be squeezed, "
        f"got {tuple(shape)}; pad or crop the images.",
    )
    return torch.Size((shape[0] * factor**2, shape[1] // factor, shape[2] // factor))


def unsqueezed(shape: torch.Size, factor: int) -> torch.Size:
    """Event shape before blocks went into channels."""
    ok = len(shape) == 3 and shape[0] % factor**2 == 0
    check(ok, ShapeError, f"channels must be divisible by {factor**2} to be unsqueezed, got shape {tuple(shape)}.")
    return torch.Size((shape[0] // factor**2, shape[1] * factor, shape[2] * factor))

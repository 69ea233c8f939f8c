"""Images as sequences of patches."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ShapeError, check
from bijectory.transforms.base import Transform


class Patchify(Transform):
    r"""Cut an image into square patches, :math:`(C, H, W) \to (H W / p^2,\; C p^2)`; log-determinant 0.

    Tokens follow in reading order (left to right, then down); in a token the channels are slowest, then rows.

    Args:
        shape: ``(channels, height, width)`` of the image.
        patch: Side ``p`` of a patch; divides height and width.

    Raises:
        ConfigError: If the shape is not that of an image, or the patch does not divide it.
        ShapeError: From ``latent_shape`` and ``data_shape``, on an event of another shape.

    Example:
        >>> image = torch.arange(8.0).reshape(1, 2, 4)
        >>> Patchify((1, 2, 4), patch=2)(image)[0]
        tensor([[0., 1., 4., 5.],
                [2., 3., 6., 7.]])
    """

    event_dim, latent_event_dim = 3, 2

    def __init__(self, shape: Sequence[int], patch: int) -> None:
        super().__init__()
        self.shape, self.patch = tuple(int(n) for n in shape), patch
        ok = len(self.shape) == 3 and all(n >= 1 for n in self.shape)
        check(ok, ConfigError, f"shape must be (channels, height, width), got {self.shape}.")
        channels, height, width = self.shape
        common = math.gcd(height, width)
        fits = [n for n in range(1, common + 1) if common % n == 0]
        check(
            patch in fits,
            ConfigError,
            f"patch={patch} must divide height={height} and width={width}; use one of {fits}.",
        )
        self.rows, self.columns = height // patch, width // patch
        self.tokens, self.features = self.rows * self.columns, channels * patch**2

    def extra_repr(self) -> str:
        return f"{self.shape}, patch={self.patch}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        p, batch = self.patch, x.shape[:-3]
        cut = x.reshape(*batch, self.shape[0], self.rows, p, self.columns, p)
        tokens = cut.movedim((-4, -2), (-5, -4))  # rows and columns of patches first: (*batch, rows, columns, C, p, p)
        return tokens.reshape(*batch, self.tokens, self.features), x.new_zeros(batch)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        p, batch = self.patch, z.shape[:-2]
        tokens = z.reshape(*batch, self.rows, self.columns, self.shape[0], p, p)
        return tokens.movedim((-5, -4), (-4, -2)).reshape(*batch, *self.shape).contiguous(), z.new_zeros(batch)

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        ok = tuple(data_shape) == self.shape
        check(ok, ShapeError, f"this Patchify takes images of shape {self.shape}, got {tuple(data_shape)}.")
        return torch.Size((self.tokens, self.features))

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        want = (self.tokens, self.features)
        ok = tuple(latent_shape) == want
        check(ok, ShapeError, f"this Patchify gives tokens of shape {want}, got {tuple(latent_shape)}.")
        return torch.Size(self.shape)

"""Change of event shape."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ShapeError, check
from bijectory.ops.shape import feature_major
from bijectory.transforms.base import Transform


class Reshape(Transform):
    """Read the same numbers as an event of another shape, in row-major order; log-determinant 0.

    Args:
        data: Event shape of ``x``.
        latent: Event shape of ``z``.

    Raises:
        ConfigError: If a shape is empty or the two hold a different number of elements.
        ShapeError: From ``latent_shape`` and ``data_shape``, on an event of another shape.

    Example:
        >>> Reshape((2, 3), (6,))(torch.zeros(5, 2, 3))[0].shape
        torch.Size([5, 6])
    """

    def __init__(self, data: Sequence[int], latent: Sequence[int]) -> None:
        super().__init__()
        self.data, self.latent = tuple(data), tuple(latent)
        ok = math.prod(self.data) == math.prod(self.latent) and all(n > 0 for n in (*self.data, *self.latent))
        check(
            ok and bool(self.data and self.latent),
            ConfigError,
            f"data={self.data} and latent={self.latent} must be non-empty shapes with the same number of elements.",
        )
        self.event_dim, self.latent_event_dim = len(self.data), len(self.latent)

    def extra_repr(self) -> str:
        return f"{self.data}, {self.latent}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _reshape(x, self.event_dim, self.latent)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _reshape(z, self.latent_event_dim, self.data)

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        return _expect(data_shape, self.data, self.latent)

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        return _expect(latent_shape, self.latent, self.data)


def _reshape(x: Tensor, event_dim: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    batch = x.shape[: x.dim() - event_dim]
    out = x.reshape(*batch, *shape)
    return (feature_major(out) if len(shape) == 1 else out), x.new_zeros(batch)


def _expect(got: torch.Size, source: tuple[int, ...], target: tuple[int, ...]) -> torch.Size:
    check(tuple(got) == source, ShapeError, f"this Reshape takes events of shape {source}, got {tuple(got)}.")
    return torch.Size(target)

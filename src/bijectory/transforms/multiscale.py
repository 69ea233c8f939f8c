"""The multi-scale architecture, with a flat latent."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, DtypeError, ShapeError, check
from bijectory.transforms.base import Transform


class Multiscale(Transform):
    r"""Levels of transforms; after each, half of the channels leave as latents and the rest goes on to the next.

    The latent is flat and as large as the image: the channels that left first come first. So this is an ordinary
    transform from events ``shape`` to events ``(d,)``, and one log-determinant for all.

    Args:
        *levels: Transforms of images in data -> latent order, each typically a chain of a squeeze and several flow steps.
            Of the channels that a level puts out, the first half continues (the larger half if their number is odd).
            From the last one all leave.
        shape: ``(channels, height, width)`` of the image.

    Raises:
        DtypeError: If a level is not a transform of images.
        ConfigError: If there is no level, or one before the last puts out a single channel.
        ShapeError: If a level cannot take the image it gets; from ``latent_shape`` and ``data_shape`` on other events.

    References:
        Real NVP, Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803, eq. 13-16.

    Example:
        >>> from bijectory.transforms import Squeeze
        >>> flow = Multiscale(Squeeze(), Squeeze(), shape=(1, 4, 4))
        >>> flow(torch.arange(16.0).reshape(1, 4, 4))[0]
        tensor([ 4.,  6., 12., 14.,  5.,  7., 13., 15.,  0.,  2.,  8., 10.,  1.,  3.,
                 9., 11.])
    """

    event_dim = 3
    latent_event_dim = 1

    def __init__(self, *levels: Transform, shape: Sequence[int]) -> None:
        super().__init__()
        check(bool(levels), ConfigError, "a Multiscale needs at least one level.")
        for t in levels:
            ok = isinstance(t, Transform) and t.event_dim == t.latent_event_dim == 3
            check(ok, DtypeError, f"a Multiscale takes transforms of images, got {type(t).__name__}.")
        self.levels, self.shape = nn.ModuleList(levels), tuple(int(n) for n in shape)
        self.exact = all(t.exact for t in levels)
        self.context = max(t.context for t in levels)
        self._leaving = _leaving(levels, torch.Size(self.shape))
        self._sizes = [math.prod(part) for part in self._leaving]

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts, total = [], x.new_zeros(())
        for level, leaving in zip(self._levels, self._leaving, strict=True):
            x, ladj = level.forward(x, c)
            total = total + ladj
            x, out = x.split((x.shape[-3] - leaving[0], leaving[0]), -3)
            parts.append(out.flatten(-3))
        # A level that does not read the context does not take its batch shape either.
        return torch.cat([p.expand(*total.shape, p.shape[-1]) for p in parts], -1), total

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts, total = z.split(self._sizes, -1), z.new_zeros(())
        x = z.new_zeros(*z.shape[:-1], 0, *self._leaving[-1][1:])
        for level, leaving, part in zip(reversed(self._levels), reversed(self._leaving), reversed(parts), strict=True):
            back = part.unflatten(-1, leaving).expand(*x.shape[:-3], *leaving)
            x, ladj = level.inverse(torch.cat((x, back), -3), c)
            total = total + ladj
        return x, total

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        check(
            tuple(data_shape) == self.shape, ShapeError, f"this Multiscale takes {self.shape}, got {tuple(data_shape)}."
        )
        return torch.Size((sum(self._sizes),))

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        want = (sum(self._sizes),)
        check(
            tuple(latent_shape) == want,
            ShapeError,
            f"latents of this Multiscale are {want}, got {tuple(latent_shape)}.",
        )
        return torch.Size(self.shape)

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        for level, leaving in zip(self._levels, self._leaving, strict=True):
            level.initialize(x, c)
            with torch.no_grad():
                x, _ = level.forward(x, c)
                x = x[..., : x.shape[-3] - leaving[0], :, :]

    @property
    def _levels(self) -> list[Transform]:
        return list(self.levels)  # type: ignore[arg-type]


def _leaving(levels: Sequence[Transform], shape: torch.Size) -> list[torch.Size]:
    """Shape of what leaves after each level."""
    check(
        len(shape) == 3 and min(shape) >= 1,
        ConfigError,
        f"shape must be (channels, height, width), got {tuple(shape)}.",
    )
    leaving = []
    for k, level in enumerate(levels):
        channels, *size = level.latent_shape(shape)
        last = k == len(levels) - 1
        check(
            last or channels >= 2, ConfigError, f"level {k} puts out 1 channel, which cannot be halved; squeeze first."
        )
        shape = torch.Size((0 if last else (channels + 1) // 2, *size))
        leaving.append(torch.Size((channels - shape[0], *size)))
    return leaving

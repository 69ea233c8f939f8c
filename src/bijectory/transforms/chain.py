"""Composition of transforms."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bijectory.errors import DtypeError, check
from bijectory.ops.shape import sum_event
from bijectory.transforms.base import Transform


class Chain(Transform):
    """Transforms applied one after the other, listed in data -> latent order.

    ``forward`` runs them left to right, ``inverse`` right to left; log-determinants add. An empty chain is the
    identity on vectors. ``chain[i]`` is a transform, ``chain[i:j]`` a chain that shares the layers.

    Raises:
        DtypeError: If an item is not a ``Transform``.

    Example:
        >>> from bijectory import Affine, Elementwise
        >>> chain = Chain(Elementwise(Affine(), 2), Elementwise(Affine(), 2))
        >>> z, ladj = chain.forward(torch.zeros(5, 2))
        >>> z.shape, ladj.shape, len(chain[:1])
        (torch.Size([5, 2]), torch.Size([5]), 1)
    """

    def __init__(self, *transforms: Transform) -> None:
        super().__init__()
        for t in transforms:
            check(isinstance(t, Transform), DtypeError, f"a Chain takes Transforms, got {type(t).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.event_dim = max((t.event_dim for t in transforms), default=1)
        self.exact = all(t.exact for t in transforms)
        self.context = max((t.context for t in transforms), default=0)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = None
        for t in self:
            x, ladj = t.forward(x, c)
            total = self._add(total, ladj, t)
        return x, self._zeros(x) if total is None else total

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = None
        for t in reversed(list(self)):
            z, ladj = t.inverse(z, c)
            total = self._add(total, ladj, t)
        return z, self._zeros(z) if total is None else total

    def _add(self, total: Tensor | None, ladj: Tensor, t: Transform) -> Tensor:
        ladj = sum_event(ladj, self.event_dim - t.event_dim)
        return ladj if total is None else total + ladj

    def _zeros(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[: x.dim() - self.event_dim])

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        for t in self:
            data_shape = t.latent_shape(data_shape)
        return data_shape

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        for t in reversed(list(self)):
            latent_shape = t.data_shape(latent_shape)
        return latent_shape

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        for t in self:
            t.initialize(x, c)
            with torch.no_grad():
                x, _ = t.forward(x, c)

    def __len__(self) -> int:
        return len(self.transforms)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)  # type: ignore[arg-type]

    def __getitem__(self, index: int | slice) -> Transform:
        return Chain(*self.transforms[index]) if isinstance(index, slice) else self.transforms[index]  # type: ignore[return-value]

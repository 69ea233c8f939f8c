"""Coupling layers for images: checkerboard and channel masks."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import ConvNet
from bijectory.ops.image import checkerboard, image_planes
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context, sum_event
from bijectory.transforms.retrace import Retraceable, Way, rerun

Mask = Literal["channels", "checkerboard"]
Scalar = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def coupled_channels(channels: int, mask: Mask, *, swap: bool = False) -> tuple[int, int]:
    """Channels that the conditioner of a coupling reads, and channels that it must give a set of parameters for."""
    if mask == "checkerboard":
        return channels, channels
    first = (channels + 1) // 2
    return (channels - first, first) if swap else (first, channels - first)


class ImageCoupling(Retraceable):
    r"""Coupling of images :math:`z_A = x_A,\; z_B = \tau(x_B; \phi(x_A, c))` with any scalar family.

    Part A are the first half of the channels, or the pixels of a checkerboard whose row plus column is even; ``swap``
    exchanges A and B. The log-determinant is the sum of the scalar ones over B. A split prior, the density of channels
    that leave given those that stay, is this layer too: whitened by it, they are standard normal.

    Args:
        bijection: The scalar family :math:`\tau`.
        channels: Number of channels.
        mask: ``"channels"`` or ``"checkerboard"``.
        swap: Transform what would be kept, and keep the rest.
        context: Width of the context, 0 for none.
        hidden: Hidden channels of the built-in conditioner, a ``ConvNet``.
        net: A conditioner of your own, ``net(x_A, c) -> (*batch, P * channels_B, H, W)``, plane-major channels. With a
            checkerboard it gets and gives all channels: the pixels of B are zero on the way in, those of A are ignored on
            the way out.

    Raises:
        ConfigError: If the mask is unknown, or halves of a single channel are asked for.

    References:
        Real NVP, Dinh, Sohl-Dickstein, Bengio 2016, arXiv:1605.08803, eq. 9 and sec. 3.4.

    Example:
        >>> from bijectory.bijections import Affine
        >>> z, ladj = ImageCoupling(Affine(), 4, hidden=8)(torch.ones(5, 4, 2, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 4, 2, 2]), torch.Size([5]))
    """

    event_dim = latent_event_dim = 3

    def __init__(
        self,
        bijection: Bijection,
        channels: int,
        mask: Mask = "channels",
        *,
        swap: bool = False,
        context: int = 0,
        hidden: int = 64,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_type(bijection, Bijection, "bijection")
        check(mask in get_args(Mask), ConfigError, f"mask must be one of {get_args(Mask)}, got {mask!r}.")
        least = 2 if mask == "channels" else 1
        check(
            channels >= least,
            ConfigError,
            f'mask={mask!r} needs at least {least} channels, got {channels}; squeeze first, or use mask="checkerboard".',
        )
        self.bijection, self.channels, self.mask, self.swap = bijection, channels, mask, swap
        self.context, self.hidden = context, hidden
        kept, moved = coupled_channels(channels, mask, swap=swap)
        self._sizes = (moved, kept) if swap else (kept, moved)
        self.net = ConvNet(kept, bijection.n_params * moved, hidden, context) if net is None else net

    def extra_repr(self) -> str:
        return f"{self.bijection}, channels={self.channels}, mask={self.mask}, swap={self.swap}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self.bijection.forward, x, c)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self.bijection.inverse, z, c)

    def _couple(self, scalar: Scalar, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b = self._split(expand_to_context(x, c if self.context else None, 3))
        b, ladj = scalar(b, self._planes(a, b, c))
        return self.join(a, b), self._total(ladj)

    def retrace(self, way: Way, z: Tensor, c: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        a, b = self._split(z.detach())
        a = a.requires_grad_()
        b, moved, ladj = rerun(self.bijection, way, b, self._planes(a, b, c))
        return (a, b), self.join(a, moved), self._total(ladj)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        if self.mask == "checkerboard":
            order = self._order(kept)
            rest = kept.flatten(-2).index_select(-1, order[moved.shape[-1] :])
            return torch.cat((moved, rest), -1).index_select(-1, order.argsort()).reshape(kept.shape)
        parts = [p.movedim(-3, 0) for p in ((moved, kept) if self.swap else (kept, moved))]
        return torch.cat(parts).movedim(0, -3)  # channel-major

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the conditioner reads, and what is transformed: ``(*batch, C, pixels)`` or ``(*batch, C, H, W)``."""
        if self.mask == "checkerboard":
            return torch.where(self._kept(x), x, 0.0), self._moved(x)
        first, last = x.split(self._sizes, -3)
        return (last, first) if self.swap else (first, last)

    def _planes(self, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        phi = as_precise_as(b, image_planes(self.net(a, c if self.context else None), self.bijection.n_params))
        return self._moved(phi) if self.mask == "checkerboard" else phi

    def _total(self, ladj: Tensor) -> Tensor:
        return sum_event(ladj, 2 if self.mask == "checkerboard" else 3)

    def _kept(self, x: Tensor) -> Tensor:
        return checkerboard(x.shape[-2], x.shape[-1], x.device) != self.swap

    def _order(self, x: Tensor) -> Tensor:
        """Pixels, those that move first."""
        return self._kept(x).flatten().byte().argsort(stable=True)

    def _moved(self, x: Tensor) -> Tensor:
        pixels = x.shape[-2] * x.shape[-1]
        order = self._order(x)[: (pixels + self.swap) // 2]
        return x.flatten(-2).index_select(-1, order)

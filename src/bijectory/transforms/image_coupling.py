"""Coupling layers for images: checkerboard and channel masks."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import ConvNet
from bijectory.ops.image import checkerboard, image_planes
from bijectory.ops.shape import expand_to_context, sum_event
from bijectory.transforms.base import Transform

Mask = Literal["channels", "checkerboard"]
Scalar = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class ImageCoupling(Transform):
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
        first = (channels + 1) // 2
        self._sizes = (first, channels - first)
        kept, moved = (channels, channels) if mask == "checkerboard" else self._sizes[::-1] if swap else self._sizes
        self.net = ConvNet(kept, bijection.n_params * moved, hidden, context) if net is None else net

    def extra_repr(self) -> str:
        return f"{self.bijection}, channels={self.channels}, mask={self.mask}, swap={self.swap}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self.bijection.forward, x, c)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._couple(self.bijection.inverse, z, c)

    def _couple(self, scalar: Scalar, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 3)
        return self._halves(scalar, x, c) if self.mask == "channels" else self._pixels(scalar, x, c)

    def _halves(self, scalar: Scalar, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        first, last = x.split(self._sizes, -3)
        a, b = (last, first) if self.swap else (first, last)
        b, ladj = scalar(b, image_planes(self.net(a, c), self.bijection.n_params))
        return torch.cat((b, a) if self.swap else (a, b), -3), sum_event(ladj, 3)

    def _pixels(self, scalar: Scalar, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        kept = checkerboard(x.shape[-2], x.shape[-1], x.device) != self.swap
        phi = image_planes(self.net(torch.where(kept, x, 0.0), c), self.bijection.n_params)
        y, ladj = scalar(x, torch.where(kept, 0.0, phi))  # on kept pixels any safe parameters do
        return torch.where(kept, x, y), sum_event(torch.where(kept, 0.0, ladj), 3)

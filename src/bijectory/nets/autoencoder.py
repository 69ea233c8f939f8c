"""Encoders and decoders of events of any shape: what an event is like, and what the values of an event are like.

An encoder turns ``(*batch, *shape)`` into ``(*batch, outputs)``; a decoder turns latents ``(*batch, latent)`` into raw
parameters of every value, ``(*batch, n_params, *shape)``. Dense ones take every shape, gated convolutions take images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.mlp import MLP, Dense


class DenseEncoder(nn.Module):
    """Perceptron of a flat event; the last hidden layer is the code.

    Args:
        shape: Shape of an event.
        hidden: Widths of the layers; the last one is ``outputs``.
        levels: Events are whole numbers ``0 ... levels - 1``, scaled to [-1, 1] first; 0 takes them as they are.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    Raises:
        ConfigError: On an empty shape, no layer, or an unknown activation.

    Example:
        >>> DenseEncoder((1, 8, 8), (32, 16))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self, shape: Sequence[int], hidden: Sequence[int] = (300, 300), levels: int = 0, activation: str = "silu"
    ) -> None:
        super().__init__()
        self.shape, self.hidden, self.levels, self.activation = _shape(shape), tuple(hidden), levels, activation
        check(len(self.hidden) >= 1, ConfigError, "hidden is empty; give the width of at least one layer.")
        self.outputs = self.hidden[-1]
        self.net = MLP(math.prod(self.shape), self.outputs, self.hidden[:-1], activation=activation, head_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Encode events."""
        flat = _centred(x, self.levels).flatten(x.dim() - len(self.shape))
        return ACTIVATIONS[self.activation](self.net(flat))


class DenseDecoder(nn.Module):
    """Perceptron from latents to the raw parameters of every value.

    Args:
        latent: Width of the latent.
        shape: Shape of an event.
        n_params: Parameters of each value.
        hidden: Widths of the hidden layers.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    Raises:
        ConfigError: On an empty shape, a width below 1, or an unknown activation.

    Example:
        >>> DenseDecoder(4, (1, 8, 8), hidden=(16,))(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 1, 8, 8])
    """

    def __init__(
        self,
        latent: int,
        shape: Sequence[int],
        n_params: int = 1,
        hidden: Sequence[int] = (300, 300),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.latent, self.shape, self.n_params = latent, _shape(shape), n_params
        self.hidden, self.activation = tuple(hidden), activation
        self.net = MLP(latent, n_params * math.prod(self.shape), hidden, activation=activation, head_scale=1.0)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents."""
        return self.net(z).unflatten(-1, (self.n_params, *self.shape))


class GatedEncoder(nn.Module):
    r"""Five gated 5 x 5 convolutions, two of them of stride 2, and a gated dense layer of all that is left.

    A gated layer is :math:`a \odot \sigma(b)` of two maps. Of 28 x 28 pixels with ``hidden=32`` and ``outputs=256`` it is
    the encoder of the paper: channels 32, 32, 64, 64, 64, then 256.

    Args:
        shape: ``(channels, height, width)``.
        hidden: Channels of the first two layers; the others have twice as many.
        outputs: Width of the code.
        levels: As for ``DenseEncoder``.

    Raises:
        ConfigError: If the shape is not that of an image, or a width is below 1.

    References:
        Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak, Welling 2018,
        arXiv:1803.05649, appendix A; Language Modeling with Gated Convolutional Networks, Dauphin+ 2017, arXiv:1612.08083.

    Example:
        >>> GatedEncoder((1, 8, 8), hidden=4, outputs=16)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 16])
    """

    def __init__(self, shape: Sequence[int], hidden: int = 32, outputs: int = 256, levels: int = 0) -> None:
        super().__init__()
        self.shape, self.hidden, self.outputs, self.levels = _image(shape), hidden, outputs, levels
        check(min(hidden, outputs) >= 1, ConfigError, f"hidden={hidden} and outputs={outputs} must be at least 1.")
        h, w = (_half(_half(n)) for n in self.shape[1:])
        widths = (self.shape[0], hidden, hidden, 2 * hidden, 2 * hidden, 2 * hidden)
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[k], 2 * widths[k + 1], 5, stride, 2) for k, stride in enumerate((1, 2, 1, 2, 1))
        )
        self.head = Dense(2 * hidden * h * w, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images."""
        batch = x.shape[:-3]
        h = _centred(x, self.levels).reshape(-1, *self.shape)
        for layer in self.layers:
            h = _gate(layer(h), 1)
        return _gate(self.head(h.flatten(1)), 1).reshape(*batch, self.outputs)


class GatedDecoder(nn.Module):
    """The mirror image of ``GatedEncoder``: a gated dense layer, then gated convolutions, two of them transposed.

    Args:
        latent: Width of the latent.
        shape: ``(channels, height, width)``.
        n_params: Parameters of each value.
        hidden: Channels of the last three gated layers; those before have twice as many.

    Raises:
        ConfigError: If the shape is not that of an image, or a width is below 1.

    References:
        Sylvester Normalizing Flows for Variational Inference, van den Berg+ 2018, arXiv:1803.05649, appendix A.

    Example:
        >>> GatedDecoder(4, (1, 9, 8), hidden=4)(torch.zeros(5, 4)).shape
        torch.Size([5, 1, 1, 9, 8])
    """

    def __init__(self, latent: int, shape: Sequence[int], n_params: int = 1, hidden: int = 32) -> None:
        super().__init__()
        self.latent, self.shape, self.n_params, self.hidden = latent, _image(shape), n_params, hidden
        check(min(latent, n_params, hidden) >= 1, ConfigError, "latent, n_params and hidden must be at least 1.")
        channels, height, width = self.shape
        self._sizes = [(_half(_half(height)), _half(_half(width))), (_half(height), _half(width)), (height, width)]
        h, w = self._sizes[0]
        self.first = Dense(latent, 4 * hidden * h * w)
        self.layers = nn.ModuleList(
            (
                nn.Conv2d(2 * hidden, 4 * hidden, 5, 1, 2),
                nn.ConvTranspose2d(2 * hidden, 2 * hidden, 5, 2, 2, 1),
                nn.Conv2d(hidden, 2 * hidden, 5, 1, 2),
                nn.ConvTranspose2d(hidden, 2 * hidden, 5, 2, 2, 1),
                nn.Conv2d(hidden, 2 * hidden, 5, 1, 2),
            )
        )
        self.head = nn.Conv2d(hidden, n_params * channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode latents."""
        batch = z.shape[:-1]
        h = _gate(self.first(z.reshape(-1, self.latent)), 1).reshape(-1, 2 * self.hidden, *self._sizes[0])
        for layer, (height, width) in zip(self.layers, [self._sizes[k] for k in (0, 1, 1, 2, 2)], strict=True):
            h = _gate(layer(h)[..., :height, :width], 1)  # odd sizes: twice the half is one too many
        return self.head(h).reshape(*batch, self.n_params, *self.shape)


def _gate(h: Tensor, dim: int) -> Tensor:
    a, b = h.chunk(2, dim)
    return a * torch.sigmoid(b)


def _centred(x: Tensor, levels: int) -> Tensor:
    return 2 * x / (levels - 1) - 1 if levels else x


def _half(n: int) -> int:
    return -(-n // 2)


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in shape)
    check(bool(sizes) and min(sizes) >= 1, ConfigError, f"shape={sizes} must hold positive sizes.")
    return sizes


def _image(shape: Sequence[int]) -> tuple[int, ...]:
    sizes = _shape(shape)
    check(len(sizes) == 3, ConfigError, f"shape={sizes} must be (channels, height, width); use a dense network.")
    return sizes

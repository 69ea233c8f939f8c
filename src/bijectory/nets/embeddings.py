r"""Embeddings: what an observation is like, as a vector of fixed width.

Vectors pass a perceptron, series a 1-D convolution, images a 2-D one, sets a network of every element whose outputs are
averaged, so that the order of the elements cannot matter (Deep Sets). All take any leading batch shape.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.mlp import MLP


class MissingIndicator(nn.Module):
    """Missing values of a vector as zeros, with a second half that is 1 where one is missing: width ``2 features``.

    Args:
        features: Width of the vector, or of each step of a series.

    Example:
        >>> MissingIndicator(2)(torch.tensor([3.0, float("nan")]))
        tensor([3., 0., 0., 1.])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, features) -> (*batch, 2 features)``."""
        missing = x.isnan()
        return torch.cat((torch.where(missing, 0.0, x), missing.to(x.dtype)), -1)


class MissingRestored(nn.Module):
    """The inverse of ``MissingIndicator``: values and indicators to values with NaN, ``2 features -> features``.

    In front of a network that reads NaN itself, such as ``SetEmbedding``.

    Args:
        features: Number of values.

    Example:
        >>> MissingRestored(2)(torch.tensor([3.0, 0.0, 0.0, 1.0]))
        tensor([3., nan])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, 2 features) -> (*batch, features)``."""
        value, missing = x.split(self.features, -1)
        return torch.where(missing > 0.5, torch.nan, value)


class VectorEmbedding(nn.Module):
    """Perceptron of a vector: ``(*batch, features) -> (*batch, outputs)``.

    Args:
        features: Width of the vector.
        outputs: Width of the embedding.
        hidden: Widths of the hidden layers.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    Example:
        >>> VectorEmbedding(50, 8)(torch.zeros(3, 50)).shape
        torch.Size([3, 8])
    """

    def __init__(self, features: int, outputs: int, hidden: Sequence[int] = (64, 64), activation: str = "silu") -> None:
        super().__init__()
        self.features, self.outputs, self.hidden, self.activation = features, outputs, tuple(hidden), activation
        self.net = MLP(features, outputs, hidden, activation=activation, head_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Embed vectors."""
        return self.net(x)


class SetEmbedding(nn.Module):
    r"""Deep set, for independent observations: :math:`\rho\bigl(\tfrac1n \sum_i \varphi(x_i), \log n\bigr)`.

    ``(*batch, n, features) -> (*batch, outputs)`` for any number ``n`` of elements in any order. Elements that are NaN
    throughout count as absent, so that sets of different sizes fit into one tensor.

    Args:
        features: Width of an element.
        outputs: Width of the embedding.
        hidden: Widths of the hidden layers of both networks.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    References:
        Deep Sets, Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov, Smola 2017, arXiv:1703.06114, thm. 2.

    Example:
        >>> net, x = SetEmbedding(2, 8), torch.randn(5, 10, 2)
        >>> net(x).shape, torch.allclose(net(x), net(x.flip(1)), atol=1e-6)
        (torch.Size([5, 8]), True)
    """

    def __init__(self, features: int, outputs: int, hidden: Sequence[int] = (64, 64), activation: str = "silu") -> None:
        super().__init__()
        check(len(hidden) > 0, ConfigError, "a SetEmbedding needs at least one hidden layer.")
        self.features, self.outputs, self.hidden, self.activation = features, outputs, tuple(hidden), activation
        self.element = MLP(features, hidden[-1], hidden, activation=activation, head_scale=1.0)
        self.whole = MLP(hidden[-1] + 1, outputs, hidden, activation=activation, head_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Embed sets."""
        present = ~x.isnan().all(-1, keepdim=True)
        count = present.sum(-2).clamp(min=1).to(x.dtype)
        each = self.element(torch.where(present, x, 0.0))
        mean = torch.where(present, each, 0.0).sum(-2) / count
        return self.whole(torch.cat((mean, count.log()), -1))


class SeriesEmbedding(nn.Module):
    """Convolutions along a series: ``(*batch, steps, features) -> (*batch, outputs)``.

    Each layer halves the number of steps; mean and maximum over the steps that are left go through a perceptron.

    Args:
        features: Width of one step.
        outputs: Width of the embedding.
        channels: Channels of each convolution.
        kernel: Odd width of the kernels.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    Example:
        >>> SeriesEmbedding(2, 8)(torch.zeros(3, 100, 2)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        channels: Sequence[int] = (32, 32, 32),
        kernel: int = 5,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check(len(channels) > 0, ConfigError, "a SeriesEmbedding needs at least one convolution.")
        check(kernel >= 1 and kernel % 2 == 1, ConfigError, f"kernel must be odd, got {kernel}.")
        self.features, self.outputs, self.channels = features, outputs, tuple(channels)
        self.kernel, self.activation = kernel, activation
        widths = (features, *channels)
        self.layers = nn.ModuleList(
            nn.Conv1d(i, o, kernel, stride=2, padding=kernel // 2) for i, o in zip(widths, channels, strict=False)
        )
        self.head = MLP(2 * channels[-1], outputs, (2 * channels[-1],), activation=activation, head_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Embed series."""
        act, batch = ACTIVATIONS[self.activation], x.shape[:-2]
        h = x.reshape(-1, *x.shape[-2:]).mT
        for layer in self.layers:
            h = act(layer(h))
        return self.head(torch.cat((h.mean(-1), h.amax(-1)), -1)).reshape(*batch, self.outputs)


class ImageEmbedding(nn.Module):
    """Convolutions of an image: ``(*batch, inputs, height, width) -> (*batch, outputs)``.

    Each layer halves height and width; mean and maximum over the places that are left go through a perceptron.

    Args:
        inputs: Channels of the image.
        outputs: Width of the embedding.
        channels: Channels of each convolution.
        kernel: Odd width of the kernels.
        activation: One of the names in ``bijectory.nets.ACTIVATIONS``.

    Example:
        >>> ImageEmbedding(1, 8)(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 64),
        kernel: int = 3,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        check(len(channels) > 0, ConfigError, "an ImageEmbedding needs at least one convolution.")
        check(kernel >= 1 and kernel % 2 == 1, ConfigError, f"kernel must be odd, got {kernel}.")
        self.inputs, self.outputs, self.channels = inputs, outputs, tuple(channels)
        self.kernel, self.activation = kernel, activation
        widths = (inputs, *channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride=2, padding=kernel // 2) for i, o in zip(widths, channels, strict=False)
        )
        self.head = MLP(2 * channels[-1], outputs, (2 * channels[-1],), activation=activation, head_scale=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        act, batch = ACTIVATIONS[self.activation], x.shape[:-3]
        h = x.reshape(-1, *x.shape[-3:])
        for layer in self.layers:
            h = act(layer(h))
        h = h.flatten(2)
        return self.head(torch.cat((h.mean(-1), h.amax(-1)), -1)).reshape(*batch, self.outputs)

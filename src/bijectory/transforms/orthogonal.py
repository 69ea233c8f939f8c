"""Orthogonal linear layers: they turn and reflect, and keep every length."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.linalg import multiply, reflections, skew
from bijectory.transforms.linear import Linear, check_features


class Householder(Linear):
    r"""Orthogonal map :math:`z = H_1 \cdots H_K x`, a product of reflections :math:`H_k = I - 2 v_k v_k^\top / \|v_k\|^2`.

    The inverse is the transpose and :math:`\log|\det| = 0`. An even number of reflections turns, an odd number also
    mirrors; ``features`` of them reach every orthogonal map of their determinant. The vectors start in equal pairs of
    random directions, whose reflections cancel: the identity (with an odd number, one reflection).

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the vectors plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        reflections: How many, :math:`K`; None: ``features``, rounded up to an even number.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, reflections * features)``.

    Raises:
        ConfigError: If ``features`` or ``reflections`` is below 1.

    References:
        Improving Variational Auto-Encoders using Householder Flow, Tomczak, Welling 2016, arXiv:1611.09630, eq. 9.

    Example:
        >>> layer = Householder(3, reflections=1)
        >>> z, ladj = layer(torch.ones(3))
        >>> round(z.norm().item() ** 2, 4), ladj.item()
        (3.0, 0.0)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        reflections: int | None = None,
        net: nn.Module | None = None,
    ) -> None:
        check_features(features)
        self_reflections = features + features % 2 if reflections is None else reflections
        check(self_reflections >= 1, ConfigError, f"reflections must be at least 1, got {reflections}.")
        pairs = torch.randn((self_reflections + 1) // 2, features).repeat_interleave(2, 0)
        super().__init__(pairs[:self_reflections], context, hidden, net, bias=False)
        self.reflections = self_reflections

    def extra_repr(self) -> str:
        return f"{self.features}, reflections={self.reflections}"

    def _weight(self, factors: Tensor) -> Tensor:
        return reflections(factors)

    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        return multiply(reflections(factors).mT, y)

    def _log_det(self, factors: Tensor) -> Tensor:
        return factors.new_zeros(factors.shape[:-2])


class Rotation(Linear):
    r"""Rotation :math:`z = e^{A} x` with a skew :math:`A = (F - F^\top) / 2`: every orthogonal map of determinant 1.

    The inverse is the transpose and :math:`\log|\det| = 0`. The layer starts at the identity, :math:`F = 0`. The norm of
    :math:`A` is softly kept below :math:`2 \pi \sqrt d`, twice what reaches every rotation, so that the exponential stays
    exact whatever the weights.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves :math:`F` plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features**2)``.

    Raises:
        ConfigError: If ``features < 1``.

    References:
        Cheap Orthogonal Constraints in Neural Networks: a Simple Parametrization of the Orthogonal and Unitary Group,
        Lezcano-Casado, Martinez-Rubio 2019, arXiv:1901.08428.

    Example:
        >>> layer = Rotation(2)
        >>> with torch.no_grad():
        ...     _ = layer.factors.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
        >>> z, _ = layer(torch.tensor([1.0, 0.0]))
        >>> bool((z - torch.tensor([0.5507, 0.8347])).abs().max() < 1e-4)  # cos and sin of an angle a little below 1
        True
    """

    def __init__(
        self, features: int, context: int = 0, hidden: Sequence[int] = (128, 128), net: nn.Module | None = None
    ) -> None:
        check_features(features)
        super().__init__(torch.zeros(features, features), context, hidden, net, bias=False)

    def extra_repr(self) -> str:
        return str(self.features)

    def _weight(self, factors: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(skew(factors))

    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        return multiply(self._weight(factors).mT, y)

    def _log_det(self, factors: Tensor) -> Tensor:
        return factors.new_zeros(factors.shape[:-2])

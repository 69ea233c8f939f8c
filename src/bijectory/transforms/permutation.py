"""Permutations of features."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.shape import take
from bijectory.transforms.base import Transform


class Permutation(Transform):
    r"""Reorder features, :math:`z_i = x_{o_i}`, with log-determinant 0.

    The order is a buffer: it travels with the weights, so loading them into a model that drew another order is right.

    Args:
        order: A permutation of ``0 … features - 1``.

    Raises:
        ConfigError: If ``order`` is not a permutation.

    Example:
        >>> Permutation([2, 0, 1])(torch.tensor([10.0, 20.0, 30.0]))[0]
        tensor([30., 10., 20.])
    """

    regions = ("forward", "inverse")
    _order: Tensor
    _rank: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        order = tuple(int(i) for i in order)
        ok = len(order) > 0 and sorted(order) == list(range(len(order)))
        check(ok, ConfigError, f"order must hold every index from 0 to features - 1 once, got {order}.")
        self.features = len(order)
        indices = torch.tensor(order)
        self.register_buffer("_order", indices)
        self.register_buffer("_rank", indices.argsort())

    @property
    def order(self) -> tuple[int, ...]:
        """The permutation, as plain integers."""
        return tuple(self._order.tolist())

    def extra_repr(self) -> str:
        return f"order={self.order}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return take(x, self._order), x.new_zeros(x.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return take(z, self._rank), z.new_zeros(z.shape[:-1])


def reversal(features: int) -> Permutation:
    """Reverse the order of the features.

    Example:
        >>> reversal(3).order
        (2, 1, 0)
    """
    return Permutation(range(features - 1, -1, -1))


def random_permutation(features: int, seed: int = 0) -> Permutation:
    """Draw a permutation from a seed; the global random state is neither read nor changed.

    Example:
        >>> sorted(random_permutation(4, seed=1).order)
        [0, 1, 2, 3]
    """
    return Permutation(random.Random(seed).sample(range(features), features))

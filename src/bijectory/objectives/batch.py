"""What an objective is given."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Batch(NamedTuple):
    """Rows of data, as an objective sees them.

    Attributes:
        x: ``(n, *event)``.
        c: Context ``(n, *context)`` or None.
        weight: Sample weights ``(n,)`` or None.

    Example:
        >>> import torch
        >>> Batch(torch.zeros(2, 3)).weight is None
        True
    """

    x: Tensor
    c: Tensor | None = None
    weight: Tensor | None = None


Objective = Callable[[nn.Module, Batch], Tensor]
"""A (weighted) mean over the rows of the batch, lower is better."""

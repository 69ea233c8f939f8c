"""What an objective is given."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Rows of data: ``x`` ``(n, *event)``, context ``c`` ``(n, *context)`` or None, ``weight`` ``(n,)`` or None.

    Example:
        >>> import torch
        >>> x, c, weight = Batch(torch.zeros(5, 2))
        >>> x.shape, c, weight
        (torch.Size([5, 2]), None, None)
    """

    x: Tensor
    c: Tensor | None = None
    weight: Tensor | None = None

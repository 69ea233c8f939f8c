"""Embeddings for the door of a flow."""

from torch import Tensor, nn

from bijectory.transforms.base import Transform


class Encode(nn.Module):
    """A transform as an embedding of the context: the flow reads raw values, its layers the transformed ones.

    The log-determinant does not enter: a density given ``c`` is the same as given any one-to-one function of ``c``.

    Args:
        transform: Raw context -> the context of the layers, ``(*batch, context)`` both.

    Example:
        >>> import torch
        >>> from bijectory import Standardize
        >>> Encode(Standardize(1, [10.0], [2.0]))(torch.tensor([[14.0]]))
        tensor([[2.]])
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, c: Tensor) -> Tensor:
        """Transform the context ``(*batch, context)``."""
        return self.transform.forward(c)[0]

"""Increasing vectors against free ones."""

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.scalar import where_valid
from bijectory.transforms.base import Transform


class Ordered(Transform):
    r"""Increasing vectors onto the whole space: :math:`z_1 = x_1`, :math:`z_k = \log(x_k - x_{k-1})`.

    :math:`\log|\det| = -\sum_{k > 1} z_k`. The inverse always increases, so it gives a posterior whose parameters are
    ordered (the means of a mixture, cut points) support on ordered vectors alone. Vectors that do not increase have no
    image: NaN.

    Args:
        features: Number of features.

    Raises:
        ConfigError: If ``features < 1``.

    Example:
        >>> z, ladj = Ordered(3)(torch.tensor([-1.0, 0.0, 1.0]))
        >>> z.tolist(), ladj.abs().item()
        ([-1.0, 0.0, 0.0], 0.0)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        self.features = features

    def extra_repr(self) -> str:
        return f"{self.features}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gap = x[..., 1:] - x[..., :-1]
        steps = where_valid(gap > 0, torch.where(gap > 0, gap, 1.0).log())
        return torch.cat([x[..., :1], steps], -1), -steps.sum(-1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        steps = z[..., 1:]
        return torch.cat([z[..., :1], steps.exp()], -1).cumsum(-1), steps.sum(-1)

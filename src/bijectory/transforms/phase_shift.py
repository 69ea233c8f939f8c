"""Rotation of angles."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP
from bijectory.ops.circle import wrap
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform


class PhaseShift(Transform):
    r"""Rotation of each angle by a learned phase: :math:`z_i = x_i + s_i` modulo :math:`2B`, in :math:`[-B, B]`.

    The log-determinant is 0. Circular splines fix the point :math:`\pm B`; with rotations between them no point is special.
    Numbers outside the box are not angles and stay where they are, so that a density on the box stays one.

    Args:
        features: Number of features.
        bound: Half circumference ``B``.
        context: Width of the context; 0 makes the phases plain weights (random at the start), else a network of it is added.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features)``.

    Raises:
        ConfigError: If ``features < 1`` or ``bound`` is not positive and finite.

    References:
        Normalizing Flows on Tori and Spheres, Rezende et al. 2020, arXiv:2002.02428, sec. 2.1.

    Example:
        >>> layer = PhaseShift(2)
        >>> z, ladj = layer(torch.tensor([3.0, -3.0]))
        >>> bool(z.abs().max() <= math.pi), ladj.item()
        (True, 0.0)
    """

    def __init__(
        self,
        features: int,
        bound: float = math.pi,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(math.isfinite(bound) and bound > 0, ConfigError, f"bound must be positive and finite, got {bound!r}.")
        self.features, self.bound, self.context, self.hidden = features, bound, context, tuple(hidden)
        self.phase = nn.Parameter(torch.empty(features).uniform_(-bound, bound))
        self.net = (net or MLP(0, features, hidden, context)) if context else None

    def _turn(self, x: Tensor, c: Tensor | None, sign: int) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        phase = self.phase if self.net is None or c is None else self.phase + self.net(c[..., :0], c)
        y = torch.where(x.abs() > self.bound, x, wrap(x + sign * phase, self.bound))
        return y, y.new_zeros(y.shape[:-1])

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._turn(x, c, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._turn(z, c, -1)

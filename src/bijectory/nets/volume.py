"""Conditioners of volume-preserving layers."""

import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.precision import as_precise_as
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import to_planes


class VolumePreserving(nn.Module):
    r"""A conditioner whose affine maps preserve volume: the log-scales of the features sum to zero.

    Of the raw log-scales :math:`a_i` of a network it makes :math:`s_i = S \tanh(a_i / S) - \operatorname{mean}_j(\cdot)`,
    all between :math:`-2S` and :math:`2S`; the shifts pass as they are. For ``Affine(max_log_scale=None)``, which takes
    the log-scales as they come.

    Args:
        net: ``net(x, c) -> (*batch, 2 * features)``, shifts and then raw log-scales.
        max_log_scale: The bound ``S > 0``.

    Raises:
        ConfigError: If ``max_log_scale`` is not positive and finite.

    References:
        Disentanglement by Nonlinear ICA with General Incompressible-flow Networks (GIN), Sorrenson, Rother, Köthe 2020,
        arXiv:2001.04872, sec. 3.2 (there the last log-scale is minus the sum of the others).

    Example:
        >>> from bijectory.nets import MLP
        >>> raw = VolumePreserving(MLP(2, 6))(torch.ones(5, 2))
        >>> raw.shape, bool(raw[:, 3:].sum(-1).abs().max() < 1e-6)
        (torch.Size([5, 6]), True)
    """

    def __init__(self, net: nn.Module, max_log_scale: float = 1.0) -> None:
        super().__init__()
        ok = math.isfinite(max_log_scale) and max_log_scale > 0
        check(ok, ConfigError, f"max_log_scale must be a positive finite number, got {max_log_scale!r}.")
        self.net, self.max_log_scale = net, max_log_scale

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate; ``c`` broadcasts against the batch of ``x``."""
        shift, raw = as_precise_as(x, to_planes(self.net(x, c), 2)).unbind(0)
        s = soft_bound(raw, self.max_log_scale)
        s = s - s.mean(-1, keepdim=True)
        return torch.cat((shift.movedim(-1, 0), s.movedim(-1, 0))).movedim(0, -1)

"""Planar flow: shifts along directions by ridge functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.precision import as_precise_as, full_precision
from bijectory.ops.ridge import planar_ridges, ridge_encode, ridge_forward, ridge_inverse
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.amortized import context_net, raw_parameters
from bijectory.transforms.base import Transform


class Planar(Transform):
    r"""Planar maps :math:`z = x + \hat u \tanh(w^\top x + b)` with :math:`w^\top \hat u > -1`, one after the other.

    .. math::
        \hat u = u + \frac{m(w^\top u) - w^\top u}{\|w\|^2}\, w, \qquad
        1 + m(a) = \exp \operatorname{arsinh}(a / 2), \qquad
        \log|\det| = \log(1 + w^\top\hat u \, (1 - \tanh^2))

    With this ``m`` (the paper's is :math:`-1 + \operatorname{softplus}`), ``u = 0`` is the identity, where the layers start,
    and :math:`\hat u` stays bounded as ``w`` vanishes. The inverse needs :math:`\alpha = w^\top x`, the root of
    :math:`\alpha + w^\top\hat u \tanh(\alpha + b) = w^\top z`; NaN in the event that its residual is not at the level of
    rounding. The raw parameters of each map are :math:`(u, w, b)`; all the constraints of a stack are one operation.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the raw parameters plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, layers * (2 * features + 1))``.
        layers: Number of maps; row ``l`` of ``phi`` is the ``l``-th, in data -> latent order.

    Raises:
        ConfigError: If ``features < 1`` or ``layers < 1``.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 10-13 and A.1.

    Example:
        >>> z, ladj = Planar(2, layers=8)(torch.ones(5, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    solver = "bracketed root"

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        layers: int = 1,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(layers >= 1, ConfigError, f"layers must be at least 1, got {layers}.")
        self.features, self.context, self.hidden, self.layers = features, context, tuple(hidden), layers
        direction, offset = torch.randn(layers, features) / math.sqrt(features), torch.randn(layers, 1)
        self.phi = nn.Parameter(torch.cat((torch.zeros(layers, features), direction, offset), 1))
        self.net = context_net(net, self.phi, context, self.hidden)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        if self._native_run is not None and self._native_run.takes(x):
            return self._native_run.forward(x)
        raw = as_precise_as(x, raw_parameters(self.phi, self.net, c, x.dim() - 1))
        with full_precision(x.device.type):
            return ridge_forward(x, *planar_ridges(raw))

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        if self._native_run is not None and self._native_run.takes(x):
            return self._native_run.encode(x)
        raw = as_precise_as(x, raw_parameters(self.phi, self.net, c, x.dim() - 1))
        with full_precision(x.device.type):
            return ridge_encode(x, *planar_ridges(raw)[:3])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        if self._native_run is not None and self._native_run.takes(z):
            return self._native_run.inverse(z)
        raw = as_precise_as(z, raw_parameters(self.phi, self.net, c, z.dim() - 1))
        with full_precision(z.device.type):
            u, w, b, one_plus = planar_ridges(raw)
            return ridge_inverse(z, u, w, b, one_plus, one_plus.unsqueeze(1) - 1)

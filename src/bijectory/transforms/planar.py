"""Planar flow: a shift along one direction by a ridge function."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP
from bijectory.ops.monotone import monotone_inverse
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform

_START = math.log(math.e - 1)  # softplus(_START) = 1


class Planar(Transform):
    r"""Planar map :math:`z = x + \hat u \tanh(w^\top x + b)` with :math:`w^\top \hat u > -1`.

    .. math::
        \hat u = u + \frac{m(w^\top u) - w^\top u}{\|w\|^2}\, w, \qquad
        m(a) = -1 + \operatorname{softplus}(a + \log(e - 1)), \qquad
        \log|\det| = \log(1 + w^\top\hat u \, (1 - \tanh^2))

    The constant in ``m`` makes ``m(0) = 0``: ``u = 0`` is the identity, where the layer starts, and :math:`\hat u` stays
    bounded as ``w`` vanishes (the paper's ``m`` has neither). The inverse needs :math:`\alpha = w^\top x`, the root of
    :math:`\alpha + w^\top\hat u \tanh(\alpha + b) = w^\top z`, which lies within :math:`|w^\top\hat u|` of
    :math:`w^\top z`. The raw parameters are :math:`(u, w, b)`.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the raw parameters plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, 2 * features + 1)``.

    Raises:
        ConfigError: If ``features < 1``.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 10-13 and A.1.

    Example:
        >>> z, ladj = Planar(2)(torch.ones(5, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    solver = "bracketed root"

    def __init__(
        self, features: int, context: int = 0, hidden: Sequence[int] = (128, 128), net: nn.Module | None = None
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        self.features, self.context, self.hidden = features, context, tuple(hidden)
        direction = torch.randn(features) / math.sqrt(features)
        self.phi = nn.Parameter(torch.cat((torch.zeros(features), direction, torch.zeros(1))))
        self.net = (net or MLP(0, 2 * features + 1, hidden, context)) if context else None

    def _unpack(self, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``u_hat``, ``w``, ``b`` and ``1 + w.u_hat``, which is positive by construction."""
        raw = self.phi if self.net is None or c is None else self.phi + self.net(c[..., :0], c)
        u, w, b = raw.split((self.features, self.features, 1), -1)
        a = (w * u).sum(-1, keepdim=True)
        one_plus = softplus(a + _START)
        norm = w.square().sum(-1, keepdim=True) + torch.finfo(w.dtype).tiny
        return u + (one_plus - 1 - a) / norm * w, w, b, one_plus

    @staticmethod
    def _log_det(t: Tensor, one_plus: Tensor) -> Tensor:
        # 1 + (one_plus - 1)(1 - t^2) as a sum of positive terms.
        return (one_plus * (1 - t.square()) + t.square()).log().squeeze(-1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        u, w, b, one_plus = self._unpack(c)
        t = torch.tanh((w * x).sum(-1, keepdim=True) + b)
        return x + u * t, self._log_det(t, one_plus)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        u, w, b, one_plus = self._unpack(c)
        y, m = (w * z).sum(-1, keepdim=True), one_plus - 1
        reach = m.detach().abs()
        alpha, _ = monotone_inverse(_ridge, y, (m, b), y.detach() - reach, y.detach() + reach, expansions=0)
        t = torch.tanh(alpha + b)
        return z - u * t, -self._log_det(t, one_plus)


def _ridge(alpha: Tensor, m: Tensor, b: Tensor) -> Tensor:
    return alpha + m * torch.tanh(alpha + b)

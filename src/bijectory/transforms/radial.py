"""Radial flow: contraction or expansion around a point."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform


class Radial(Transform):
    r"""Radial map :math:`z = x + \frac{\hat\beta}{\alpha + r}(x - x_0)` with :math:`r = \|x - x_0\|`.

    With :math:`\alpha = \operatorname{softplus}(a) > 0`, :math:`\beta = \operatorname{softplus}(b)` and
    :math:`\hat\beta = \beta - \alpha > -\alpha`,

    .. math::
        \log|\det| = (d - 1)\log\frac{r + \beta}{r + \alpha} + \log\frac{r^2 + 2\alpha r + \alpha\beta}{(r + \alpha)^2},

    and for the inverse :math:`r` is the positive root of :math:`r^2 - (r' - \beta) r - \alpha r' = 0` with
    :math:`r' = \|z - x_0\|`.
    The raw parameters are :math:`(x_0, a, b)`; the identity at :math:`a = b`, where it starts.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the raw parameters plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features + 2)``.

    Raises:
        ConfigError: If ``features < 1``.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 14 and A.2.

    Example:
        >>> z, ladj = Radial(2)(torch.ones(5, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self, features: int, context: int = 0, hidden: Sequence[int] = (128, 128), net: nn.Module | None = None
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        self.features, self.context, self.hidden = features, context, tuple(hidden)
        self.phi = nn.Parameter(torch.cat((torch.randn(features), torch.zeros(2))))
        self.net = (net or MLP(0, features + 2, hidden, context)) if context else None

    def _unpack(self, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.phi if self.net is None or c is None else self.phi + self.net(c[..., :0], c)
        centre, a, b = raw.split((self.features, 1, 1), -1)
        return centre, softplus(a), softplus(b)

    def _log_det(self, r: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        # Sums of positive terms, each a product of ratios: no cancellation, no overflow.
        far = r + alpha
        along = (r / far) * ((r + 2 * alpha) / far) + (alpha / far) * (beta / far)
        return ((self.features - 1) * ((r + beta) / far).log() + along.log()).squeeze(-1)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        centre, alpha, beta = self._unpack(c)
        offset = x - centre
        r = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        return x + (beta - alpha) / (r + alpha) * offset, self._log_det(r, alpha, beta)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        centre, alpha, beta = self._unpack(c)
        offset = z - centre
        r_out = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
        q = r_out - beta
        root = torch.sqrt(q.square() + 4 * alpha * r_out)
        # The larger root, by whichever form does not cancel.
        inner = q < 0
        r = torch.where(inner, 2 * alpha * r_out / (root - torch.where(inner, q, -1.0)), (q + root) / 2)
        return z + (alpha - beta) / (r + beta) * offset, -self._log_det(r, alpha, beta)

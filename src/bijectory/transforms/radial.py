"""Radial flow: contractions or expansions around points."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.precision import as_precise_as
from bijectory.ops.scalar import softplus
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.amortized import context_net, raw_parameters
from bijectory.transforms.base import Transform


class Radial(Transform):
    r"""Radial maps :math:`z = x + \frac{\hat\beta}{\alpha + r}(x - x_0)` with :math:`r = \|x - x_0\|`, one after the other.

    With :math:`\alpha = \operatorname{softplus}(a) > 0`, :math:`\beta = \operatorname{softplus}(b)` and
    :math:`\hat\beta = \beta - \alpha > -\alpha`,

    .. math::
        \log|\det| = (d - 1)\log\frac{r + \beta}{r + \alpha} + \log\frac{r^2 + 2\alpha r + \alpha\beta}{(r + \alpha)^2},

    and for the inverse :math:`r` is the positive root of :math:`r^2 - (r' - \beta) r - \alpha r' = 0` with
    :math:`r' = \|z - x_0\|`.
    The raw parameters of each map are :math:`(x_0, a, b)`; the identity at :math:`a = b`, where the layers start.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the raw parameters plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, layers * (features + 2))``.
        layers: Number of maps; row ``l`` of ``phi`` is the ``l``-th, in data -> latent order.

    Raises:
        ConfigError: If ``features < 1`` or ``layers < 1``.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 14 and A.2.

    Example:
        >>> z, ladj = Radial(2, layers=8)(torch.ones(5, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

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
        self.phi = nn.Parameter(torch.cat((torch.randn(layers, features), torch.zeros(layers, 2)), 1))
        self.net = context_net(net, self.phi, context, self.hidden)

    def _unpack(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Centres ``(L, d, *batch_p)``, ``alpha`` and ``beta`` ``(L, 1, *batch_p)``; ``batch_p`` may be all ones."""
        batch_dim = x.dim() - 1
        raw = as_precise_as(x, raw_parameters(self.phi, self.net, c, batch_dim))
        raw = raw.reshape(*raw.shape, *(1,) * (batch_dim + 2 - raw.dim()))
        centre, scales = raw.split((self.features, 2), 1)
        alpha, beta = softplus(scales).split(1, 1)
        return centre, alpha, beta

    def _log_det(self, radii: list[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
        # Sums of positive terms, each a product of ratios: no cancellation, no overflow.
        # Beyond the root of the largest number every ratio is at its limit, and an overflown radius would make it NaN.
        r = torch.stack(radii).clamp(max=torch.finfo(radii[0].dtype).max ** 0.5)
        far = r + alpha
        along = (r / far) * ((r + 2 * alpha) / far) + (alpha / far) * (beta / far)
        ladj = (self.features - 1) * ((r + beta) / far).log() + along.log()
        return ladj.sum((0, 1), dtype=torch.promote_types(ladj.dtype, torch.float32))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        centre, alpha, beta = self._unpack(x, c)
        columns, radii = x.movedim(-1, 0), []
        for centre_l, alpha_l, step in zip(centre.unbind(0), alpha.unbind(0), (beta - alpha).unbind(0), strict=True):
            offset = columns - centre_l
            r = torch.linalg.vector_norm(offset, dim=0, keepdim=True)
            columns = torch.addcmul(columns, step / (r + alpha_l), offset)
            radii.append(r)
        return columns.movedim(0, -1), self._log_det(radii, alpha, beta)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        centre, alpha, beta = self._unpack(z, c)
        columns, radii = z.movedim(-1, 0), []
        for centre_l, alpha_l, beta_l in reversed(
            list(zip(centre.unbind(0), alpha.unbind(0), beta.unbind(0), strict=True))
        ):
            offset = columns - centre_l
            r = _inner_radius(torch.linalg.vector_norm(offset, dim=0, keepdim=True), alpha_l, beta_l)
            columns = torch.addcmul(columns, (alpha_l - beta_l) / (r + beta_l), offset)
            radii.append(r)
        return columns.movedim(0, -1), -self._log_det(radii[::-1], alpha, beta)


def _inner_radius(r_out: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The positive root of ``r^2 - (r_out - beta) r - alpha r_out``, by whichever form does not cancel."""
    q = r_out - beta
    root = torch.sqrt(q.square() + 4 * alpha * r_out)
    inner = q < 0
    return torch.where(inner, 2 * alpha * r_out / (root - torch.where(inner, q, -1.0)), (q + root) / 2)

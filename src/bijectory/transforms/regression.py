"""A linear regression on the context as a layer: what is linear is taken off before anything is trained."""

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.transforms.base import Transform

PENALTIES = 13  # ridge penalties that are tried, four decades to either side of one row's weight
FLOOR = 1e-12  # of the variance of a feature: the least that is left of it


class Regression(Transform):
    r"""Whitened residual :math:`z = L (x - B c - b)` of a linear regression on the context; not trained.

    ``initialize`` finds :math:`B` and :math:`b` from the training data by ridge regression, whose penalty is chosen by
    generalised cross-validation, and the lower triangular :math:`L` from the covariance of the residuals, so that
    :math:`L \Sigma L^\top = 1`; before it the layer is the identity. :math:`\log|\det| = \sum_i \log L_{ii}`. For a
    jointly normal :math:`(x, c)` nothing is left to learn; elsewhere a flow on top starts from the best linear model
    instead of from scratch. Without a context it whitens.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.

    Raises:
        ConfigError: If ``features < 1`` or ``context < 0``.

    References:
        Generalized cross-validation as a method for choosing a good ridge parameter, Golub, Heath, Wahba 1979.

    Example:
        >>> c = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        >>> layer = Regression(1, 1)
        >>> layer.initialize(3 * c + 1 + 0.1 * c.flip(0), c)
        >>> round(layer.inverse(torch.tensor([0.0]), torch.tensor([2.0]))[0].item(), 1)
        7.0
    """

    slope: Tensor
    offset: Tensor
    factor: Tensor
    initialised: Tensor

    def __init__(self, features: int, context: int = 0) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(context >= 0, ConfigError, f"context must not be negative, got {context}.")
        self.features, self.context = features, context
        self.register_buffer("slope", torch.zeros(features, context))
        self.register_buffer("offset", torch.zeros(features))
        self.register_buffer("factor", torch.eye(features))
        self.register_buffer("initialised", torch.tensor(False))  # noqa: FBT003

    def extra_repr(self) -> str:
        return f"{self.features}, context={self.context}"

    def _mean(self, c: Tensor | None) -> Tensor:
        return self.offset if c is None or not self.context else self.offset + c @ self.slope.mT

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = (x - self._mean(c)) @ self.factor.mT
        return z, self._ladj().expand(z.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        eye = torch.eye(self.features, dtype=z.dtype, device=z.device)
        back = torch.linalg.solve_triangular(self.factor, eye, upper=False)
        x = z @ back.mT + self._mean(c)
        return x, -self._ladj().expand(x.shape[:-1])

    def _ladj(self) -> Tensor:
        return self.factor.diagonal().log().sum()

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        if self.initialised:
            return
        x = x.detach().reshape(-1, self.features).double()
        c = x[:, :0] if c is None or not self.context else c.detach().reshape(-1, self.context).double()
        slope, offset, freedom = ridge(x, c)
        residual = x - offset - c @ slope.mT
        cov = residual.mT @ residual / max(len(x) - freedom, 1.0)
        floor = FLOOR * x.var(0, correction=0) + torch.finfo(cov.dtype).tiny
        chol = torch.linalg.cholesky(cov + (floor + FLOOR * cov.diagonal()).diag())
        factor = torch.linalg.solve_triangular(chol, torch.eye(self.features, dtype=cov.dtype), upper=False)
        self.slope.copy_(slope)
        self.offset.copy_(offset)
        self.factor.copy_(factor)
        self.initialised.fill_(True)  # noqa: FBT003


def ridge(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, float]:
    r"""Ridge regression of ``x (n, d)`` on ``c (n, k)``: slope ``(d, k)``, offset ``(d,)``, and the degrees of freedom.

    The penalty :math:`\lambda` minimises :math:`\mathrm{RSS}(\lambda) / (n - \nu(\lambda))^2`, the residual sum of squares
    of the standardised features, with :math:`\nu = 1 + \sum_j s_j^2 / (s_j^2 + \lambda)` the effective number of weights.

    Example:
        >>> c = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
        >>> slope, offset, freedom = ridge(2 * c + 1, c)
        >>> round(slope.item(), 3), round(offset.item(), 3)
        (2.0, 1.0)
    """
    mean_x, mean_c = x.mean(0), c.mean(0)
    if not c.shape[1]:
        return x.new_zeros(x.shape[1], 0), mean_x, 1.0
    wide = c.std(0, correction=0)
    wide = torch.where(wide > 0, wide, 1.0)
    scale = x.std(0, correction=0)
    y = (x - mean_x) / torch.where(scale > 0, scale, 1.0)
    u, s, vt = torch.linalg.svd((c - mean_c) / wide, full_matrices=False)
    target, total = u.mT @ y, y.square().sum()
    penalties = torch.logspace(-4, 4, PENALTIES, dtype=x.dtype)
    shrink = s.square() / (s.square() + penalties[:, None])  # (penalties, k)
    rss = total - ((2 * shrink - shrink.square())[..., None] * target.square()).sum((1, 2))
    freedom = 1 + shrink.sum(1)
    best = int((rss / (len(x) - freedom).clamp(min=1e-3).square()).argmin())
    safe = torch.where(s > 0, s, 1.0)
    weight = vt.mT @ ((shrink[best] / safe)[:, None] * target)  # (k, d), for standardised c and x
    slope = (weight / wide[:, None]).mT * torch.where(scale > 0, scale, 1.0)[:, None]
    return slope, mean_x - slope @ mean_c, float(freedom[best])

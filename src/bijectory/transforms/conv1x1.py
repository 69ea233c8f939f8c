"""Invertible 1 x 1 convolution: one linear map of the channels for all pixels."""

import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import Freezable
from bijectory.ops.image import mix
from bijectory.ops.linalg import reflections, shear_condition, strict_triangles
from bijectory.ops.precision import full_precision
from bijectory.ops.scalar import soft_bound
from bijectory.transforms.base import Transform
from bijectory.transforms.linear import check_bound


class Conv1x1(Transform, Freezable):
    r"""Invertible 1 x 1 convolution :math:`z_{hw} = W x_{hw}` with :math:`W = R L D U`.

    :math:`R` is a fixed random rotation (a product of reflections; where the paper has a permutation), :math:`L` and
    :math:`U` are unit triangles and :math:`D = e^{s}`. The layer starts at :math:`W = R`. Scales and triangles are
    bounded as in ``LU``, so :math:`W` is well conditioned whatever the weights. :math:`\log|\det| = H W \sum_i s_i`.

    Args:
        channels: Number of channels.
        seed: Seed of the rotation; the global random state is neither read nor changed.
        max_log_scale: The bound :math:`S > 0` on :math:`|s|`.
        max_shear: The bound :math:`\rho > 0` on each triangle.

    Raises:
        ConfigError: If ``channels < 1``, or a bound is not positive and finite.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, eq. 9-11.

    Example:
        >>> z, ladj = Conv1x1(3)(torch.ones(5, 3, 2, 2))
        >>> z.shape, ladj.shape, round(z[0, :, 0, 0].square().sum().item(), 4)
        (torch.Size([5, 3, 2, 2]), torch.Size([5]), 3.0)
    """

    event_dim = latent_event_dim = 3
    precomputed = ("_product", "_inverse")
    _vectors: Tensor
    _product: Tensor | None
    _inverse: Tensor | None

    def __init__(self, channels: int, seed: int = 0, *, max_log_scale: float = 2.0, max_shear: float = 1.0) -> None:
        super().__init__()
        check(channels >= 1, ConfigError, f"channels must be at least 1, got {channels}.")
        check_bound(max_log_scale, "max_log_scale")
        check_bound(max_shear, "max_shear")
        self.channels, self.seed, self.max_log_scale, self.max_shear = channels, seed, max_log_scale, max_shear
        # Compact as in LAPACK: L below the diagonal, U above, the raw log-scales on it; every entry is used.
        self.factors = nn.Parameter(torch.zeros(channels, channels))
        # Vectors of reflections and not R itself: R is then a rotation to the last digit in every precision.
        g = torch.Generator().manual_seed(seed)
        vectors = torch.randn(channels, channels, generator=g, dtype=torch.float32)
        self.register_buffer("_vectors", vectors.to(torch.get_default_dtype()))
        self.register_buffer("_product", None, persistent=False)  # set by freeze
        self.register_buffer("_inverse", None, persistent=False)

    @property
    def max_condition(self) -> float:
        """The bound on the condition number of :math:`W`."""
        return math.exp(2 * self.max_log_scale) * shear_condition(self.max_shear) ** 2

    def extra_repr(self) -> str:
        return f"{self.channels}, max_log_scale={self.max_log_scale}, max_shear={self.max_shear}"

    def matrix(self) -> Tensor:
        """:math:`W`, ``(channels, channels)``."""
        return self._weight(self.factors, self._vectors)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(x.device.type):
            return mix(x, self.matrix() if self._product is None else self._product), self._log_det(x)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with full_precision(z.device.type):
            inverse = self._solve(self.factors, self._vectors) if self._inverse is None else self._inverse
            return mix(z, inverse), -self._log_det(z)

    def precompute(self) -> None:
        """One matrix for each direction; in float64, so nothing is lost by it."""
        with torch.no_grad():
            factors, vectors = self.factors.double(), self._vectors.double()
            self._product = self._weight(factors, vectors).to(self.factors.dtype)
            self._inverse = self._solve(factors, vectors).to(self.factors.dtype)

    def _scales(self, factors: Tensor) -> Tensor:
        return soft_bound(factors.diagonal(), self.max_log_scale)

    def _weight(self, factors: Tensor, vectors: Tensor) -> Tensor:
        lower, upper = strict_triangles(factors, self.max_shear)
        rotation = reflections(vectors)
        scaled = torch.addmm(rotation, rotation, lower) * self._scales(factors).exp()
        return torch.addmm(scaled, scaled, upper)

    def _solve(self, factors: Tensor, vectors: Tensor) -> Tensor:
        lower, upper = strict_triangles(factors, self.max_shear)
        y = torch.linalg.solve_triangular(lower, reflections(vectors).mT, upper=False, unitriangular=True)
        y = (-self._scales(factors)).exp().unsqueeze(-1) * y
        return torch.linalg.solve_triangular(upper, y, upper=True, unitriangular=True)

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[-2] * x.shape[-1] * self._scales(self.factors).sum()).expand(x.shape[:-3])

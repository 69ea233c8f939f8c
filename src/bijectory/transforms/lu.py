"""Linear layers with triangular factors."""

import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import Freezable
from bijectory.ops.linalg import solve_lu, unpack_lu
from bijectory.ops.shape import linear
from bijectory.transforms.base import Transform


class LU(Transform, Freezable):
    r"""Linear map :math:`z = L U x + b` with unit lower :math:`L`, upper :math:`U` and :math:`\log|\det| = \sum_i s_i`.

    The diagonal of :math:`U` is :math:`e^{s_i}` with :math:`s_i = S \tanh(a_i / S)`: never zero, so the map is invertible
    whatever the weights. The layer starts at the identity. For the P of a PLU factorisation put a ``Permutation`` before it.

    Args:
        features: Number of features.
        bias: Whether to add :math:`b`.
        max_log_scale: The bound ``S > 0`` on ``|s|``.

    Raises:
        ConfigError: If ``features < 1`` or ``max_log_scale`` is not positive and finite.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, eq. 10-11.
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, sec. 4.

    Example:
        >>> z, ladj = LU(3)(torch.ones(5, 3))
        >>> z[0], ladj.shape
        (tensor([1., 1., 1.], grad_fn=<SelectBackward0>), torch.Size([5]))
    """

    precomputed = ("_product", "_inverse")
    _product: Tensor | None
    _inverse: Tensor | None

    def __init__(self, features: int, *, bias: bool = True, max_log_scale: float = 2.0) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        ok = math.isfinite(max_log_scale) and max_log_scale > 0
        check(ok, ConfigError, f"max_log_scale must be a positive finite number, got {max_log_scale!r}.")
        self.features, self.max_log_scale = features, max_log_scale
        # Compact as in LAPACK: L below the diagonal, U above, the raw log-scales a on it; every entry is used.
        self.factors = nn.Parameter(torch.zeros(features, features))
        self.shift = nn.Parameter(torch.zeros(features)) if bias else None
        self.register_buffer("_product", None, persistent=False)  # set by freeze
        self.register_buffer("_inverse", None, persistent=False)

    @property
    def bias(self) -> bool:
        """Whether the layer adds a bias."""
        return self.shift is not None

    def extra_repr(self) -> str:
        return f"{self.features}, bias={self.bias}, max_log_scale={self.max_log_scale}"

    def _log_scale(self) -> Tensor:
        return self.max_log_scale * torch.tanh(self.factors.diagonal() / self.max_log_scale)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = self._log_scale()
        if self._product is None:
            lower, upper = unpack_lu(self.factors, s.exp())
            z = linear(x, lower @ upper, self.shift)
        else:
            z = linear(x, self._product, self.shift)
        return z, s.sum().expand(z.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = self._log_scale()
        z = z if self.shift is None else z - self.shift
        x = solve_lu(*unpack_lu(self.factors, s.exp()), z) if self._inverse is None else linear(z, self._inverse)
        return x, (-s.sum()).expand(x.shape[:-1])

    def precompute(self) -> None:
        """Replace two triangular solves by one product; inverted in float64, so nothing is lost by it."""
        with torch.no_grad():
            lower, upper = unpack_lu(self.factors.double(), self._log_scale().double().exp())
            eye = torch.eye(self.features, dtype=torch.float64, device=self.factors.device)
            self._product = (lower @ upper).to(self.factors.dtype)
            self._inverse = solve_lu(lower, upper, eye).T.contiguous().to(self.factors.dtype)

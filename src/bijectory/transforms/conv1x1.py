"""Invertible 1 x 1 convolution: one linear map of the channels for all pixels."""

import copy
import math

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import Freezable
from bijectory.ops.image import conv2d
from bijectory.ops.linalg import unpack_lu
from bijectory.transforms.base import Transform


class Conv1x1(Transform, Freezable):
    r"""Invertible 1 x 1 convolution :math:`z_{hw} = W x_{hw}` with :math:`W = P L (U + \operatorname{diag}(d e^{s}))`.

    :math:`P` is a fixed permutation, :math:`L` unit lower and :math:`U` strictly upper triangular. :math:`W` starts as a
    random rotation, which fixes :math:`P` and :math:`d`; the log-scales :math:`s = S \tanh(a / S)` start at 0 and are
    bounded, so that the map stays invertible whatever the weights. :math:`\log|\det| = H W \sum_i (\log|d_i| + s_i)`.

    Args:
        channels: Number of channels.
        seed: Seed of the rotation; the global random state is neither read nor changed.
        max_log_scale: The bound ``S > 0`` on ``|s|``.

    Raises:
        ConfigError: If ``channels < 1`` or ``max_log_scale`` is not positive and finite.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, eq. 9-11.

    Example:
        >>> z, ladj = Conv1x1(3)(torch.ones(5, 3, 2, 2))
        >>> z.shape, ladj.shape, round(z[0, :, 0, 0].square().sum().item(), 4)
        (torch.Size([5, 3, 2, 2]), torch.Size([5]), 3.0)
    """

    event_dim = latent_event_dim = 3
    ladj_cost = "O(channels)"
    precomputed = ("_product", "_inverse")
    _rank: Tensor
    _diagonal: Tensor
    _product: Tensor | None
    _inverse: Tensor | None

    def __init__(self, channels: int, seed: int = 0, max_log_scale: float = 2.0) -> None:
        super().__init__()
        check(channels >= 1, ConfigError, f"channels must be at least 1, got {channels}.")
        ok = math.isfinite(max_log_scale) and max_log_scale > 0
        check(ok, ConfigError, f"max_log_scale must be a positive finite number, got {max_log_scale!r}.")
        self.channels, self.seed, self.max_log_scale = channels, seed, max_log_scale
        noise = torch.randn(channels, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        factors, pivots = torch.linalg.lu_factor(torch.linalg.qr(noise).Q)
        rank = torch.lu_unpack(factors, pivots, unpack_data=False)[0].argmax(1)  # rotation = (L U)[rank]
        dtype = torch.get_default_dtype()
        # L below the diagonal, U above, the raw log-scales a on it.
        self.factors = nn.Parameter((factors - torch.diag(factors.diagonal())).to(dtype))
        self.register_buffer("_rank", rank)
        self.register_buffer("_diagonal", factors.diagonal().float().to(dtype))  # the same in every precision
        self.register_buffer("_product", None, persistent=False)  # set by freeze
        self.register_buffer("_inverse", None, persistent=False)

    def extra_repr(self) -> str:
        return f"{self.channels}, seed={self.seed}, max_log_scale={self.max_log_scale}"

    def _log_scale(self) -> Tensor:
        return self.max_log_scale * torch.tanh(self.factors.diagonal() / self.max_log_scale)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        return unpack_lu(self.factors, self._diagonal * self._log_scale().exp())

    def weight(self) -> Tensor:
        """The matrix ``W``, ``(channels, channels)``."""
        lower, upper = self._triangles()
        return (lower @ upper).index_select(0, self._rank)

    def inverse_weight(self) -> Tensor:
        """The inverse of ``W``, by two triangular solves."""
        lower, upper = self._triangles()
        eye = torch.eye(self.channels, dtype=lower.dtype, device=lower.device)
        y = torch.linalg.solve_triangular(lower, eye.index_select(1, self._rank), upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, y, upper=True)

    def _log_det(self, x: Tensor) -> Tensor:
        return x.shape[-2] * x.shape[-1] * (self._diagonal.abs().log().sum() + self._log_scale().sum())

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = self.weight() if self._product is None else self._product
        return _mix(x, weight), self._log_det(x).expand(x.shape[:-3])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = self.inverse_weight() if self._inverse is None else self._inverse
        return _mix(z, weight), (-self._log_det(z)).expand(z.shape[:-3])

    def precompute(self) -> None:
        """Multiply the factors and invert the product, in float64, so nothing is lost by it."""
        with torch.no_grad():
            wide = copy.deepcopy(self).double()
            self._product, self._inverse = (w.to(self.factors) for w in (wide.weight(), wide.inverse_weight()))


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    return conv2d(x, weight.unsqueeze(-1).unsqueeze(-1))

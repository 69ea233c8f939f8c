"""Linear layers with triangular factors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.ops.linalg import multiply, reflections, shear_condition, solve_triangle, unit_triangle
from bijectory.ops.scalar import soft_bound
from bijectory.transforms.linear import Linear, check_bound, check_features


class LU(Linear):
    r"""Linear map :math:`z = L D U x + b` with unit triangles :math:`L`, :math:`U` and a diagonal :math:`D = e^{s}`.

    Well conditioned whatever the weights: :math:`s = S \tanh(a / S)`, and what the triangles have beside their diagonal
    is shrunk to a Frobenius norm below :math:`\rho`, so that with :math:`g(\rho) = (1 + \rho) \sum_k \rho^k / \sqrt{k!}`

    .. math:: \operatorname{cond}(L D U) \le e^{2 S} g(\rho)^2, \qquad \log|\det| = \sum_i s_i .

    For the defaults that is 2629 in any number of dimensions (``max_condition``). The layer starts at the identity. For
    the P of a PLU factorisation put a ``Permutation`` before it.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the factors plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features**2 + features)`` (the last: the bias).
        bias: Whether to add :math:`b`.
        max_log_scale: The bound :math:`S > 0` on :math:`|s|`.
        max_shear: The bound :math:`\rho > 0` on each triangle.

    Raises:
        ConfigError: If ``features < 1``, or a bound is not positive and finite.

    References:
        Glow, Kingma, Dhariwal 2018, arXiv:1807.03039, eq. 10-11.
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, sec. 4.

    Example:
        >>> layer = LU(3)
        >>> z, ladj = layer(torch.ones(5, 3))
        >>> z[0], ladj.shape, round(layer.max_condition)
        (tensor([1., 1., 1.], grad_fn=<SelectBackward0>), torch.Size([5]), 2629)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        *,
        bias: bool = True,
        max_log_scale: float = 2.0,
        max_shear: float = 1.0,
    ) -> None:
        check_features(features)
        check_bound(max_log_scale, "max_log_scale")
        check_bound(max_shear, "max_shear")
        # Compact as in LAPACK: L below the diagonal, U above, the raw log-scales a on it; every entry is used.
        super().__init__(torch.zeros(features, features), context, hidden, net, bias=bias)
        self.max_log_scale, self.max_shear = max_log_scale, max_shear

    @property
    def max_condition(self) -> float:
        """The bound on the condition number of :math:`W`."""
        return math.exp(2 * self.max_log_scale) * shear_condition(self.max_shear) ** 2

    def extra_repr(self) -> str:
        return f"{self.features}, bias={self.bias}, max_log_scale={self.max_log_scale}, max_shear={self.max_shear}"

    def _factor(self, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lower = unit_triangle(factors, self.max_shear, upper=False)
        return lower, self._log_scale(factors), unit_triangle(factors, self.max_shear, upper=True)

    def _log_scale(self, factors: Tensor) -> Tensor:
        return soft_bound(factors.diagonal(dim1=-2, dim2=-1), self.max_log_scale)

    def _weight(self, factors: Tensor) -> Tensor:
        lower, s, upper = self._factor(factors)
        return (lower * s.exp().unsqueeze(-2)) @ upper

    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        lower, s, upper = self._factor(factors)
        y = solve_triangle(lower, y, upper=False) * (-s).exp()
        return solve_triangle(upper, y, upper=True)

    def _log_det(self, factors: Tensor) -> Tensor:
        return self._log_scale(factors).sum(-1)


class QR(Linear):
    r"""Linear map :math:`z = Q D U x + b` with a rotation :math:`Q`, a diagonal :math:`D = e^{s}` and a unit triangle.

    :math:`Q = -H_1 \cdots H_d` is a product of Householder reflections in :math:`v_k = (0, …, 0, 1, a_{k+1}, …, a_d)`,
    the format of LAPACK's ``geqrf``: :math:`d^2` numbers in all, and the identity at zero, where the layer starts.
    :math:`D` and :math:`U` are bounded as in ``LU``; a rotation costs nothing, so

    .. math:: \operatorname{cond}(Q D U) \le e^{2 S} (1 + \rho) \sum_k \rho^k / \sqrt{k!}, \qquad
        \log|\det| = \sum_i s_i ,

    which is 139 for the defaults.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the factors plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features**2 + features)`` (the last: the bias).
        bias: Whether to add :math:`b`.
        max_log_scale: The bound :math:`S > 0` on :math:`|s|`.
        max_shear: The bound :math:`\rho > 0` on what the triangle has beside its diagonal.

    Raises:
        ConfigError: If ``features < 1``, or a bound is not positive and finite.

    References:
        Emerging Convolutions for Generative Normalizing Flows, Hoogeboom, van den Berg, Welling 2019, arXiv:1901.11137,
        sec. 3.2 (there without the bounds).

    Example:
        >>> layer = QR(3)
        >>> z, ladj = layer(torch.ones(5, 3))
        >>> z.shape, ladj.shape, round(layer.max_condition)
        (torch.Size([5, 3]), torch.Size([5]), 139)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        *,
        bias: bool = True,
        max_log_scale: float = 1.5,
        max_shear: float = 1.0,
    ) -> None:
        check_features(features)
        check_bound(max_log_scale, "max_log_scale")
        check_bound(max_shear, "max_shear")
        super().__init__(torch.zeros(features, features), context, hidden, net, bias=bias)
        self.max_log_scale, self.max_shear = max_log_scale, max_shear

    @property
    def max_condition(self) -> float:
        """The bound on the condition number of :math:`W`."""
        return math.exp(2 * self.max_log_scale) * shear_condition(self.max_shear)

    def extra_repr(self) -> str:
        return f"{self.features}, bias={self.bias}, max_log_scale={self.max_log_scale}, max_shear={self.max_shear}"

    def _log_scale(self, factors: Tensor) -> Tensor:
        return soft_bound(factors.diagonal(dim1=-2, dim2=-1), self.max_log_scale)

    def _rotation(self, factors: Tensor) -> Tensor:
        # The last vector has nothing but its 1; its reflection makes the number even, and the sign the identity at zero.
        eye = torch.eye(self.features, dtype=factors.dtype, device=factors.device)
        return -reflections(factors.tril(-1).mT + eye)

    def _weight(self, factors: Tensor) -> Tensor:
        upper = unit_triangle(factors, self.max_shear, upper=True)
        return self._rotation(factors) @ (upper * self._log_scale(factors).exp().unsqueeze(-1))

    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        y = multiply(self._rotation(factors).mT, y) * (-self._log_scale(factors)).exp()
        return solve_triangle(unit_triangle(factors, self.max_shear, upper=True), y, upper=True)

    def _log_det(self, factors: Tensor) -> Tensor:
        return self._log_scale(factors).sum(-1)

"""Linear layer by the matrix exponential."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.ops.linalg import bound_norm, multiply, skew
from bijectory.transforms.linear import Linear, check_bound, check_features


class MatrixExp(Linear):
    r"""Linear map :math:`z = e^{M} x + b`: the inverse is :math:`e^{-M}` and :math:`\log|\det| = \operatorname{tr} M`.

    :math:`M = A + B` with a skew :math:`A`, which turns, and a symmetric :math:`B`, which stretches. As
    :math:`\|e^M\|_2 \le e^{\lambda_{\max}(B)}` and :math:`\|B\|_F < S` (softly, whatever the weights),

    .. math:: \operatorname{cond}(e^M) \le e^{2 S} ,

    2981 for the default. All maps without a reflection are within reach up to the bound. The layer starts at the identity.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves :math:`M` plain weights, else a network of it is added to them.
        hidden: Hidden widths of that network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, features**2 + features)`` (the last: the bias).
        bias: Whether to add :math:`b`.
        max_log_scale: The bound :math:`S > 0` on the norm of :math:`B`.

    Raises:
        ConfigError: If ``features < 1``, or the bound is not positive and finite.

    References:
        Generative Flows with Matrix Exponential, Xiao, Liu 2020, arXiv:2007.09651, sec. 3 (there without the bound).

    Example:
        >>> layer = MatrixExp(3)
        >>> z, ladj = layer(torch.ones(5, 3))
        >>> z.shape, ladj.shape, round(layer.max_condition)
        (torch.Size([5, 3]), torch.Size([5]), 2981)
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        *,
        bias: bool = True,
        max_log_scale: float = 4.0,
    ) -> None:
        check_features(features)
        check_bound(max_log_scale, "max_log_scale")
        super().__init__(torch.zeros(features, features), context, hidden, net, bias=bias)
        self.max_log_scale = max_log_scale

    @property
    def max_condition(self) -> float:
        """The bound on the condition number of :math:`W`."""
        return math.exp(2 * self.max_log_scale)

    def extra_repr(self) -> str:
        return f"{self.features}, bias={self.bias}, max_log_scale={self.max_log_scale}"

    def _stretch(self, factors: Tensor) -> Tensor:
        return bound_norm((factors + factors.mT) / 2, self.max_log_scale)

    def _weight(self, factors: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(skew(factors) + self._stretch(factors))

    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        return multiply(torch.linalg.matrix_exp(-skew(factors) - self._stretch(factors)), y)

    def _log_det(self, factors: Tensor) -> Tensor:
        return self._stretch(factors).diagonal(dim1=-2, dim2=-1).sum(-1)

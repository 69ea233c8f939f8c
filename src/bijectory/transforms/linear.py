"""What linear layers share: weights free or from a context, a bias, and products precomputed for evaluation."""

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP, Freezable
from bijectory.ops.linalg import multiply
from bijectory.ops.precision import full_precision
from bijectory.ops.shape import expand_to_context, linear
from bijectory.transforms.base import Transform


class Linear(Transform, Freezable):
    r"""Linear map :math:`z = W x + b` with a structured :math:`W`; subclasses say how it is made of ``factors``.

    With a context, a network of it is added to ``factors`` and the bias: every row has its own matrix.

    Args:
        start: ``(rows, features)``, the raw factors to start from.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the network of the context.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, start.numel() + features)`` (without bias:
            ``start.numel()``).
        bias: Whether to add :math:`b`.
    """

    regions = ("forward", "inverse")
    precomputed = ("_product", "_inverse", "_origin", "_ladj")
    _product: Tensor | None
    _inverse: Tensor | None
    _origin: Tensor | None  # what zero comes from, None without a bias too
    _ladj: Tensor | None

    def __init__(
        self, start: Tensor, context: int, hidden: Sequence[int], net: nn.Module | None, *, bias: bool
    ) -> None:
        super().__init__()
        check(context >= 0, ConfigError, f"context={context} must not be negative.")
        self.features, self.context, self.hidden = start.shape[-1], context, tuple(hidden)
        self.factors = nn.Parameter(start)
        self.shift = nn.Parameter(torch.zeros(self.features)) if bias else None
        outputs = start.numel() + (self.features if bias else 0)
        self.net = (net or MLP(0, outputs, hidden, context)) if context else None
        for name in self.precomputed:
            self.register_buffer(name, None, persistent=False)  # set by freeze

    @abc.abstractmethod
    def _weight(self, factors: Tensor) -> Tensor:
        """:math:`W` of ``(*batch, rows, features)``: ``(*batch, features, features)``."""

    @abc.abstractmethod
    def _solve(self, factors: Tensor, y: Tensor) -> Tensor:
        """Solve :math:`W x = y` for events ``(*batch, features)``."""

    @abc.abstractmethod
    def _log_det(self, factors: Tensor) -> Tensor:
        r""":math:`\log|\det W|`, ``(*batch,)``."""

    @property
    def bias(self) -> bool:
        """Whether the layer adds a bias."""
        return self.shift is not None

    def matrix(self, c: Tensor | None = None) -> Tensor:
        """:math:`W`, ``(features, features)``; with a context ``(*batch_c, features, features)``."""
        return self._weight(self._unpack(c)[0])

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        factors, shift = self._unpack(c)
        with full_precision(x.device.type):
            if self._product is not None:
                z = linear(x, self._product, shift)
            elif factors.dim() == 2:
                z = linear(x, self._weight(factors), shift)
            else:
                z = multiply(self._weight(factors), expand_to_context(x, c, 1))
                z = z if shift is None else z + shift
            return z, (self._log_det(factors) if self._ladj is None else self._ladj).expand(z.shape[:-1])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        factors, shift = self._unpack(c)
        z = expand_to_context(z, c if self.context else None, 1)
        z = z if shift is None else z - shift
        with full_precision(z.device.type):
            x = self._solve(factors, z) if self._inverse is None else linear(z, self._inverse)
            return x, (-self._log_det(factors)).expand(x.shape[:-1])

    def precompute(self) -> None:
        """One product for each direction and the log-determinant (nothing with a context); products in float64."""
        if self.net is None:
            with torch.no_grad():
                factors = self.factors.double()
                eye = torch.eye(self.features, dtype=torch.float64, device=factors.device)
                self._product = self._weight(factors).to(self.factors.dtype)
                inverse = self._solve(factors, eye).T.contiguous()
                self._inverse, self._ladj = inverse.to(self.factors.dtype), self._log_det(self.factors)
                self._origin = None if self.shift is None else -(inverse @ self.shift.double()).to(self.factors.dtype)

    def _unpack(self, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Factors ``(*batch_c, rows, features)`` and bias ``(*batch_c, features)``."""
        if self.net is None or c is None:
            return self.factors, self.shift
        raw = self.net(c[..., :0], c)
        n = self.factors.numel()
        factors = self.factors + raw[..., :n].unflatten(-1, self.factors.shape)
        return factors, None if self.shift is None else self.shift + raw[..., n:]


def check_features(features: int) -> None:
    """Raise ``ConfigError`` unless there is at least one feature."""
    check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")


def check_bound(value: float, name: str) -> None:
    """Raise ``ConfigError`` unless a bound is positive and finite."""
    ok = math.isfinite(value) and value > 0
    check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")

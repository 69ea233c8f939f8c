"""Fixed linear maps that give data or a posterior zero mean and unit covariance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.errors import ConfigError, DataError, check
from bijectory.ops.linalg import multiply
from bijectory.ops.shape import feature_major
from bijectory.transforms.base import Transform
from bijectory.transforms.normalize import moments


class Whiten(Transform):
    r"""Fixed affine map :math:`z = L^{-1}(x - \mu)` with a lower triangle :math:`L`; not trained.

    :math:`\log|\det| = -\sum_i \log L_{ii}`. With :math:`L L^\top` the covariance of ``x``, ``z`` has mean zero and unit
    covariance: a Laplace approximation becomes the standard normal.

    Args:
        features: Number of features.
        loc: :math:`\mu`; None: 0 until ``initialize`` sets it to the mean of the data.
        root: :math:`L`, ``(features, features)``; None: the identity until ``initialize`` sets it to the Cholesky factor of
            the covariance.

    Raises:
        ConfigError: If only one of ``loc`` and ``root`` is given, or their shapes or values do not fit.
        DataError, NonFiniteError: From ``initialize``, when the data do not determine a covariance.

    Example:
        >>> z, ladj = Whiten(2, [1.0, 0.0], [[2.0, 0.0], [1.0, 1.0]])(torch.tensor([3.0, 2.0]))
        >>> z.tolist(), round(ladj.item(), 4)
        ([1.0, 1.0], -0.6931)
    """

    regions = ("forward", "inverse")
    _loc: Tensor
    _root: Tensor
    initialised: Tensor

    def __init__(
        self,
        features: int,
        loc: Sequence[float] | Tensor | None = None,
        root: Sequence[Sequence[float]] | Tensor | None = None,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check((loc is None) == (root is None), ConfigError, "give both loc and root, or neither.")
        self.features = features
        mean = torch.zeros(features) if loc is None else _tensor(loc)
        triangle = torch.eye(features) if root is None else _tensor(root)
        fits = mean.shape == (features,) and triangle.shape == (features, features)
        got = f"{tuple(mean.shape)} and {tuple(triangle.shape)}"
        check(fits, ConfigError, f"loc must be ({features},) and root ({features}, {features}), got {got}.")
        ok = bool((triangle.diagonal() > 0).all()) and bool((triangle.triu(1) == 0).all())
        ok = ok and bool(mean.isfinite().all()) and bool(triangle.isfinite().all())
        check(ok, ConfigError, "root must be a lower triangle with a positive diagonal, and everything finite.")
        self.register_buffer("_loc", mean)
        self.register_buffer("_root", triangle)
        self.register_buffer("initialised", torch.tensor(loc is not None))

    @property
    def loc(self) -> tuple[float, ...] | None:
        """The mean as plain numbers; None before ``initialize``."""
        return tuple(self._loc.tolist()) if self.initialised else None

    @property
    def root(self) -> tuple[tuple[float, ...], ...] | None:
        """The triangle as plain numbers; None before ``initialize``."""
        return tuple(map(tuple, self._root.tolist())) if self.initialised else None

    def extra_repr(self) -> str:
        return f"{self.features}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows = (x - self._loc).reshape(-1, self.features)
        z = torch.linalg.solve_triangular(self._root.mT, rows, upper=True, left=False).reshape(x.shape)
        return feature_major(z), -self._total(x)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return multiply(self._root, z) + self._loc, self._total(z)

    def _total(self, x: Tensor) -> Tensor:
        return self._root.diagonal().log().sum().expand(x.shape[:-1])

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        if self.initialised:
            return
        mean, deviation = moments(x)
        rows = ((x - mean) / deviation).reshape(-1, self.features)
        factor, info = torch.linalg.cholesky_ex(rows.mT @ rows / len(rows))
        independent = int(info) == 0 and bool((factor.diagonal() > 1e-6).all())
        check(independent, DataError, "the covariance of the data is singular; drop columns that others determine.")
        self._loc.copy_(mean)
        self._root.copy_(deviation.unsqueeze(-1) * factor)
        self.initialised.fill_(True)  # noqa: FBT003


def _tensor(values: Sequence[float] | Sequence[Sequence[float]] | Tensor) -> Tensor:
    """Plain numbers in the default dtype; a tensor keeps its own."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    return torch.tensor(values, dtype=torch.get_default_dtype())

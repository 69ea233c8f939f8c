"""The monotone rational-quadratic spline of neural spline flows."""

import dataclasses
from typing import Literal

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.spline_arguments import check_spline
from bijectory.errors import ConfigError, check
from bijectory.ops.spline import SplineGrid, Tails, rational_quadratic, rational_quadratic_inverse


@dataclasses.dataclass(frozen=True)
class RationalQuadratic(Bijection):
    r"""Monotone rational-quadratic spline on :math:`[-B, B]`.

    Raw parameters, in this order: ``K`` widths and ``K`` heights (softmax with a floor), then the knot slopes from left to
    right (softplus with a floor). Zeros are the identity. Outside the box, by ``tails``:

    - ``"identity"``: :math:`y = x`; the slope at :math:`\pm B` is 1; ``3K - 1`` parameters.
    - ``"linear"``: straight lines with the learned slopes at :math:`\pm B`; ``3K + 1`` parameters.
    - ``"circular"``: :math:`x` is an angle on a circle of circumference :math:`2B`, both end slopes are one parameter,
      and :math:`f(x + 2B) = f(x) + 2B`; ``3K`` parameters. The point :math:`\pm B` is fixed: compose with a shift.

    Args:
        bins: Number of bins ``K``, at least 2.
        bound: Half width ``B`` of the box.
        tails: ``"identity"``, ``"linear"`` or ``"circular"``.
        min_bin: Smallest width and height of a bin, as a fraction of the box; below ``1 / bins``.
        min_slope: Smallest slope at a knot, between 0 and 1.
        precision: ``"input"`` computes in the dtype of the inputs (float32 at least), ``"float64"`` always in float64,
            so that float32 tensors lose nothing to steep and narrow bins.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.04032, eq. 4-8.
        Normalizing Flows on Tori and Spheres, Rezende et al. 2020, arXiv:2002.02428, sec. 2.1.2 (circular).

    Example:
        >>> import torch
        >>> spline = RationalQuadratic(bins=2, bound=1.0)
        >>> phi = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).unsqueeze(-1)  # the first bin is taller
        >>> y, ladj = spline.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 3)
        0.461
        >>> x, back = spline.inverse(y, phi)
        >>> round(abs(x.item()), 6), torch.allclose(ladj, -back, atol=1e-6)
        (0.0, True)
    """

    bins: int = 8
    bound: float = 5.0
    tails: Tails = "identity"
    min_bin: float = 1e-3
    min_slope: float = 1e-3
    precision: Literal["input", "float64"] = "input"

    def __post_init__(self) -> None:
        check_spline(self.bins, self.bound, self.tails, self.min_bin, self.min_slope)
        check(
            self.precision in ("input", "float64"),
            ConfigError,
            f"precision must be 'input' or 'float64', got {self.precision!r}.",
        )

    @property
    def grid(self) -> SplineGrid:
        return SplineGrid(
            self.bins, self.bound, self.tails, self.min_bin, self.min_slope, double=self.precision == "float64"
        )

    @property
    def n_params(self) -> int:
        return self.grid.n_params

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(x, phi, self.grid)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic_inverse(y, phi, self.grid)

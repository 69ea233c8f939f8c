"""The piecewise linear spline."""

import dataclasses

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.bijections.spline_arguments import check_spline
from bijectory.ops.spline_bins import SplineGrid, Tails
from bijectory.ops.spline_linear import linear_spline, linear_spline_inverse


@dataclasses.dataclass(frozen=True)
class LinearSpline(Bijection):
    r"""Piecewise linear spline on :math:`[-B, B]`: the distribution function of a histogram.

    ``K`` bins of equal width, whose heights (softmax with a floor) are the ``K`` raw parameters. Zeros are the identity. The
    density that it makes jumps at the knots. Outside the box, by ``tails``:

    - ``"identity"``: :math:`y = x`.
    - ``"linear"``: straight lines with the slopes of the first and the last bin.
    - ``"circular"``: :math:`f(x + 2B) = f(x) + 2B`, a map of the circle that fixes :math:`\pm B`.

    Args:
        bins: Number of bins ``K``, at least 2.
        bound: Half width ``B`` of the box.
        tails: ``"identity"``, ``"linear"`` or ``"circular"``.
        min_bin: Smallest height of a bin, as a fraction of the box; below ``1 / bins``.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Neural Importance Sampling, Müller, McWilliams, Rousselle, Gross, Novák 2018, arXiv:1808.03856, sec. 4.1.

    Example:
        >>> import torch
        >>> spline = LinearSpline(bins=2, bound=1.0)
        >>> phi = torch.tensor([[1.0], [0.0]])  # the first bin is taller
        >>> y, ladj = spline.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 3), round(spline.inverse(y, phi)[0].item(), 6)
        (0.461, 0.0)
    """

    bins: int = 8
    bound: float = 5.0
    tails: Tails = "identity"
    min_bin: float = 1e-3

    def __post_init__(self) -> None:
        check_spline(self.bins, self.bound, self.tails, self.min_bin)

    @property
    def _grid(self) -> SplineGrid:
        return SplineGrid(self.bins, self.bound, self.tails, self.min_bin)

    @property
    def n_params(self) -> int:
        return self.bins

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return linear_spline(x, phi, self._grid)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return linear_spline_inverse(y, phi, self._grid)

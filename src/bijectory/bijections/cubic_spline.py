"""The monotone cubic spline."""

import dataclasses

from torch import Tensor

from bijectory.bijections.spline_arguments import GridSpline
from bijectory.ops.spline_cubic import cubic_spline, cubic_spline_inverse


@dataclasses.dataclass(frozen=True)
class CubicSpline(GridSpline):
    r"""Monotone cubic Hermite spline on :math:`[-B, B]` with Steffen's slopes.

    Raw parameters, in this order: ``K`` widths and ``K`` heights (softmax with a floor), then the slopes at :math:`-B` and
    :math:`B`, each between 0 and three times the mean slope of its bin; slopes at inner knots follow from the knots. Zeros
    are the identity. By ``tails``:

    - ``"identity"``: :math:`y = x` outside the box, as published: the density may jump at :math:`\pm B`, since a monotone
      cubic cannot take every slope there; ``2K + 2`` parameters.
    - ``"linear"``: straight lines with the slopes at :math:`\pm B`; ``2K + 2`` parameters.
    - ``"circular"``: :math:`f(x + 2B) = f(x) + 2B` with Steffen's slope at the seam too; ``2K`` parameters.

    The inverse is closed (the largest root of a cubic by its cosine or Cardano's formula, polished).

    Args:
        bins: Number of bins ``K``, at least 2.
        bound: Half width ``B`` of the box.
        tails: ``"identity"``, ``"linear"`` or ``"circular"``.
        min_bin: Smallest width and height of a bin, as a fraction of the box; below ``1 / bins``.
        min_slope: Smallest slope at the ends of the box relative to the mean slope of the bin, between 0 and 1.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Cubic-Spline Flows, Durkan, Bekasov, Murray, Papamakarios 2019, arXiv:1906.02145.
        A simple method for monotonic interpolation in one dimension, Steffen 1990, Astronomy and Astrophysics 239.

    Example:
        >>> import torch
        >>> spline = CubicSpline(bins=2, bound=1.0)
        >>> phi = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]).unsqueeze(-1)  # the first bin is taller
        >>> y, ladj = spline.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 3), round(abs(spline.inverse(y, phi)[0].item()), 6)
        (0.461, 0.0)
    """

    @property
    def n_params(self) -> int:
        return 2 * self.bins + (0 if self.tails == "circular" else 2)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return cubic_spline(x, phi, self._grid)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return cubic_spline_inverse(y, phi, self._grid)

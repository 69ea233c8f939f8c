"""The piecewise quadratic spline."""

import dataclasses

from torch import Tensor

from bijectory.bijections.spline_arguments import GridSpline
from bijectory.ops.spline_quadratic import quadratic_spline, quadratic_spline_inverse


@dataclasses.dataclass(frozen=True)
class QuadraticSpline(GridSpline):
    r"""Piecewise quadratic spline on :math:`[-B, B]`: the distribution function of a piecewise linear density.

    Raw parameters, in this order: ``K`` widths (softmax with a floor), then the logarithms of the density at the free knots
    from left to right; the density is scaled to mass one and then floored. Zeros are the identity. By ``tails``:

    - ``"identity"``: :math:`y = x` outside the box; the density at :math:`\pm B` is scaled to be 1, so that it is continuous
      there; ``2K - 1`` parameters.
    - ``"linear"``: straight lines with the learned slopes at :math:`\pm B`; ``2K + 1`` parameters.
    - ``"circular"``: :math:`f(x + 2B) = f(x) + 2B` with one density at both ends; ``2K`` parameters.

    Args:
        bins: Number of bins ``K``, at least 2.
        bound: Half width ``B`` of the box.
        tails: ``"identity"``, ``"linear"`` or ``"circular"``.
        min_bin: Smallest width of a bin, as a fraction of the box; below ``1 / bins``.
        min_slope: Smallest slope, between 0 and 1.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Neural Importance Sampling, Müller, McWilliams, Rousselle, Gross, Novák 2018, arXiv:1808.03856, sec. 4.2.

    Example:
        >>> import torch
        >>> spline = QuadraticSpline(bins=2, bound=1.0, tails="linear")
        >>> phi = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).unsqueeze(-1)  # denser on the left
        >>> y, ladj = spline.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 3), round(spline.inverse(y, phi)[0].item(), 6)
        (0.3, 0.0)
    """

    @property
    def n_params(self) -> int:
        return self._grid.n_params - self.bins  # no heights: they follow

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return quadratic_spline(x, phi, self._grid)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return quadratic_spline_inverse(y, phi, self._grid)

"""The monotone linear-rational spline."""

import dataclasses

from torch import Tensor

from bijectory.bijections.spline_arguments import GridSpline
from bijectory.ops.spline_linear_rational import linear_rational, linear_rational_inverse


@dataclasses.dataclass(frozen=True)
class LinearRational(GridSpline):
    r"""Monotone linear-rational spline on :math:`[-B, B]`: two fractional linear pieces a bin, the inverse of the same kind.

    Raw parameters, in this order: ``K`` widths and ``K`` heights (softmax with a floor), ``K`` places :math:`\lambda` where
    the two pieces of a bin meet (0.025 to 0.975 of its width), then the knot slopes from left to right (softplus with a
    floor). Zeros are the identity. By ``tails``:

    - ``"identity"``: :math:`y = x` outside the box; the slope at :math:`\pm B` is 1; ``4K - 1`` parameters.
    - ``"linear"``: straight lines with the learned slopes at :math:`\pm B`; ``4K + 1`` parameters.
    - ``"circular"``: :math:`f(x + 2B) = f(x) + 2B`, one slope at both ends; ``4K`` parameters.

    Args:
        bins: Number of bins ``K``, at least 2.
        bound: Half width ``B`` of the box.
        tails: ``"identity"``, ``"linear"`` or ``"circular"``.
        min_bin: Smallest width and height of a bin, as a fraction of the box; below ``1 / bins``.
        min_slope: Smallest slope at a knot, between 0 and 1.

    Raises:
        ConfigError: If a hyper-parameter is out of range.

    References:
        Invertible Generative Modeling using Linear Rational Splines, Dolatabadi, Erfani, Leckie 2020, arXiv:2001.05168,
        algorithm 1.

    Example:
        >>> import torch
        >>> spline = LinearRational(bins=2, bound=1.0)
        >>> phi = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).unsqueeze(-1)  # the first bin is taller
        >>> y, ladj = spline.forward(torch.tensor([0.0]), phi)
        >>> round(y.item(), 3), round(abs(spline.inverse(y, phi)[0].item()), 6)
        (0.461, 0.0)
    """

    @property
    def n_params(self) -> int:
        return self._grid.n_params + self.bins

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return linear_rational(x, phi, self._grid)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return linear_rational_inverse(y, phi, self._grid)

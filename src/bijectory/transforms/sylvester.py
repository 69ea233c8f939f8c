"""Sylvester flow: planar flow with several ridges a layer."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.ops.linalg import orthonormal_columns, reflections
from bijectory.ops.precision import as_precise_as, full_precision
from bijectory.ops.ridge import gate, ridge_forward, ridge_inverse
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.amortized import context_net, raw_parameters
from bijectory.transforms.base import Transform

Kind = Literal["orthogonal", "householder", "triangular"]


class Sylvester(Transform):
    r"""Sylvester maps :math:`z = x + Q R \tanh(\tilde R Q^\top x + b)`, one after the other.

    :math:`Q` has :math:`M` orthonormal columns; :math:`R` and :math:`\tilde R` are upper triangular, and
    :math:`m_i = R_{ii} \tilde R_{ii} > -1` by construction, so that each map is invertible:

    .. math::
        \log|\det| = \sum_i \log\bigl(1 + m_i (1 - \tanh^2)\bigr), \qquad
        R_{ii} = a_i\, \sigma(y_i), \quad 1 + m_i = e^{y_i}, \quad y_i = \operatorname{arsinh}(a_i \tilde R_{ii} / 2).

    (The paper bounds both diagonals by one, and so :math:`|m_i| < 1`.) The inverse solves :math:`M` increasing scalar
    functions a map, from the last row of the triangle up; NaN in the event that a residual is not at the level of rounding.
    With :math:`R = 0`, where the layers start, it is the identity.

    Kinds of :math:`Q`, each orthogonal to rounding and differentiable:

    - ``householder``: the first :math:`M` columns of a product of reflections :math:`I - 2 v v^\top / \|v\|^2`.
    - ``orthogonal``: the orthogonal factor of a QR decomposition (with positive diagonal) of :math:`I_{d \times M} + V`.
      The paper iterates Björck's correction instead, until orthogonal to a tolerance.
    - ``triangular``: no weights; the identity, and the reversal of the features in every second map.

    Args:
        features: Number of features.
        context: Width of the context; 0 leaves the raw parameters plain weights, else a network of it is added to them.
        kind: ``householder``, ``orthogonal`` or ``triangular``.
        rank: :math:`M`, the number of ridges a map, at most ``features``; None for ``features``.
        reflections: Number of reflections of a ``householder`` map; None for 8, or ``features`` if that is less.
        hidden: Hidden widths of the network.
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, layers * phi.shape[1])``.
        layers: Number of maps; row ``l`` of ``phi`` is the ``l``-th, in data -> latent order.

    Raises:
        ConfigError: On an unknown kind, or a number out of range.

    References:
        Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak, Welling 2018,
        arXiv:1803.05649, eq. 8-13 and section 3.2.

    Example:
        >>> z, ladj = Sylvester(4, rank=2, layers=3)(torch.ones(5, 4))
        >>> z.shape, ladj.shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    solver = "bracketed root"
    ladj_cost = "O(M)"
    _fixed: Tensor

    def __init__(
        self,
        features: int,
        context: int = 0,
        kind: Kind = "householder",
        rank: int | None = None,
        reflections: int | None = None,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
        layers: int = 1,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(layers >= 1, ConfigError, f"layers must be at least 1, got {layers}.")
        check(kind in get_args(Kind), ConfigError, f"kind must be one of {get_args(Kind)}, got {kind!r}.")
        rank = features if rank is None else rank
        reflections = min(features, 8) if reflections is None else reflections
        check(1 <= rank <= features, ConfigError, f"rank must be between 1 and features={features}, got {rank}.")
        check(reflections >= 1, ConfigError, f"reflections must be at least 1, got {reflections}.")
        self.features, self.context, self.kind, self.rank = features, context, kind, rank
        self.reflections, self.hidden, self.layers = reflections, tuple(hidden), layers

        # Rows of a layer: an (M, M) square with R above its diagonal, a on it and the transpose of R~ below; the diagonal
        # of R~; b; and what makes Q. R and a start at zero (the identity), the rest where gradients flow.
        ridges = torch.tril(torch.randn(layers, rank, rank) / rank**0.5, -1).flatten(1)
        frame = {"householder": reflections * features, "orthogonal": features * rank, "triangular": 0}[kind]
        parts = (ridges, torch.ones(layers, rank), torch.randn(layers, rank), torch.randn(layers, frame))
        self.phi = nn.Parameter(torch.cat(parts, 1))
        self.net = context_net(net, self.phi, context, self.hidden)
        eye = torch.eye(features)
        flips = torch.stack([eye.flip(1) if kind == "triangular" and k % 2 else eye for k in range(layers)])
        self.register_buffer("_fixed", flips[..., :rank], persistent=False)

    def _frame(self, raw: Tensor) -> Tensor:
        """``Q``, ``(*batch, L, d, M)``."""
        if self.kind == "orthogonal":
            return orthonormal_columns(self._fixed + raw.unflatten(-1, (self.features, self.rank)))
        if self.kind == "householder":
            # Around the coordinate axes, so that raw = 0 is a product of reflections too.
            axes = torch.eye(self.features, dtype=raw.dtype, device=raw.device)
            axes = axes.repeat(-(-self.reflections // self.features), 1)[: self.reflections]
            return reflections(raw.unflatten(-1, (self.reflections, self.features)) + axes)[..., : self.rank]
        return self._fixed

    def _ridges(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """``u = Q R``, ``w = R~ Q'``, ``b``, the diagonal ``1 + m`` and the triangle ``R~ R``, as the kernels take them."""
        m = self.rank
        square, diagonal, b, frame = raw.split((m * m, m, m, raw.shape[1] - m * m - 2 * m), 1)
        square, diagonal = square.movedim((0, 1), (-2, -1)).unflatten(-1, (m, m)), diagonal.movedim((0, 1), (-2, -1))
        a = square.diagonal(dim1=-2, dim2=-1)
        kappa, one_plus = gate(a * diagonal)
        outer = square.triu(1) + torch.diag_embed(a * kappa)
        inner = square.tril(-1).mT + torch.diag_embed(diagonal)
        q = self._frame(frame.movedim((0, 1), (-2, -1)))
        matrices = (t.movedim((-3, -2, -1), (0, 1, 2)) for t in (q @ outer, inner @ q.mT, inner @ outer))
        u, w, g = matrices
        return u, w, b, one_plus.movedim((-2, -1), (0, 1)), g

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        raw = as_precise_as(x, raw_parameters(self.phi, self.net, c, x.dim() - 1))
        with full_precision(x.device.type):
            u, w, b, one_plus, _ = self._ridges(raw)
            return ridge_forward(x, u, w, b, one_plus)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        raw = as_precise_as(z, raw_parameters(self.phi, self.net, c, z.dim() - 1))
        with full_precision(z.device.type):
            return ridge_inverse(z, *self._ridges(raw))

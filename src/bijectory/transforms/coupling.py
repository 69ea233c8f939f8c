"""Coupling layers: one part of the features conditions a scalar family on the rest."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MLP
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context, sum_event, take, to_planes
from bijectory.transforms.retrace import Retraceable, Way, rerun


class Coupling(Retraceable):
    r"""Coupling layer :math:`z_A = x_A,\; z_B = \tau(x_B; \phi(x_A, c))` with any scalar family and any conditioner.

    The Jacobian is block triangular, so the log-determinant is the sum of the scalar ones over :math:`B`; both
    directions take one pass through the conditioner.

    Args:
        bijection: The scalar family :math:`\tau`.
        mask: ``(features,)`` booleans; True keeps a feature unchanged (part A), False transforms it (part B).
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the built-in conditioner.
        net: A conditioner of your own, ``net(x_A, c) -> (*batch, P * len(B))``, plane-major rows.

    Raises:
        ConfigError: If the mask keeps or transforms every feature.

    References:
        NICE, Dinh+ 2014, arXiv:1410.8516, sec. 3; Real NVP, Dinh+ 2016, arXiv:1605.08803, eq. 4-8.

    Example:
        >>> from bijectory.bijections import Affine
        >>> z, ladj = Coupling(Affine(), mask=[True, False, False])(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    regions = ("forward", "inverse")
    _order: Tensor
    _rank: Tensor

    def __init__(
        self,
        bijection: Bijection,
        mask: Sequence[bool] | Tensor,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_type(bijection, Bijection, "bijection")
        self.mask = tuple(bool(m) for m in mask)
        kept = [i for i, m in enumerate(self.mask) if m]
        moved = [i for i, m in enumerate(self.mask) if not m]
        check(
            len(self.mask) >= 2,
            ConfigError,
            f"coupling needs at least 2 features, got {len(self.mask)}; use an autoregressive or elementwise flow.",
        )
        check(bool(kept and moved), ConfigError, "the mask must keep at least one feature and transform at least one.")
        self.bijection, self.context, self.hidden = bijection, context, tuple(hidden)
        self.features, self.n_kept = len(self.mask), len(kept)
        # Contiguous parts are slices (no gather); other masks go through an order with the kept features first.
        self._kept_first = kept == list(range(len(kept)))
        self._kept_last = moved == list(range(len(moved)))
        order = torch.tensor(kept + moved)
        self.register_buffer("_order", order, persistent=False)
        self.register_buffer("_rank", order.argsort(), persistent=False)
        self.net = MLP(len(kept), bijection.n_params * len(moved), hidden, context) if net is None else net

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = self.n_kept
        if self._kept_first:
            return x[..., :n], x[..., n:]
        if self._kept_last:
            return x[..., -n:], x[..., :-n]
        x = take(x, self._order)
        return x[..., :n], x[..., n:]

    def _planes(self, a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
        return as_precise_as(b, to_planes(self.net(a, c), self.bijection.n_params))

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        kept = kept.to(moved.dtype)
        if self._kept_last:
            return _cat(moved, kept)
        joined = _cat(kept, moved)
        return joined if self._kept_first else take(joined, self._rank)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        a, b = self._split(expand_to_context(x, c, 1))
        b, ladj = self.bijection.forward(b, self._planes(a, b, c))
        return self.join(a, b), sum_event(ladj, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        a, b = self._split(expand_to_context(z, c, 1))
        b, ladj = self.bijection.inverse(b, self._planes(a, b, c))
        return self.join(a, b), sum_event(ladj, 1)

    def retrace(self, way: Way, z: Tensor, c: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        a, b = self._split(z.detach())
        a = a.requires_grad_()
        b, moved, ladj = rerun(self.bijection, way, b, self._planes(a, b, c if self.context else None))
        return (a, b), self.join(a, moved), sum_event(ladj, 1)


def _cat(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate features and keep memory feature-major."""
    return torch.cat((a.movedim(-1, 0), b.movedim(-1, 0))).movedim(0, -1)

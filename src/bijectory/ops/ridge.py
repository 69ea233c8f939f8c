r"""Stacks of ridge layers: :math:`z = x + U \tanh(W x + b)` with :math:`G = W U` upper triangular and :math:`G_{ii} > -1`.

Planar flows have one ridge a layer, Sylvester flows :math:`M`. With :math:`a = W x + b` and :math:`t = \tanh(a)`,

.. math::
    \log|\det| = \sum_i \log\bigl(1 + G_{ii}(1 - t_i^2)\bigr), \qquad
    a + G \tanh(a) = W z + b, \qquad x = z - U \tanh(a):

the determinant is that of :math:`I + \operatorname{diag}(1 - t^2)\, G`, and the inverse solves the triangle upwards, one
increasing scalar function at a time, without ever leaving :math:`M` dimensions.

The scalar root :math:`s + m\tanh(s) = r` needs no bracketing. By symmetry :math:`r \ge 0`; there the function is concave for
:math:`m > 0` and convex for :math:`m < 0`, so Newton's iteration from a lower (upper) bound of the root moves towards it
monotonically. With the bounds below, 7 steps reach the last bit in float64 for every :math:`1 + m` in
:math:`10^{-10} \dots 10^8`.

All kernels keep features first, ``(L, d, M, *batch)``; parameters without batch dimensions are shared by all rows, and
the layers are then matrix products.
"""

import torch
from torch import Tensor

from bijectory.ops.eager import is_direct
from bijectory.ops.monotone import implicit
from bijectory.ops.ridge_scan import ridge_scan
from bijectory.ops.scalar import where_valid

_STEPS = 8
_SCAN_FEATURES, _SCAN_NUMBERS = 16, 1 << 14  # of the data, from which on the recursion of ``ridge_scan`` pays
_SLACK = 64.0  # residual, in units of rounding, above which a root is refused


def gate(p: Tensor) -> tuple[Tensor, Tensor]:
    r"""Turn any product ``p`` into one above -1: :math:`m = p\,\kappa(p) > -1`.

    :math:`y = \operatorname{arsinh}(p/2)`, :math:`\kappa = \sigma(y)` and :math:`1 + m = e^y`. Unlike the softplus of the
    literature, the factor :math:`\kappa` has no removable singularity, and :math:`1 + m` does not underflow.

    Returns:
        :math:`\kappa(p)` and :math:`1 + m`.
    """
    y = torch.asinh(p / 2)
    return torch.sigmoid(y), torch.exp(y)


def planar_ridges(phi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The ridges of planar maps, one a layer, as the functions below take them: see ``Planar``.

    Args:
        phi: Raw parameters ``(u, w, b)`` of every map, ``(L, 2 d + 1, *batch_p)``.

    Returns:
        The constrained ``u``, ``w``, ``b`` and :math:`1 + w^\top \hat u`.
    """
    features = phi.shape[1] // 2
    u, w, b = phi.split((features, features, 1), 1)
    a = (w * u).sum(1, keepdim=True)
    kappa, one_plus = gate(a)
    norm = w.square().sum(1, keepdim=True) + torch.finfo(w.dtype).tiny
    u_hat = u + (kappa - 1) * a / norm * w
    return u_hat.unsqueeze(2), w.unsqueeze(1), b, one_plus


def ridge_root(r: Tensor, one_plus: Tensor) -> Tensor:
    r"""Solve :math:`s + m\tanh(s) = r`, differentiably; ``one_plus`` is :math:`1 + m > 0`.

    NaN where the residual is not at the level of rounding.

    Example:
        >>> round(ridge_root(torch.tensor(2.0), torch.tensor(3.0)).item(), 4)
        0.7408
    """
    s = _solve(r.detach(), one_plus.detach())
    return implicit(lambda v: torch.div(*_residual(v, r, one_plus)), s)


def _residual(s: Tensor, r: Tensor, one_plus: Tensor) -> tuple[Tensor, Tensor]:
    """``r - f(s)`` and the slope ``f'(s)``, a sum of positive terms."""
    t = torch.tanh(s)
    return r - s - (one_plus - 1) * t, one_plus * (1 - t * t) + t * t


@torch.no_grad()
def _solve(r: Tensor, one_plus: Tensor) -> Tensor:
    size, m = r.abs(), one_plus - 1
    s = _start(size, m, one_plus)
    for _ in range(_STEPS):
        gap, slope = _residual(s, size, one_plus)
        s = s + gap / slope
    gap = _residual(s, size, one_plus)[0].abs()
    reached = gap <= _SLACK * torch.finfo(r.dtype).eps * (1 + size + m.abs())
    return torch.copysign(where_valid(reached, s), r)


def _start(r: Tensor, m: Tensor, one_plus: Tensor) -> Tensor:
    """A lower bound of the root for ``m > 0``, an upper one for ``m < 0``; ``r >= 0``."""
    steep = m > 0
    far, near = r - m, r / one_plus  # from tanh(s) <= 1 and tanh(s) <= s
    # Behind the knee: tanh(s) <= 1 - exp(-2 s), and s <= max(r - m, 0) + log(1 + 2 m).
    up = torch.where(steep, m, 1.0)
    knee = 0.5 * torch.log(up / ((up - r).clamp_min(0) + torch.log1p(2 * up)))
    low = torch.maximum(torch.maximum(far, near), knee)
    # Flat spot at the origin: tanh(s) <= s (15 + s^2) / (15 + 6 s^2), hence s - tanh(s) >= s^3 / 4.2 up to s = 1.
    cube = torch.where(r < 0.238, (4.2 * r).pow(1 / 3), far)
    high = torch.minimum(torch.minimum(far, near), cube)
    return torch.where(steep, low, high)


def ridge_forward(x: Tensor, u: Tensor, w: Tensor, b: Tensor, one_plus: Tensor) -> tuple[Tensor, Tensor]:
    r"""Apply :math:`x \leftarrow x + U_l \tanh(W_l x + b_l)` for every layer.

    Args:
        x: ``(*batch, d)``.
        u: ``(L, d, M, *batch_p)``; ``batch_p`` is empty, or broadcasts against ``batch`` with as many dimensions.
        w: ``(L, M, d, *batch_p)``.
        b: ``(L, M, *batch_p)``.
        one_plus: ``(L, M, *batch_p)``, :math:`1 + G_{ii}`.

    Returns:
        ``(*batch, d)`` and the log-determinant ``(*batch,)``.
    """
    z, ridges = _through(x, u, w, b)
    _, (one_plus,) = _columns(x, w.dim() == 3, one_plus)
    return z, _log_det(ridges, one_plus).reshape(x.shape[:-1])


def ridge_encode(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The map of ``ridge_forward`` without its log-determinant."""
    return _through(x, u, w, b)[0]


def _through(x: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The end point, and ``tanh(W x + b)`` of every layer, ``(L, M, *batch)`` with the batch as in ``_columns``."""
    columns, (b,) = _columns(x, w.dim() == 3, b)
    size = w.shape[1]
    block = 2 * max(x.shape[-1], 8) // size  # a layer then costs no more in the recursion than in the dimensions of x
    large = len(columns) >= _SCAN_FEATURES and columns.numel() >= _SCAN_NUMBERS
    if w.dim() == 3 and large and min(block, len(w)) >= 4 and _is_simple(columns, u, w, b):
        parts = []
        for i in range(0, len(w), block):
            down, up = w[i : i + block].flatten(0, 1), u[i : i + block].movedim(0, 1).flatten(1)
            start = torch.addmm(b[i : i + block].flatten(0, 1), down, columns)
            parts.append(ridge_scan(start, down @ up, size))
            columns = torch.addmm(columns, up, parts[-1])
        return _rows(columns, x), torch.cat(parts).unflatten(0, (-1, size))
    ridges = []
    for u_l, w_l, b_l in zip(u.unbind(0), w.unbind(0), b.unbind(0), strict=True):
        t = torch.tanh(_product(w_l, columns, b_l))
        columns = _product(u_l, t, columns)
        ridges.append(t)
    return _rows(columns, x), torch.stack(ridges)


def _is_simple(*tensors: Tensor) -> bool:
    """Whether a recursion may write into memory of its own: here, now, and in one type."""
    like = tensors[0]
    autocast = torch.amp.is_autocast_available(like.device.type) and torch.is_autocast_enabled(like.device.type)
    return not autocast and all(t.dtype == like.dtype and is_direct(t) for t in tensors)


def ridge_inverse(z: Tensor, u: Tensor, w: Tensor, b: Tensor, one_plus: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Invert ``ridge_forward``, with ``g``, ``(L, M, M, *batch_p)``, the products ``W U`` (read above the diagonal).

    Costs ``M`` roots a layer, one after the other, each for all rows at once.
    """
    columns, (b, one_plus, g) = _columns(z, w.dim() == 3, b, one_plus, g)
    ridges = []
    layers = zip((-u).unbind(0), w.unbind(0), b.unbind(0), one_plus.unbind(0), g.unbind(0), strict=True)
    for minus_u_l, w_l, b_l, one_plus_l, g_l in reversed(list(layers)):
        t = _solve_triangle(_product(w_l, columns, b_l), one_plus_l, g_l)
        columns = _product(minus_u_l, t, columns)
        ridges.append(t)
    return _rows(columns, z), -_log_det(torch.stack(ridges[::-1]), one_plus).reshape(z.shape[:-1])


def _solve_triangle(r: Tensor, one_plus: Tensor, g: Tensor) -> Tensor:
    """``tanh(a)`` for ``a + G tanh(a) = r``, ``(M, *batch)``: each ridge found is taken out of the rows above it."""
    ridges = []
    for i, (one_plus_i, g_i) in reversed(list(enumerate(zip(one_plus.unbind(0), g.unbind(1), strict=True)))):
        t = torch.tanh(ridge_root(r[i], one_plus_i))
        ridges.append(t)
        r = r[:i] - g_i[:i] * t
    return torch.stack(ridges[::-1])


def _columns(x: Tensor, shared: bool, *parameters: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: FBT001
    """Features first; with shared parameters the batch is flattened, and they get a dimension for it."""
    columns = x.movedim(-1, 0)
    if not shared:
        return columns, parameters
    return columns.reshape(x.shape[-1], -1), tuple(p.unsqueeze(-1) for p in parameters)


def _rows(columns: Tensor, like: Tensor) -> Tensor:
    return columns.reshape(like.shape[-1:] + like.shape[:-1]).movedim(0, -1)


def _product(matrix: Tensor, columns: Tensor, plus: Tensor) -> Tensor:
    """``matrix @ columns + plus``: one matrix for all columns, or one for each."""
    if matrix.dim() == 2:
        return torch.addmm(plus, matrix, columns)
    return (matrix * columns).sum(1) + plus


def _log_det(ridges: Tensor, one_plus: Tensor) -> Tensor:
    squares = ridges.square()
    positive = one_plus * (1 - squares) + squares  # 1 + G_ii (1 - t^2) as a sum of positive terms
    return positive.log().sum((0, 1), dtype=torch.promote_types(positive.dtype, torch.float32))

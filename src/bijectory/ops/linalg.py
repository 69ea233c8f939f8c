r"""Small linear algebra: matrices whose inverse and conditioning are known by construction, one or a batch of them.

A square matrix ``factors`` holds several factors compactly, as LAPACK does: one strictly below the diagonal, one strictly
above, one on it.

Triangular factors are :math:`I + N` with a bounded Frobenius norm, :math:`\|N\|_F < \rho`. With the row norms :math:`c_i`
of a strictly triangular :math:`N`, Cauchy-Schwarz gives :math:`\|N^k v\|^2 \le \sum_{i_1 < \dots < i_k} c_{i_1}^2 \cdots
c_{i_k}^2 \|v\|^2 \le \rho^{2k} \|v\|^2 / k!`, whatever the size, so

.. math:: \operatorname{cond}(I + N) \le (1 + \rho) \sum_{k \ge 0} \rho^k / \sqrt{k!},

which is 6.94 for :math:`\rho = 1`.
"""

import math

import torch
from torch import Tensor

from bijectory.ops.shape import feature_major, linear


def multiply(weight: Tensor, x: Tensor) -> Tensor:
    """``W x`` for every event: one matrix ``(n, n)`` or a batch ``(*batch, n, n)``; feature-major."""
    if weight.dim() == 2:
        return linear(x, weight)
    return feature_major((weight @ x.unsqueeze(-1)).squeeze(-1))


def bound_norm(matrix: Tensor, radius: float) -> Tensor:
    """Shrink matrices smoothly to a Frobenius norm below ``radius``; the identity map to first order at zero."""
    return matrix * torch.rsqrt(1 + matrix.square().sum((-2, -1), keepdim=True) / radius**2)


def shear_condition(radius: float) -> float:
    """Bound on the condition number of ``I + N`` with strictly triangular ``N`` of Frobenius norm below ``radius``."""
    total, term, k = 0.0, 1.0, 0
    while term > 1e-17 * total:
        total, k = total + term, k + 1
        term *= radius / math.sqrt(k)
    return (1 + radius) * total


def unit_triangle(factors: Tensor, max_shear: float, *, upper: bool) -> Tensor:
    """``I + N`` from the strict upper or lower triangle of ``factors``, its norm bounded by ``max_shear``."""
    strict = factors.triu(1) if upper else factors.tril(-1)
    return bound_norm(strict, max_shear) + torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)


def strict_triangles(factors: Tensor, max_shear: float) -> tuple[Tensor, Tensor]:
    """``N`` of the lower and the upper ``unit_triangle`` of a matrix, both bounded at once."""
    lower, upper = bound_norm(torch.stack((factors.tril(-1), factors.triu(1))), max_shear).unbind(0)
    return lower, upper


def solve_triangle(triangle: Tensor, y: Tensor, *, upper: bool) -> Tensor:
    """Solve a unit triangular system for every event, ``(*batch, n) -> (*batch, n)``, feature-major."""
    if triangle.dim() > 2:
        x = torch.linalg.solve_triangular(triangle, y.unsqueeze(-1), upper=upper, unitriangular=True)
        return feature_major(x.squeeze(-1))
    # Row vectors and left=False: LAPACK works on column-major rows, which is the feature-major layout, so nothing is copied.
    rows = y.reshape(-1, y.shape[-1])
    return torch.linalg.solve_triangular(triangle.mT, rows, upper=not upper, left=False, unitriangular=True).reshape(
        y.shape
    )


def reflections(vectors: Tensor) -> Tensor:
    r"""The product :math:`H_1 \cdots H_K` of reflections in ``(*batch, K, n)``, as ``(*batch, n, n)``.

    :math:`H_k = I - 2 v_k v_k^\top / \|v_k\|^2`; a vector of zeros reflects nothing. All at once by the compact form
    :math:`I - V^\top T V` of unit rows, with :math:`T^{-1} = \tfrac12 I + \operatorname{striu}(V V^\top)`. It is stable:
    no entry of :math:`T` exceeds 4.

    References:
        Modification of the Householder method based on the compact WY representation, Puglisi 1992, SIAM J. Sci. Stat.
        Comput. 13; Accumulating Householder transformations, revisited, Joffrain et al. 2006, ACM TOMS 32.
    """
    tiny = torch.finfo(vectors.dtype).tiny
    unit = vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + tiny)
    halves = 0.5 * torch.eye(vectors.shape[-2], dtype=vectors.dtype, device=vectors.device)
    core = (unit @ unit.mT).triu(1) + halves
    eye = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
    return eye - unit.mT @ torch.linalg.solve_triangular(core, unit, upper=True)


def orthonormal_columns(a: Tensor) -> Tensor:
    """Orthonormal basis ``(*, n, m)`` of the columns of ``a``: ``Q`` of the QR decomposition with positive diagonal.

    That factor is unique, and smooth where the columns of ``a`` are independent.
    """
    q, r = torch.linalg.qr(a)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def skew(factors: Tensor) -> Tensor:
    r"""The skew part of ``factors``, its norm bounded by :math:`2 \pi \sqrt n`: its exponentials are all rotations.

    Every rotation is the exponential of a skew matrix with angles of at most :math:`\pi`, whose norm is at most
    :math:`\pi \sqrt n`. Larger angles would only cost precision.
    """
    return bound_norm((factors - factors.mT) / 2, 2 * math.pi * math.sqrt(factors.shape[-1]))

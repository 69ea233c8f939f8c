"""Matrices with orthonormal columns from free parameters, exact to rounding and differentiable."""

import torch
from torch import Tensor


def orthonormal_columns(a: Tensor) -> Tensor:
    """Orthonormal basis ``(*, n, m)`` of the columns of ``a``: ``Q`` of the QR decomposition with positive diagonal.

    That factor is unique, and smooth where the columns of ``a`` are independent.
    """
    q, r = torch.linalg.qr(a)
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)


def reflect(a: Tensor, normals: Tensor) -> Tensor:
    """Apply Householder reflections to columns: ``(*, n, m), (*, k, n) -> (*, n, m)``, the last normal first."""
    unit = normals / torch.linalg.vector_norm(normals, dim=-1, keepdim=True)
    for v in reversed(unit.unbind(-2)):
        a = a - 2 * v.unsqueeze(-1) * (v.unsqueeze(-2) @ a)
    return a

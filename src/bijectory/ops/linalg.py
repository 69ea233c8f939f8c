r"""Small linear algebra: triangular factors stored compactly, and solves that keep memory feature-major.

A square matrix ``factors`` holds both factors of :math:`W = L U` as LAPACK does: strictly below the diagonal are the entries
of the unit lower triangle :math:`L`, strictly above those of :math:`U`; the diagonal of :math:`U` comes apart.
"""

import torch
from torch import Tensor


def unpack_lu(factors: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``(n, n)`` compact factors and an ``(n,)`` diagonal into unit lower ``L`` and upper ``U``."""
    lower = factors.tril(-1) + torch.eye(factors.shape[-1], dtype=factors.dtype, device=factors.device)
    return lower, factors.triu(1) + torch.diag(diagonal)


def solve_lu(lower: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """Solve ``L U y = x`` for every event: ``(*batch, n) -> (*batch, n)``, feature-major."""
    # Row vectors and left=False: LAPACK works on column-major rows, which is the feature-major layout, so nothing is copied.
    rows = x.reshape(-1, x.shape[-1])
    y = torch.linalg.solve_triangular(lower.mT, rows, upper=True, left=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper.mT, y, upper=False, left=False).reshape(x.shape)

r"""Block matrices of block autoregressive networks.

A weight of :math:`d \times d` blocks is lower block triangular with positive diagonal blocks. Composed with an increasing
activation, layers of such weights make feature :math:`i` of the output increasing in feature :math:`i` of the input, and
:math:`\partial y_i/\partial x_i` a product of the positive blocks and the slopes between them, kept as logarithms.
"""

import torch
from torch import Tensor

from bijectory.ops.scalar import logcosh


def positive_blocks(raw: Tensor, log_scale: Tensor, features: int) -> tuple[Tensor, Tensor]:
    r"""Weight-normalised block triangular matrix: :math:`W_r = e^{s_r} V_r / \|V_r\|` for every row :math:`r`.

    :math:`V` has the exponentials of ``raw`` in its diagonal blocks, ``raw`` below and 0 above.

    Args:
        raw: ``(features * o, features * i)``.
        log_scale: ``(features * o,)``, :math:`s`.
        features: Number of blocks a side.

    Returns:
        ``(features * o, features * i)``, and the logarithms of its diagonal blocks ``(features, o, i)``.
    """
    blocks = raw.unflatten(0, (features, -1)).unflatten(2, (features, -1))  # (d, o, d, i)
    log_diagonal = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)  # (d, o, i)
    index = torch.arange(features, device=raw.device)
    row, column = index[:, None, None, None], index[None, None, :, None]
    on = row == column
    v = torch.where(on, torch.where(on, blocks, 0.0).exp(), torch.where(row > column, blocks, 0.0))
    log_norm = 0.5 * v.square().sum((2, 3)).log()
    shift = log_scale.unflatten(0, (features, -1)) - log_norm
    weight = v * shift.exp()[..., None, None]
    return weight.flatten(2, 3).flatten(0, 1), log_diagonal + shift[..., None]


def log_matmul(log_a: Tensor, log_b: Tensor) -> Tensor:
    r""":math:`\log(e^{A} e^{B})` for ``(*, o, i)`` and ``(*, i, n)``, as a matrix product of what is left under the maxima.

    Example:
        >>> log_matmul(torch.zeros(2, 3), torch.full((3, 1), -1000.0)).flatten()
        tensor([-998.9014, -998.9014])
    """
    top_a, top_b = log_a.detach().amax(-1, keepdim=True), log_b.detach().amax(-2, keepdim=True)
    product = (log_a - top_a).exp() @ (log_b - top_b).exp()
    return product.log() + top_a + top_b


def log_tanh_slope(a: Tensor) -> Tensor:
    r""":math:`\log(1 - \tanh^2 a) = -2\log\cosh a`."""
    return -2 * logcosh(a)

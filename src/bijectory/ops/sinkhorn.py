r"""Entropic optimal transport between two weighted sets of points.

The plan :math:`\pi_{ij} = e^{(f_i + g_j - C_{ij}) / \epsilon}` with marginals ``a`` and ``b`` has the smallest
:math:`\langle \pi, C \rangle + \epsilon \, \mathrm{KL}(\pi \| a b^T)`. Its potentials are found by fitting the two
marginals in turn, in logarithms; with a small :math:`\epsilon` from the potentials of larger ones.

References:
    Sinkhorn Distances, Cuturi 2013, arXiv:1306.0895.
    Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems, Schmitzer 2019, arXiv:1610.06519.
"""

import torch
from torch import Tensor

CHECK_EVERY = 10


def sinkhorn(
    cost: Tensor, log_a: Tensor, log_b: Tensor, epsilon: float, *, tolerance: float = 1e-3, max_iter: int = 500
) -> Tensor:
    """Logarithm of the plan, ``(n, m)``; the sums of its rows are exact, of its columns up to the tolerance.

    Args:
        cost: ``(n, m)``.
        log_a: Log-weights of the rows, ``(n,)``, normalised.
        log_b: Log-weights of the columns, ``(m,)``, normalised.
        epsilon: Strength of the entropy, in units of the cost.
        tolerance: Total variation of the columns' sums at which to stop.
        max_iter: Cap on the iterations at the final ``epsilon``; the plan is that of the last one.

    Example:
        >>> half = torch.full((2,), 0.5).log()
        >>> plan = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), half, half, 0.01).exp()
        >>> bool(torch.allclose(plan, torch.eye(2) / 2))
        True
    """
    g = torch.zeros_like(log_b)
    level = max(float(cost.max() - cost.min()), epsilon)
    while level > epsilon:
        for _ in range(CHECK_EVERY):
            g = _column(cost, _row(cost, g, log_b, level), log_a, level)
        level = max(level / 2, epsilon)
    for k in range(max_iter):
        f = _row(cost, g, log_b, epsilon)
        if k % CHECK_EVERY == 0:
            sums = (_kernel(cost, f, g, epsilon) + log_a[:, None] + log_b).logsumexp(0)
            if float((sums.exp() - log_b.exp()).abs().sum()) / 2 <= tolerance:
                break
        g = _column(cost, f, log_a, epsilon)
    f = _row(cost, g, log_b, epsilon)
    return _kernel(cost, f, g, epsilon) + log_a[:, None] + log_b


def _kernel(cost: Tensor, f: Tensor, g: Tensor, epsilon: float) -> Tensor:
    return (f[:, None] + g - cost) / epsilon


def _row(cost: Tensor, g: Tensor, log_b: Tensor, epsilon: float) -> Tensor:
    return -epsilon * ((g - cost) / epsilon + log_b).logsumexp(1)


def _column(cost: Tensor, f: Tensor, log_a: Tensor, epsilon: float) -> Tensor:
    return -epsilon * ((f[:, None] - cost) / epsilon + log_a[:, None]).logsumexp(0)

"""Maximum likelihood."""

import torch
from torch import Tensor, nn

from bijectory.objectives.batch import Batch


def nll(model: nn.Module, batch: Batch) -> Tensor:
    r"""Weighted mean negative log-likelihood :math:`-\sum_i w_i \log p(x_i | c_i) / \sum_i w_i`, nats per event.

    Args:
        model: Called as ``model(x, c)``, it returns the log-density ``(n,)``.
        batch: ``n`` rows; without weights every row counts the same.

    Example:
        >>> from bijectory import StandardNormal
        >>> round(nll(StandardNormal(1), Batch(torch.zeros(3, 1))).item(), 4)
        0.9189
    """
    return -weighted_mean(model(batch.x, batch.c), batch.weight)


def weighted_mean(value: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``(n,)`` with weights ``(n,)``; without weights every row counts the same."""
    if weight is None:
        return value.mean()
    total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)  # a batch of zero weights gives 0
    return (weight * value).sum() / total

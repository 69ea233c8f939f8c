"""Averages of independent estimates."""

import torch
from torch import Tensor


def mean_and_error(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of ``(k, *batch)`` estimates and its standard error ``(*batch,)``; NaN for the latter if ``k = 1``.

    Example:
        >>> mean_and_error(torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.))
    """
    k = len(estimates)
    spread = estimates.std(0) if k > 1 else torch.full_like(estimates[0], torch.nan)
    return estimates.mean(0), spread / k**0.5

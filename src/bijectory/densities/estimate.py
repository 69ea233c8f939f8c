"""Log-densities of flows whose log-determinant is estimated, with a standard error."""

import copy

import torch
from torch import Tensor

from bijectory.densities.flow import Flow
from bijectory.errors import ConfigError, check
from bijectory.transforms.base import Transform


def log_prob_and_error(
    flow: Flow, x: Tensor, c: Tensor | None = None, *, samples: int = 16, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-density from independent draws of whatever randomness the layers use, and its standard error.

    Works on a copy in evaluation mode, of which only the layers that estimate their log-determinant draw as in training.
    Unbiased as far as the layers are (``Residual`` with the roulette is). The error is 0 for an exact flow. No gradients.

    Args:
        flow: Any flow.
        x: ``(*batch, *event)``.
        c: Context.
        samples: Number of independent estimates, at least 2.
        seed: Of the draws; the global generators stay as they are.

    Returns:
        Estimate and standard error, ``(*batch,)`` each.

    Raises:
        ConfigError: If ``samples < 2``.

    Example:
        >>> from bijectory import residual
        >>> logp, error = log_prob_and_error(residual(2, layers=1, ladj="roulette"), torch.zeros(5, 2))
        >>> logp.shape, bool((error > 0).all())
        (torch.Size([5]), True)
    """
    check(samples >= 2, ConfigError, f"a standard error needs at least 2 samples, got {samples}.")
    flow = copy.deepcopy(flow).eval()
    for module in flow.modules():
        if isinstance(module, Transform) and not module.exact:
            module.training = True  # of this layer, not of its networks
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        draws = torch.stack([flow.log_prob(x, c) for _ in range(samples)])
    return draws.mean(0), draws.std(0) / samples**0.5

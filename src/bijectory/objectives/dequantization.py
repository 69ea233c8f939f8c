"""Training of a dequantized density: the bound with fresh noise in every step."""

from torch import Tensor

from bijectory.densities import Dequantized
from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import weighted_mean


def dequantized_nll(model: Dequantized, batch: Batch, samples: int = 1) -> Tensor:
    r"""Weighted mean of the bound on :math:`-\log P(x)` under fresh noise, nats per event: trains flow and noise together.

    The noise comes from the global random generator, whose state ``fit`` seeds, stores in checkpoints and restores: a
    resumed run draws the same noise as an uninterrupted one, and validation always the same.

    Args:
        model: A dequantized density.
        batch: ``n`` rows of whole-number pixels.
        samples: Noise samples of each row; more than one trains the tighter, importance-weighted bound.

    References:
        Ho et al. 2019, Flow++, arXiv:1902.00275, eq. 12. Hoogeboom, Cohen, Tomczak 2020, Learning discrete distributions
        by dequantization, arXiv:2001.11235, for more than one sample.

    Example:
        >>> import torch
        >>> from bijectory import BoxUniform
        >>> model = Dequantized(BoxUniform(3, 0.0, 4.0), levels=4)
        >>> round(dequantized_nll(model, Batch(torch.tensor([[0.0, 1.0, 3.0]]))).item(), 4)  # 3 log 4
        4.1589
    """
    return -weighted_mean(model.bound(batch.x, batch.c, samples=samples), batch.weight)

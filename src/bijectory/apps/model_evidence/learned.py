"""A flow learned from posterior draws, for the estimators that need a normalised density and are given none."""

import numpy as np
import torch
from numpy.typing import NDArray

from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.densities import Flow
from bijectory.errors import DataError, check
from bijectory.recipes import nsf
from bijectory.training import FitConfig, fit
from bijectory.training.rng import isolated
from bijectory.transforms import Chain, Whiten

HIDDEN, LAYERS = (32, 32), 3
STEPS, BATCH, EPOCHS = 250, 256, 100


def learn_density(draws: NDArray[np.float64], density: UnnormalizedDensity, *, seed: int = 0) -> Flow:
    """A small neural spline flow fitted to draws by maximum likelihood, within the supports of the parameters.

    Args:
        draws: ``(chains, n, width)``.
        density: Whose parameters they are.
        seed: Of weights, split and order.

    Raises:
        DataError: If there are too few draws to tell a covariance.
    """
    width = density.parameters.width
    x = torch.from_numpy(draws).reshape(-1, width)
    check(len(x) >= 10 * (width + 1), DataError, f"{len(x)} draws are too few to learn a density of {width} columns.")
    with torch.no_grad():
        u, _ = density.map.forward(x)
    root, info = torch.linalg.cholesky_ex(torch.cov(u.mT).reshape(width, width))
    check(int(info) == 0, DataError, "the draws have a singular covariance; leave out columns that do not vary.")
    with isolated(seed):
        inner = nsf(width, hidden=HIDDEN, layers=LAYERS).double()
        flow = Flow(
            Chain(density.parameters.unconstrain(), Whiten(width, u.mean(0), root), inner.transform), inner.base
        )
        flow = flow.double()
        per_epoch = max(1, round(0.85 * len(x) / BATCH))
        config = FitConfig(
            epochs=min(EPOCHS, max(1, STEPS // per_epoch)),
            batch_size=BATCH,
            lr=3e-3,
            warmup_steps=20,
            patience=15,
            validation_fraction=0.15,
            seed=seed,
            progress=False,
        )
        fit(flow, x[torch.randperm(len(x))], config=config)
    return flow.requires_grad_(requires_grad=False)

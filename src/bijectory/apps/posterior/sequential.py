r"""Truncated sequential inference (TSNPE): simulations are spent where one observation has its posterior.

After each round the prior is cut down to the region of highest density that holds all but a part ``epsilon`` of the
posterior, new parameters are drawn from what is left by rejection, and the posterior is learned anew from all pairs with
the plain loss. Because the cut prior is proportional to the prior wherever the posterior is, no correction is needed. The
result is a posterior for that observation (and near it), no longer for every one.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bijectory.apps.posterior.neural import NeuralPosterior, PosteriorFit, fit_npe
from bijectory.apps.posterior.prior import Prior, as_prior
from bijectory.apps.posterior.simulations import Simulations, Simulator, check_observation, run, simulate
from bijectory.errors import ConfigError, ConvergenceError, check

TRIES = 200  # batches of prior draws before the region counts as too small to be hit


def fit_sequentially(
    prior: Any,
    simulator: Simulator,
    x: Any,
    *,
    simulations: int = 1000,
    rounds: int = 5,
    epsilon: float = 1e-4,
    missing: str = "drop",
    seed: int = 0,
    fit: Callable[..., PosteriorFit] = fit_npe,
) -> PosteriorFit:
    """Learn the posterior of one observation in rounds.

    Args:
        prior: A ``Prior``, or what makes one.
        simulator: ``theta (m, features) -> x (m, *event)``.
        x: The observation.
        simulations: In each round.
        rounds: Number of rounds; 1 is plain NPE.
        epsilon: Part of the posterior that a cut may cost.
        missing: See ``Simulations.of``.
        seed: Of everything.
        fit: ``(simulations, prior) -> PosteriorFit`` with a ``NeuralPosterior``; use ``functools.partial`` for settings.

    Returns:
        Of the last round, its posterior at ``x``.

    Raises:
        ConvergenceError: If hardly any draw of the prior hits the region; use more simulations in fewer rounds.

    References:
        Truncated proposals for scalable and hassle-free simulation-based inference, Deistler, Goncalves, Macke 2022,
        arXiv:2210.04815, algorithm 1.

    Example:
        >>> import functools
        >>> from bijectory.apps.posterior import box_uniform, fit_npe, posterior_config
        >>> quick = functools.partial(fit_npe, ensemble=1, config=posterior_config(200, epochs=2))
        >>> simulator = lambda theta: theta + 0.1 * torch.randn(theta.shape)
        >>> fitted = fit_sequentially(
        ...     box_uniform([0.0], [1.0]), simulator, [0.5], simulations=200, rounds=2, fit=quick
        ... )
        >>> len(fitted.simulations)
        400
    """
    known = as_prior(prior)
    check(rounds >= 1, ConfigError, f"rounds must be at least 1, got {rounds}.")
    check(0 < epsilon < 0.5, ConfigError, f"epsilon must be in (0, 0.5), got {epsilon}.")
    pairs: Simulations = simulate(known, simulator, simulations, missing=missing, seed=seed)
    check_observation(x, pairs.event_shape, missing=missing)
    found = fit(pairs, known)
    for k in range(1, rounds):
        posterior = found.posterior.at(x)
        theta, share = truncated(known, posterior, simulations, epsilon, seed=seed + 1000 * k)
        pairs = pairs.join(run(theta, simulator, missing=missing, seed=seed + 1000 * k + 1))
        found = fit(pairs, known)
    note = f"learned in {rounds} rounds at one observation: do not use it for others."
    if rounds > 1:
        note += f" The last round drew from {share:.2g} of the prior."
    posterior = found.posterior.at(x)
    check(isinstance(posterior, NeuralPosterior), ConfigError, "sequential inference is for NPE and FMPE.")
    return PosteriorFit(posterior, found.result, pairs, (*found.notes, note))


def truncated(
    prior: Prior, posterior: Any, n: int, epsilon: float, *, draws: int = 10_000, seed: int = 0
) -> tuple[Tensor, float]:
    """Draws ``(n, features)`` of the prior cut to the region of highest density, and the part of the prior it holds."""
    own = posterior.log_prob(posterior.sample(draws, seed=seed))
    threshold = float(torch.quantile(own, epsilon))
    kept, tried, count = [], 0, 0
    for k in range(TRIES):
        theta = prior.sample(draws, seed=seed + 1 + k)
        inside = theta[posterior.log_prob(theta) >= threshold]
        kept.append(inside)
        tried, count = tried + draws, count + len(inside)
        if count >= n:
            break
    message = (
        f"only {count} of {tried} draws of the prior lie in the region; use fewer rounds with more simulations each."
    )
    check(count >= n and math.isfinite(threshold), ConvergenceError, message)
    return torch.cat(kept)[:n], count / tried

r"""Recalibration: a posterior that failed its checks, repaired with held-out pairs.

The latent of the true parameters, :math:`z = f(\theta; x)`, is standard normal if the posterior is right. Otherwise its
distribution :math:`g(z)` over held-out pairs is learned by a second, small flow, which comes between latent and base:

.. math:: q'(\theta|x) = g(f(\theta; x))\,\bigl|\det \partial f / \partial\theta\bigr|

The result is an exact density with exact samples again. What it repairs is what does not depend on the data: a posterior
that is too narrow or too wide, shifted, or wrong in shape everywhere alike. With ``local=True`` the second flow sees the
data too, which repairs more and needs more pairs.
"""

import copy
from typing import Any

import torch
from torch import nn

from bijectory.apps.posterior.neural import NeuralPosterior
from bijectory.apps.posterior.simulations import Simulations
from bijectory.densities import Ensemble, Flow, StandardNormal
from bijectory.errors import ConfigError, DataError, check
from bijectory.recipes import nsf
from bijectory.training import FitConfig, fit
from bijectory.transforms import Chain, Regression

LEAST_PAIRS = 100


def recalibrate(
    posterior: NeuralPosterior,
    pairs: Simulations | tuple[Any, Any],
    *,
    local: bool = False,
    seed: int = 0,
    config: FitConfig | None = None,
) -> NeuralPosterior:
    """A posterior whose latent density has been learned from held-out pairs, by maximum likelihood.

    The layers stay as they are; all members of an ensemble share the new ones.

    Args:
        posterior: A neural posterior.
        pairs: Simulations from the prior that neither trained it nor will test the result, at least 100.
        local: Whether the new layers depend on the data.
        seed: Of the fit.
        config: Settings of the fit.

    Raises:
        ConfigError: If the posterior is no flow, or an ensemble of flows.
        DataError: With fewer than 100 pairs.

    References:
        Calibrated Predictive Distributions via Diagnostics for Conditional Coverage, Dey, Zhao, Andrews, Newman, Izbicki,
        Lee 2022, arXiv:2205.14568 (one parameter at a time, by its PIT; here all at once, by the latent).

    Example:
        >>> from bijectory.apps.posterior import Prior
        >>> from bijectory import Standardize, real_nvp
        >>> from torch.distributions import Normal
        >>> layers = real_nvp(1, context=1, layers=2, hidden=(8,)).transform  # the identity before training
        >>> narrow = Flow(Chain(Standardize(1, [0.0], [0.5]), layers), StandardNormal(1)).double()
        >>> posterior = NeuralPosterior(narrow, Prior([Normal(0.0, 1.0)]), (1,))
        >>> theta = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        >>> better = recalibrate(posterior, (theta, torch.zeros(500, 1)))
        >>> 0.9 < better.sample(2000, [0.0], seed=0).std().item() < 1.1
        True
    """
    found = pairs if isinstance(pairs, Simulations) else Simulations.of(*pairs)
    message = f"recalibration needs at least {LEAST_PAIRS} pairs, got {len(found)}."
    check(len(found) >= LEAST_PAIRS, DataError, message)
    density = copy.deepcopy(posterior.density).requires_grad_(requires_grad=False)
    flows: list[nn.Module] = list(density.members) if isinstance(density, Ensemble) else [density]
    usable = all(isinstance(f, Flow) and isinstance(f.base, StandardNormal) and f.base.event_shape for f in flows)
    remedy = "recalibrate a posterior that fit_npe made, and only once"
    check(usable, ConfigError, f"recalibration needs flows with a standard normal base; {remedy}.")
    features = density.event_shape[0]
    with torch.no_grad():
        z, _ = _first(flows).to_latent(found.theta, found.x)
    context = _first(flows).context if local else 0
    whiten = Regression(features).double()
    whiten.initialize(z)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        core = nsf(features, context, layers=2, hidden=(32, 32))
    more = Chain(whiten, core.transform).double()
    new = [_longer(flow, more) for flow in flows]
    density = Ensemble(*new) if isinstance(posterior.density, Ensemble) else new[0]
    settings = config or FitConfig(epochs=100, batch_size=100, patience=15, weight_decay=0.1, progress=False, seed=seed)
    fit(density, (found.theta, found.x), config=settings)
    density.requires_grad_(requires_grad=False)
    result = NeuralPosterior(density, posterior.prior, posterior.event_shape, missing=posterior.missing)
    result.x = posterior.x
    return result


def _first(flows: list[nn.Module]) -> Flow:
    flow = flows[0]
    if not isinstance(flow, Flow):
        raise ConfigError(f"recalibration needs flows, got a {type(flow).__name__}.")
    return flow


def _longer(flow: nn.Module, more: Chain) -> Flow:
    known = _first([flow])
    return Flow(Chain(known.transform, more), known.base, known.embed)

r"""Neural likelihood and ratio estimation: the likelihood is learned, the posterior sampled by Markov chains.

NLE learns a conditional flow :math:`q(x|\theta)`. NRE learns the ratio :math:`r(\theta, x) = p(x|\theta) / p(x)` with a
classifier that tells which of several parameters belongs to the data (contrastive). Both give

.. math:: p(\theta | x_1, \dots, x_n) \propto p(\theta) \prod_i q(x_i | \theta)

for any number of independent observations, without learning anew. The chains run in the unconstrained coordinates of the
prior, so they stay inside its bounds.

References: Papamakarios, Sterratt, Murray 2018, arXiv:1805.07226 (NLE); Durkan, Murray, Papamakarios 2020,
arXiv:2002.03712 (contrastive NRE).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.apps.posterior.base import Posterior
from bijectory.apps.posterior.eyes import Embed, Eyes
from bijectory.apps.posterior.neural import (
    PosteriorFit,
    Recipe,
    build,
    check_pairs,
    join,
    posterior_config,
)
from bijectory.apps.posterior.prior import Prior, as_prior
from bijectory.apps.posterior.simulations import Simulations, rows
from bijectory.apps.posterior.slices import slice_sample
from bijectory.densities import Ensemble
from bijectory.errors import ConfigError, ShapeError, check
from bijectory.nets import MLP
from bijectory.objectives import Batch
from bijectory.tables import DataWarning
from bijectory.training import Data, FitConfig, fit_ensemble
from bijectory.transforms import Chain, Regression, Standardize

CHAINS, WARMUP, PROPOSALS = 200, 100, 10_000
FEW_CHAINS, FEW_PROPOSALS = 10, 4000  # for each of many observations
LogLikelihood = Callable[[Tensor, Tensor], Tensor]


class SampledPosterior(Posterior):
    r"""Posterior of a learned log-likelihood (or log-ratio), sampled by vectorised slice sampling.

    ``log_prob`` is :math:`\log p(\theta) + \sum_i \log q(x_i|\theta)`, unnormalised. An observation is one event, or
    ``(n, *event)``: independent observations of the same parameters. Each chain starts at a draw of the prior, chosen among
    10,000 with probability proportional to its likelihood, which finds modes that a chain would not cross to.

    Args:
        log_likelihood: ``(theta (*batch, features), x (*batch, *event)) -> (*batch,)``, up to a constant in theta.
        prior: The prior.
        event_shape: Shape of one observation.
        missing: Whether the log-likelihood takes observations with NaN for what is missing.

    Example:
        >>> from bijectory.apps.posterior import box_uniform
        >>> likelihood = lambda theta, x: -50 * (x - theta).square().sum(-1)
        >>> posterior = SampledPosterior(likelihood, box_uniform([0.0], [1.0]), (1,))
        >>> draws = posterior.sample(500, torch.full((4, 1), 0.5), seed=0)
        >>> draws.shape, 0.04 < draws.std().item() < 0.06
        (torch.Size([500, 1]), True)
    """

    normalised = False

    def __init__(
        self,
        log_likelihood: LogLikelihood,
        prior: Prior,
        event_shape: torch.Size | tuple[int, ...],
        *,
        missing: bool = False,
    ) -> None:
        self.log_likelihood, self.prior, self.event_shape = log_likelihood, prior, torch.Size(event_shape)
        self.missing = missing

    def __repr__(self) -> str:
        return f"SampledPosterior({', '.join(self.prior.names)} | x {tuple(self.event_shape)})"

    def _read(self, x: Any) -> Tensor:
        value = rows(x, "x")
        if value.shape == self.event_shape:
            value = value[None]
        many = value.dim() == 1 + len(self.event_shape) and value.shape[1:] == self.event_shape
        expected = f"expected {tuple(self.event_shape)}, or (n, *event) for n independent observations"
        check(many, ShapeError, f"the observation has shape {tuple(value.shape)}; {expected}.")
        self._check_finite(value)
        return value

    def _log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """With ``x (n, *event)``: the observations of one experiment, whose terms add."""
        each = self.log_likelihood(theta.unsqueeze(-2), x)
        return self.prior.log_prob(theta) + each.sum(-1)

    def log_prob_each(self, theta: Tensor, x: Tensor) -> Tensor:
        one = [self._scored(theta[..., k, :], x[k : k + 1]) for k in range(len(x))]
        return torch.stack(one, -1)

    def sample_each(self, n: int, x: Tensor, *, seed: int | None = None) -> Tensor:
        """As ``sample`` for each row of ``x``; of vectors all at once, with fewer chains and starts for each."""
        if x.dim() > 2:
            each = [self._sample(n, one[None], None if seed is None else seed + k) for k, one in enumerate(x)]
            return torch.stack(each, 1)
        m, d, generator, way = len(x), self.prior.features, _generator(seed), self.prior.unconstrain()
        with torch.no_grad():

            def target(u: Tensor, x: Tensor) -> Tensor:
                theta, ladj = way.inverse(u)
                found = self.log_likelihood(theta, x) + self.prior.log_prob(theta) + ladj
                return torch.where(found.isnan(), -torch.inf, found)

            theta = self.prior.sample(FEW_PROPOSALS, seed=int(torch.randint(2**31, (), generator=generator)))
            u = way.forward(theta)[0]
            start, width = [], []
            for part in x.split(10):
                share = self._shares(self.log_likelihood(theta[:, None], part)).mT
                chosen = torch.multinomial(share, FEW_CHAINS, replacement=True, generator=generator)
                start.append(u[chosen])
                width.append(_scale(share, u)[:, None].expand(-1, FEW_CHAINS, -1))
            keep = max(1, -(-n // FEW_CHAINS))
            kept = slice_sample(
                target,
                torch.cat(start).reshape(-1, d),
                WARMUP + 2 * max(keep, 20) * max(1, d // 2),
                width=torch.cat(width).reshape(-1, d),
                keep=keep,
                generator=generator,
                given=x.repeat_interleave(FEW_CHAINS, 0),
            )
            draws: Tensor = way.inverse(kept.reshape(keep, m, FEW_CHAINS, d).transpose(1, 2).reshape(-1, m, d))[0]
        return draws[torch.randperm(len(draws), generator=generator)[:n]]

    @staticmethod
    def _shares(weight: Tensor) -> Tensor:
        return torch.softmax(torch.where(weight.isnan(), -torch.inf, weight), 0)

    def _sample(self, n: int, x: Tensor, seed: int | None) -> Tensor:
        generator = _generator(seed)
        way = self.prior.unconstrain()
        with torch.no_grad():

            def target(u: Tensor) -> Tensor:
                theta, ladj = way.inverse(u)
                found = self._log_prob(theta, x) + ladj
                return torch.where(found.isnan(), -torch.inf, found)

            theta = self.prior.sample(PROPOSALS, seed=int(torch.randint(2**31, (), generator=generator)))
            weight = torch.cat([self._log_prob(part, x) for part in theta.split(2000)]) - self.prior.log_prob(theta)
            share = self._shares(weight)
            u = way.forward(theta)[0]
            chosen = torch.multinomial(share, CHAINS, replacement=True, generator=generator)
            width = _scale(share, u)
            keep = -(-n // CHAINS)
            steps = WARMUP + 2 * max(keep, 20) * max(1, self.prior.features // 2)
            kept = slice_sample(target, u[chosen], steps, width=width, keep=max(keep, 1), generator=generator)
            draws: Tensor = way.inverse(kept.reshape(-1, self.prior.features))[0]
        return draws[torch.randperm(len(draws), generator=generator)[:n]]


def _generator(seed: int | None) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _scale(share: Tensor, u: Tensor) -> Tensor:
    """Deviation ``(*batch, features)`` of the points ``u (n, features)`` with weights ``(*batch, n)``, not too small."""
    near = u - u.mean(0)
    spread = (share @ near.square() - (share @ near).square()).clamp(min=0).sqrt()
    return torch.maximum(spread, 1e-3 * u.std(0))


class Likelihood:
    """A flow ``q(x | theta)`` as a log-likelihood."""

    def __init__(self, density: Ensemble) -> None:
        self.density = density

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """``(*batch, features), (*batch, *event) -> (*batch,)``."""
        return self.density.log_prob(x, theta)


def fit_nle(
    simulations: Simulations | tuple[Any, Any],
    prior: Any,
    *,
    recipe: Recipe = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    ensemble: int = 5,
    config: FitConfig | None = None,
) -> PosteriorFit:
    """Learn the likelihood of one observation, a vector (NLE).

    Args:
        simulations: ``Simulations``, or ``(theta, x)``; theta from any distribution that covers the posterior.
        prior: A ``Prior``, or what makes one.
        recipe: As in ``fit_npe``.
        recipe_args: Keywords of the recipe.
        ensemble: Number of flows.
        config: Settings of training; None for ``posterior_config``.

    Example:
        >>> from bijectory.apps.posterior import box_uniform, simulate
        >>> prior = box_uniform([0.0], [1.0])
        >>> pairs = simulate(prior, lambda theta: theta + 0.1 * torch.randn(len(theta), 2), 300)
        >>> fitted = fit_nle(pairs, prior, ensemble=2, config=posterior_config(300, epochs=2))
        >>> fitted.posterior.at([[0.5, 0.4], [0.6, 0.5]])
        SampledPosterior(theta0 | x (2,))
    """
    pairs, known = _pairs(simulations, prior)
    vectors = pairs.x.dim() == 2 and not bool(pairs.x.isnan().any())
    check(vectors, ConfigError, "NLE models x: it takes complete vectors; use NPE or NRE with an embedding.")
    check(ensemble >= 1, ConfigError, f"ensemble must be at least 1, got {ensemble}.")
    settings = config or posterior_config(len(pairs))
    eyes = Eyes(pairs.theta, None)
    c = eyes.encode(pairs.theta)
    scale = Standardize(pairs.x.shape[1]).double()
    scale.initialize(pairs.x)
    regression = Regression(pairs.x.shape[1], known.features).double()
    with torch.no_grad():
        regression.initialize(scale.forward(pairs.x)[0], c)
        way = Chain(scale, regression)
        z = way.forward(pairs.x, c)[0]
    flows = build(recipe, pairs.x.shape[1], eyes, recipe_args, ensemble, settings.seed)
    result = fit_ensemble(flows, Data(z.float(), c.float()), config=settings)
    density = Ensemble(*(join(way, flow, eyes) for flow in flows)).double().eval().requires_grad_(requires_grad=False)
    return PosteriorFit(SampledPosterior(Likelihood(density), known, pairs.event_shape), result, pairs, pairs.notes)


class Ratio(nn.Module):
    r"""A classifier's logit :math:`\log r(\theta, x)`, up to a function of :math:`x`."""

    def __init__(
        self, features: int, width: int, embed: nn.Module | None, hidden: tuple[int, ...] = (64, 64, 64)
    ) -> None:
        super().__init__()
        self.embed = embed
        self.net = MLP(features, 1, hidden, width, head_scale=1.0)

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Standardised parameters and observations to the logit."""
        c = x if self.embed is None else self.embed(x)
        return self.net(theta, c).squeeze(-1)


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    r"""Cross-entropy of telling the parameters of ``x`` from those of the other rows of the batch (NRE-B).

    References:
        On Contrastive Learning for Likelihood-free Inference, Durkan, Murray, Papamakarios 2020, arXiv:2002.03712, eq. 8.
    """
    others = [batch.x.roll(k, 0) for k in range(1, min(10, len(batch.x)))]
    logits = torch.stack([model(theta, batch.c) for theta in (batch.x, *others)])
    return -logits.log_softmax(0)[0].mean()


class RatioEnsemble:
    """Mean logit of several classifiers of standardised inputs."""

    def __init__(self, members: list[Ratio], theta: Eyes, x: Eyes) -> None:
        self.members, self.theta, self.x = [m.double().eval() for m in members], theta, x

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """``(*batch, features), (*batch, *event) -> (*batch,)``."""
        a, b = self.theta.first(theta), self.x.first(x)
        return torch.stack([m(a, b) for m in self.members]).mean(0)


def fit_nre(
    simulations: Simulations | tuple[Any, Any],
    prior: Any,
    *,
    embed: Embed = None,
    ensemble: int = 5,
    config: FitConfig | None = None,
) -> PosteriorFit:
    """Learn the likelihood-to-evidence ratio of one observation (NRE, contrastive).

    Args:
        simulations: ``Simulations``, or ``(theta, x)``; theta drawn from the prior.
        prior: A ``Prior``, or what makes one.
        embed: As in ``fit_npe``.
        ensemble: Number of classifiers.
        config: Settings of training; None for ``posterior_config``.

    Example:
        >>> from bijectory.apps.posterior import box_uniform, simulate
        >>> prior = box_uniform([0.0], [1.0])
        >>> pairs = simulate(prior, lambda theta: theta + 0.1 * torch.randn(len(theta), 2), 300)
        >>> fitted = fit_nre(pairs, prior, ensemble=2, config=posterior_config(300, epochs=2))
        >>> fitted.posterior.normalised
        False
    """
    pairs, known = _pairs(simulations, prior)
    check(ensemble >= 1, ConfigError, f"ensemble must be at least 1, got {ensemble}.")
    settings = config or posterior_config(len(pairs))
    first, eyes = Eyes(pairs.theta, None), Eyes(pairs.x, embed)
    members = []
    with torch.random.fork_rng(devices=[]):
        for k in range(ensemble):
            torch.manual_seed(settings.seed + k)
            net, width = eyes.open()
            members.append(Ratio(known.features, width, net))
    data = Data(first.encode(pairs.theta).float(), eyes.encode(pairs.x).float())
    result = fit_ensemble(members, data, objective=contrast, config=settings)
    for member in members:
        member.requires_grad_(requires_grad=False)
    ratio = RatioEnsemble(members, first, eyes)
    posterior = SampledPosterior(ratio, known, pairs.event_shape, missing=pairs.incomplete)
    return PosteriorFit(posterior, result, pairs, pairs.notes)


def _pairs(simulations: Simulations | tuple[Any, Any], prior: Any) -> tuple[Simulations, Prior]:
    pairs = simulations if isinstance(simulations, Simulations) else Simulations.of(*simulations)
    known = as_prior(prior)
    check_pairs(pairs, known)
    for note in pairs.notes:
        warnings.warn(note, DataWarning, stacklevel=3)
    return pairs, known

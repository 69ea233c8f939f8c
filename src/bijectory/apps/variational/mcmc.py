r"""Markov chains that start from a flow and correct it: independence Metropolis, and Hamiltonian moves in latent space.

*Independence Metropolis* proposes draws of the flow (with a safety net, see ``proposal``); with :math:`w = \tilde p / q` a
proposal is accepted with probability :math:`\min(1, w'/w)`. It crosses between modes, and gets stuck where ``w`` is large:
where the flow is too thin.

*NeuTra* runs Hamiltonian Monte Carlo on the latent density :math:`\pi(z) = \tilde p(x(z))\,|\det \partial x/\partial z|`,
which is nearly a standard normal whatever the shape of the posterior. The step size is adapted during the warm-up by dual
averaging. After every Hamiltonian move a draw from the base is proposed as well, so the chains cross between modes that
the flow covers. All chains move together as one batch.

References:
    NeuTra-lizing Bad Geometry in HMC Using Neural Transport, Hoffman+ 2019, arXiv:1903.03704.
    The No-U-Turn Sampler, Hoffman, Gelman 2014, arXiv:1111.4246, alg. 5 (dual averaging).
    Adaptive Monte Carlo augmented with normalizing flows, Gabrié, Rotskoff, Vanden-Eijnden 2022, arXiv:2105.12603.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from bijectory.apps.variational.chains import Chains
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.diagnostics import Weighted
from bijectory.apps.variational.proposal import draw
from bijectory.densities import Flow

TARGET, TRAJECTORY, MAX_LEAPS = 0.8, 1.5, 24
DIVERGENCE = 1000.0  # nats of energy error
FAR = 1e3  # no latent of interest lies beyond


def independence_metropolis(
    flow: Flow,
    density: UnnormalizedDensity,
    start: Weighted,
    *,
    chains: int,
    draws: int,
    thin: int,
    generator: torch.Generator,
) -> Chains:
    """Metropolis with draws of the flow as proposals; ``draws * thin`` proposals for each chain."""
    first = start.weights.resample(chains, generator=generator)
    x, log_w = start.x[first], start.weights.log_ratios[first]  # the same proposal
    kept, accepted = [], 0.0
    for _ in range(draws):
        drawn = draw(flow, thin * chains, generator)
        with torch.no_grad():
            flat = density.tolerant(drawn.x) - drawn.log_prob
        ratios = torch.where(flat.isnan(), -math.inf, flat).reshape(thin, chains)
        new = drawn.x.reshape(thin, chains, -1)
        u = torch.rand(thin, chains, generator=generator, dtype=torch.float64).log()
        for k in range(thin):
            accept = u[k] < ratios[k] - log_w
            x = torch.where(accept.unsqueeze(-1), new[k], x)
            log_w = torch.where(accept, ratios[k], log_w)
            accepted += float(accept.double().mean())
        kept.append(x)
    out = torch.stack(kept, 1).numpy()
    return Chains(out, density.parameters.columns, "independence", accepted / (draws * thin), 0.0, 0)


def neutra(
    flow: Flow,
    density: UnnormalizedDensity,
    start: Weighted,
    *,
    chains: int,
    draws: int,
    warmup: int,
    generator: torch.Generator,
) -> Chains:
    """Hamiltonian Monte Carlo in latent space, with a draw of the base proposed after each move."""
    target = Latent(flow, density)
    # Half from the corrected draws, half from the flow's own: R-hat then sees whether both lead to the same place.
    chosen = torch.cat(
        [
            start.weights.resample(chains - chains // 2, generator=generator),
            _inside(start, chains // 2, generator),
        ]
    )
    with torch.no_grad():
        z = flow.to_latent(start.x[chosen])[0]
    log_p, g = target.gradient(z)
    rate = DualAveraging(0.5 * z.shape[-1] ** -0.25)
    kept, accepted, divergences = [], 0.0, 0
    for t in range(warmup + draws):
        jitter = float(torch.empty(()).uniform_(0.8, 1.2, generator=generator))
        step = (rate.step if t < warmup else rate.final) * jitter
        z, log_p, g, probability, bad = hamiltonian(target, z, log_p, g, step, generator)
        z, log_p, g = _global_move(target, flow, z, log_p, g, generator)
        if t < warmup:
            rate.update(float(probability.mean()))
        else:
            kept.append(target.data(z))
            accepted += float(probability.mean())
            divergences += bad
    out = torch.stack(kept, 1).numpy()
    return Chains(out, density.parameters.columns, "neutra", accepted / draws, rate.final, divergences)


def _inside(start: Weighted, n: int, generator: torch.Generator) -> Tensor:
    """Draws of the flow, unweighted, where the target is not zero."""
    alive = start.weights.log_ratios.isfinite().nonzero().flatten()
    return alive[torch.randint(len(alive), (n,), generator=generator)]


class Target(Protocol):
    """What Hamiltonian moves need of a log-density."""

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(n,)`` and gradients ``(n, width)``."""


class Latent:
    """The target in latent space."""

    def __init__(self, flow: Flow, density: UnnormalizedDensity) -> None:
        self.flow, self.density = flow, density

    def value(self, z: Tensor) -> Tensor:
        """Log-density, ``-inf`` where it cannot be evaluated."""
        x, ladj = self.flow.to_data(z)
        total = self.density.tolerant(x) + ladj
        return torch.where(total.isnan(), -math.inf, total)

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and its gradient, zero where that is not finite."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = self.value(leaf)
            (g,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), torch.where(g.isfinite(), g, 0.0)

    @torch.no_grad()
    def data(self, z: Tensor) -> Tensor:
        """The parameters at latents."""
        return self.flow.to_data(z)[0]


class DualAveraging:
    """Step size whose mean acceptance tends to 0.8; parameters as published (gamma 0.05, t0 10, kappa 0.75)."""

    def __init__(self, step: float) -> None:
        self.mu, self.step, self.final = math.log(10 * step), step, step
        self.error, self.mean, self.t = 0.0, 0.0, 0

    def update(self, acceptance: float) -> None:
        """Learn from one move."""
        self.t += 1
        share = 1 / (self.t + 10)
        self.error = (1 - share) * self.error + share * (TARGET - acceptance)
        log_step = self.mu - math.sqrt(self.t) / 0.05 * self.error
        weight = self.t**-0.75
        self.mean = weight * log_step + (1 - weight) * self.mean
        self.step, self.final = math.exp(min(log_step, 1.0)), math.exp(min(self.mean, 1.0))


def hamiltonian(
    target: Target, z: Tensor, log_p: Tensor, g: Tensor, step: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """One trajectory of every chain; state, probability of acceptance, and how many ran away."""
    momentum = torch.randn(z.shape, generator=generator, dtype=z.dtype)
    energy = log_p - 0.5 * momentum.square().sum(-1)
    leaps = min(MAX_LEAPS, max(1, math.ceil(TRAJECTORY / step)))
    q, p, value, slope = z, momentum, log_p, g
    for _ in range(leaps):
        p = p + 0.5 * step * slope
        q = (q + step * p).clamp(-FAR, FAR)
        value, slope = target.gradient(q)
        p = p + 0.5 * step * slope
    error = value - 0.5 * p.square().sum(-1) - energy
    error = torch.where(error.isnan(), -math.inf, error)
    probability = error.clamp(max=0).exp()
    accept = torch.rand(len(z), generator=generator, dtype=z.dtype) < probability
    row = accept.unsqueeze(-1)
    z, g = torch.where(row, q, z), torch.where(row, slope, g)
    return z, torch.where(accept, value, log_p), g, probability, int((error < -DIVERGENCE).sum())


def _global_move(
    target: Latent, flow: Flow, z: Tensor, log_p: Tensor, g: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Propose a draw of the base to every chain."""
    with torch.no_grad():
        new = flow.base.sample(len(z), generator=generator)
        log_old = log_p - flow.base.log_prob(z)
    value, slope = target.gradient(new)
    with torch.no_grad():
        log_new = value - flow.base.log_prob(new)
    accept = torch.rand(len(z), generator=generator, dtype=z.dtype).log() < log_new - log_old
    row = accept.unsqueeze(-1)
    return torch.where(row, new, z), torch.where(accept, value, log_p), torch.where(row, slope, g)

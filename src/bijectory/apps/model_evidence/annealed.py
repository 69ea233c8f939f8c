r"""Evidence by annealed importance sampling: from a normalised density to the posterior in small, corrected steps.

In the latent space of a flow, where its base :math:`q` is a standard normal and the posterior is
:math:`\pi(z) = \tilde p(x(z))\,|\det\partial x/\partial z|`, particles pass through :math:`q^{1-\beta} \pi^\beta` for
:math:`0 = \beta_0 < \dots < \beta_K = 1`. After each change of :math:`\beta` a Markov move that leaves the new density
invariant follows; the weights :math:`w = \prod_k (\pi/q)^{\beta_k - \beta_{k-1}}` have the mean :math:`Z` exactly,
whether or not the moves mix. Ladder and step sizes are found by pilot particles (a sequential Monte-Carlo
run) and then held fixed for fresh ones: adaptation would cost that exactness.

References:
    Annealed importance sampling, Neal 2001, Statistics and Computing 11, arXiv:physics/9803008, eq. 1-11.
    Toward automatic model comparison: an adaptive sequential Monte Carlo approach, Zhou, Johansen, Aston 2016,
    arXiv:1303.3123 (ladder by the conditional ESS).
"""

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import Tensor

from bijectory.apps.importance import psis
from bijectory.apps.model_evidence.estimate import MIN_ESS, EvidenceEstimate, judged
from bijectory.apps.model_evidence.problem import Model, Problem
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.laplace import explore, moment_match, weighty
from bijectory.apps.variational.mcmc import Latent, hamiltonian
from bijectory.densities import Flow, StandardNormal
from bijectory.errors import ConfigError, NonFiniteError, check
from bijectory.transforms import Chain, Whiten

PILOTS, TUNING = 256, 4  # pilot particles, and their moves for each step size
CONDITIONAL_ESS, LARGEST_RISE, LONGEST = 0.95, 0.25, 200
GAIN = 0.7  # of the logarithm of the step size, for each unit of acceptance
MIN_ACCEPTANCE = 0.1
RANDOM_STEPS = 5  # Metropolis steps that make one move

Start = Literal["flow", "laplace", "broad"]
Moves = Literal["hamiltonian", "random-walk"]
TARGETS = {"hamiltonian": 0.8, "random-walk": 0.3}


@dataclasses.dataclass
class Tempered:
    """The density on the way, as ``hamiltonian`` reads it."""

    latent: Latent
    beta: float

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of the base and of the posterior."""
        return self.latent.flow.base.log_prob(z), self.latent.value(z)

    @torch.no_grad()
    def ratio(self, z: Tensor) -> Tensor:
        """Posterior over base, logarithm."""
        base, target = self.parts(z)
        return target - base

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """Log-density at the present temperature."""
        base, target = self.parts(z)
        return (1 - self.beta) * base + self.beta * target

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density and its gradient, zero where that is not finite."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            base, target = self.parts(leaf)
            total = (1 - self.beta) * base + self.beta * target
            (g,) = torch.autograd.grad(total.sum(), leaf)
        return total.detach(), torch.where(g.isfinite(), g, 0.0)


def annealed_evidence(
    model: Model,
    parameters: Any = None,
    *,
    flow: Flow | None = None,
    start: Start | None = None,
    moves: Moves = "hamiltonian",
    particles: int = 1024,
    seed: int = 0,
    warn: bool = True,
) -> EvidenceEstimate:
    """Evidence by annealed importance sampling.

    Args:
        model: A fitted ``VariationalPosterior``; or a log-density (or ``Joint``), with ``flow`` or without.
        parameters: Declaration as in ``fit_posterior``, of a log-density.
        flow: Where the particles start; that of the posterior by default.
        start: "flow"; "laplace": the normal approximations that a search for modes finds, in unconstrained coordinates;
            "broad": the standard normal in unconstrained coordinates. By default the flow if there is one, else
            "laplace".
        moves: "hamiltonian", or "random-walk" Metropolis, which needs no gradient. Their step sizes are tuned.
        particles: Number of particles.
        seed: Of everything random.
        warn: Warn where the estimate cannot be trusted.

    Returns:
        The estimate, from unsmoothed weights; ``diagnostics`` has khat, ess, temperatures, acceptance, particles.

    Raises:
        ConfigError: If start or moves are unknown, or there is no flow to start from.
        FlowError: If the density cannot be used.

    Warns:
        EvidenceWarning: If the weights have a heavy tail, few particles are effective, or moves are hardly accepted.

    References:
        Annealed importance sampling, Neal 2001, arXiv:physics/9803008.

    Example:
        >>> found = annealed_evidence(lambda x: -0.5 * x[:, 0] ** 2 / 4, 1, start="broad")  # log Z = log(2 sqrt(2 pi))
        >>> abs(found.log_z - 1.612) < 3 * found.se
        True
    """
    check(particles >= 100, ConfigError, f"particles must be at least 100, got {particles}.")
    check(moves in TARGETS, ConfigError, f"there are no moves {moves!r}; use one of {', '.join(TARGETS)}.")
    problem = Problem.of(model, parameters, flow)
    start = start or ("laplace" if problem.flow is None else "flow")
    check(start in ("flow", "laplace", "broad"), ConfigError, f'there is no start {start!r}; use "flow" or "laplace".')
    generator = torch.Generator().manual_seed(seed)
    differentiable = moves == "hamiltonian" or start == "laplace"
    problem.density.probe(generator, gradient=differentiable)
    origin = problem.proposal if start == "flow" else _normal(problem.density, start, generator)
    path = Tempered(Latent(origin, problem.density), 0.0)
    ladder = _pilot(path, moves, generator)
    weights, acceptance = _anneal(path, ladder, moves, particles, generator)
    found = psis(weights, smooth=False, warn=False)
    log_z, se = found.log_evidence()
    return judged(
        "annealed",
        float(log_z),
        float(se),
        {
            "khat": found.khat,
            "ess": found.ess,
            "temperatures": float(len(ladder)),
            "acceptance": acceptance,
            "particles": float(particles),
        },
        [
            (
                found.khat > found.limit,
                f"Pareto k {found.khat:.2f} above {found.limit:.2f}: start closer to the posterior, or take more particles",
            ),
            (found.ess < MIN_ESS, f"{found.ess:.0f} effective particles of {particles}, fewer than {MIN_ESS:.0f}"),
            (acceptance < MIN_ACCEPTANCE, f"only {acceptance:.0%} of the moves are accepted"),
            (ladder[-1][0] < 1, f"the ladder has more than {LONGEST} temperatures: start closer to the posterior"),
        ],
        warn=warn,
    )


def _normal(density: UnnormalizedDensity, start: Start, generator: torch.Generator) -> Flow:
    width = density.parameters.width
    loc, root = torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
    if start == "laplace":
        loc, root = moment_match(weighty(explore(density, 8, generator)))
    return Flow(Chain(density.parameters.unconstrain(), Whiten(width, loc, root)), StandardNormal(width)).double()


def _pilot(path: Tempered, moves: Moves, generator: torch.Generator) -> list[tuple[float, float]]:
    """Temperatures with step sizes, by adaptive sequential Monte Carlo."""
    z = path.latent.flow.base.sample(PILOTS, generator=generator)
    log_step = math.log((1.2 if moves == "hamiltonian" else 1.0) * z.shape[-1] ** -0.25)
    ladder: list[tuple[float, float]] = []
    beta = 0.0
    while beta < 1 and len(ladder) < LONGEST:
        ratio = path.ratio(z)
        message = "the posterior is zero at all pilot particles; start closer to it, or check its supports."
        check(bool(ratio.isfinite().any()), NonFiniteError, message)
        new = _next(ratio, beta)
        chosen = psis((new - beta) * ratio, smooth=False, warn=False).resample(PILOTS, generator=generator)
        z, beta = z[chosen], new
        path.beta = beta
        steps = []
        for k in range(TUNING):
            z, probability = _move(path, z, math.exp(log_step), moves, generator)
            log_step = min(log_step + GAIN / math.sqrt(k + 1) * (probability - TARGETS[moves]), 1.0)
            steps.append(log_step)
        log_step = sum(steps[-2:]) / 2
        ladder.append((beta, math.exp(log_step)))
    return ladder


def _next(ratio: Tensor, beta: float) -> float:
    """The largest rise whose conditional effective sample size is 95 %, at most a quarter."""
    low, high = 0.0, min(LARGEST_RISE, 1 - beta)
    if not _enough(high * ratio):
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if _enough(middle * ratio) else (low, middle)
        # Particles without any density never reach the share: then by small, equal steps.
        high = max(low, 1 / LONGEST)
    return 1.0 if beta + high > 1 - 1e-9 else beta + high


def _enough(w: Tensor) -> bool:
    return float((2 * w.logsumexp(0) - (2 * w).logsumexp(0)).exp()) >= CONDITIONAL_ESS * len(w)


def _anneal(
    path: Tempered, ladder: list[tuple[float, float]], moves: Moves, particles: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Log-weights of fresh particles, and the mean acceptance of their moves."""
    z = path.latent.flow.base.sample(particles, generator=generator)
    weights = torch.zeros(particles, dtype=torch.float64)
    accepted, before = 0.0, 0.0
    for k, (beta, step) in enumerate(ladder):
        weights = weights + (beta - before) * path.ratio(z)
        before = path.beta = beta
        if k + 1 < len(ladder):
            z, probability = _move(path, z, step, moves, generator)
            accepted += probability
    return torch.where(weights.isnan(), -math.inf, weights), accepted / max(1, len(ladder) - 1)


def _move(path: Tempered, z: Tensor, step: float, moves: Moves, generator: torch.Generator) -> tuple[Tensor, float]:
    """One Hamiltonian trajectory, or five Metropolis steps, at the present temperature."""
    if moves == "hamiltonian":
        jitter = float(torch.empty(()).uniform_(0.8, 1.2, generator=generator))
        value, g = path.gradient(z)
        z, _, _, probability, _ = hamiltonian(path, z, value, g, step * jitter, generator)
        return z, float(probability.mean())
    value, total = path.value(z), 0.0
    for _ in range(RANDOM_STEPS):
        new = z + step * torch.randn(z.shape, generator=generator, dtype=z.dtype)
        proposed = path.value(new)
        gain = torch.where((proposed - value).isnan(), -math.inf, proposed - value)
        accept = torch.rand(len(z), generator=generator, dtype=z.dtype).log() < gain
        z, value = torch.where(accept.unsqueeze(-1), new, z), torch.where(accept, proposed, value)
        total += float(gain.clamp(max=0).exp().mean())
    return z, total / RANDOM_STEPS

"""All estimators that apply to a model, each with draws of its own, and their verdict."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bijectory.apps.model_evidence.annealed import annealed_evidence
from bijectory.apps.model_evidence.bridge import bridge_evidence
from bijectory.apps.model_evidence.estimate import METHODS, EvidenceEstimate
from bijectory.apps.model_evidence.harmonic import harmonic_evidence
from bijectory.apps.model_evidence.importance import importance_evidence
from bijectory.apps.model_evidence.problem import Model, Problem, halves, read_draws
from bijectory.apps.model_evidence.verdict import Evidence
from bijectory.apps.variational import Chains, VariationalPosterior, fit_posterior
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.diagnostics import visit
from bijectory.apps.variational.laplace import explore
from bijectory.densities import StandardNormal
from bijectory.errors import ConfigError, FlowError, check

CHAINS, DRAWS, THIN, WARMUP = 32, 200, 3, 100
STARTS = 32  # of the search for modes that the fit may have overlooked
EVEN = 0.25  # effective share of the flow's draws with which independence chains move well
HEAVY = 1.0  # Pareto shape of weights without a mean: no chain that starts from the flow makes up for that


def evidence(
    model: Model,
    parameters: Any = None,
    *,
    samples: Any = None,
    methods: Sequence[str] = METHODS,
    draws: int = 10_000,
    particles: int = 1024,
    temperature: float | None = None,
    name: str = "model",
    seed: int = 0,
    warn: bool = True,
    **fitting: Any,
) -> Evidence:
    """Evidence of a model by every estimator that applies, with standard errors, and whether they agree.

    A log-density is first fitted by ``fit_posterior``. Posterior draws for the bridge and the harmonic mean are those that
    are given, else those of the posterior's chains, else of chains that are run here; each of the two estimators gets
    every other chain, so that all estimates are independent of each other given the flow.

    Args:
        model: A fitted ``VariationalPosterior``, a log-density or a ``Joint``; with all its constants, priors normalised.
        parameters: Declaration as in ``fit_posterior``, of a log-density.
        samples: Draws of the posterior by another sampler: ``Chains``, ``(chains, n, width)``, ``(n, width)``, or a data
            frame with a column "chain".
        methods: Which estimators.
        draws: Draws of the flow for importance sampling, and for the bridge.
        particles: Particles of annealed importance sampling.
        temperature: Of the learned harmonic mean, see ``harmonic_evidence``.
        name: Of the model, for people.
        seed: Of everything random.
        warn: Warn where the evidence is not to be trusted.
        **fitting: Of ``fit_posterior``, where it is needed.

    Returns:
        The verdict with its estimates. An estimator that raises is one of them, failed, with its message.

    Raises:
        ConfigError: If a method is unknown, or fitting arguments come with a fitted posterior.
        FlowError: If the log-density or the draws cannot be used.

    Warns:
        EvidenceWarning: If the state is "disagree" or "unreliable".

    Example:
        >>> found = evidence(lambda x: -0.5 * x[:, 0] ** 2 / 4, ["mu"], methods=("importance", "annealed"))
        >>> found.state, round(found.log_z, 1)  # log(2 sqrt(2 pi)) = 1.612
        ('trusted', 1.6)
    """
    unknown = sorted(set(methods) - set(METHODS))
    check(not unknown and len(methods) > 0, ConfigError, f"there is no estimator {unknown}; use {', '.join(METHODS)}.")
    ok = temperature is None or 0 < temperature <= 1
    check(ok, ConfigError, f"temperature must lie in (0, 1], got {temperature!r}.")
    if isinstance(model, VariationalPosterior):
        check(not fitting, ConfigError, f"the posterior is fitted; leave out {', '.join(fitting)}.")
        posterior = model
    else:
        posterior = fit_posterior(model, parameters, seed=seed, warn=False, **fitting)
        parameters = None
    problem = Problem.of(posterior, parameters)
    notes = _missed(posterior, problem.density, seed)
    taken = None if samples is None else read_draws(samples, posterior.parameters)
    if taken is None and {"bridge", "harmonic"} & set(methods):
        posterior = posterior if posterior.chains is not None else _run_chains(posterior, seed)
        notes += _suspicious(posterior)
        taken = read_draws(posterior.chains, posterior.parameters)
    runs: dict[str, Callable[[], EvidenceEstimate]] = {
        "importance": lambda: importance_evidence(posterior, draws=draws, seed=_seed(seed, 1), warn=False),
        "annealed": lambda: annealed_evidence(
            posterior,
            start="flow" if isinstance(posterior.flow.base, StandardNormal) else "laplace",
            particles=particles,
            seed=_seed(seed, 4),
            warn=False,
        ),
    }
    if taken is not None:
        both = {"bridge", "harmonic"} <= set(methods)
        first, second = halves(taken) if both else (taken, taken)
        runs["bridge"] = lambda: bridge_evidence(posterior, first, draws=draws, seed=_seed(seed, 2), warn=False)
        runs["harmonic"] = lambda: harmonic_evidence(
            posterior.log_density,  # type: ignore[arg-type]  # checked above
            second,
            posterior.parameters,
            temperature=temperature,
            seed=_seed(seed, 3),
            warn=False,
        )
    found = Evidence(tuple(_attempt(m, runs[m]) for m in METHODS if m in methods), notes, name)
    if warn:
        found.warn()
    return found


def _attempt(method: str, run: Callable[[], EvidenceEstimate]) -> EvidenceEstimate:
    """The estimate, or that there is none and why."""
    try:
        return run()
    except FlowError as error:
        return EvidenceEstimate(method, math.nan, math.nan, {}, (str(error).rstrip("."),))


def _missed(posterior: VariationalPosterior, density: UnnormalizedDensity, seed: int) -> tuple[str, ...]:
    """Modes without draws of the flow, by the search of the fit and by one of our own with more starts.

    All estimators here start from the flow, so that a mode that it lacks is lacking in all of them, and they agree.
    """
    missed = list(posterior.diagnostics.missed)
    generator = torch.Generator().manual_seed(_seed(seed, 6))
    try:
        modes = explore(density, STARTS, generator)
    except FlowError:  # no gradient, or no place to start from: then there is no second search
        modes = []
    log_z = posterior.diagnostics.log_evidence
    with torch.no_grad():
        found = [visit(posterior.flow, density, m, log_z, generator) for m in modes if m.converged]
    known = [np.array(list(m.at.values())) for m in missed]
    for mode in found:
        at = np.array(list(mode.at.values()))
        if not mode.covered and not any(k.shape == at.shape and np.allclose(k, at, 1e-2, 1e-2) for k in known):
            missed.append(mode)
    where = "; ".join(", ".join(f"{k}={v:.4g}" for k, v in list(m.at.items())[:4]) for m in missed)
    return (f"the flow misses {len(missed)} modes that a search found ({where})",) if missed else ()


def _run_chains(posterior: VariationalPosterior, seed: int) -> VariationalPosterior:
    """Independence chains where the flow is nearly right, else Hamiltonian ones."""
    d = posterior.diagnostics
    light = d.khat <= d.khat_limit and d.ess > EVEN * d.draws
    sizes = {"chains": CHAINS, "draws": DRAWS, "seed": _seed(seed, 5)}
    if light:
        return posterior.polish("independence", thin=THIN, **sizes)
    return posterior.polish("neutra", warmup=WARMUP, **sizes)


def _suspicious(posterior: VariationalPosterior) -> tuple[str, ...]:
    """What speaks against draws of chains that started from the flow."""
    d = posterior.diagnostics
    if isinstance(posterior.chains, Chains) and d.khat > HEAVY:
        return (f"the chains started from a flow whose weights have no mean (Pareto k {d.khat:.2f})",)
    return ()


def _seed(seed: int, stream: int) -> int:
    """Seeds that no two streams of neighbouring runs share."""
    return (seed * 1_000_003 + stream * 7_919) % 2**31

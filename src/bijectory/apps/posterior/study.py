"""From a simulator, a prior and an observation to a posterior that has been checked, and repaired if it failed."""

import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bijectory.apps.posterior.base import Posterior
from bijectory.apps.posterior.diagnose import CalibrationTest, LocalTest, coverage, local_c2st, rank, sbc, tarp
from bijectory.apps.posterior.eyes import Embed
from bijectory.apps.posterior.likelihood import fit_nle, fit_nre
from bijectory.apps.posterior.neural import NeuralPosterior, PosteriorFit, fit_npe, posterior_config
from bijectory.apps.posterior.prior import Prior, as_prior
from bijectory.apps.posterior.recalibrate import LEAST_PAIRS, recalibrate
from bijectory.apps.posterior.sequential import fit_sequentially
from bijectory.apps.posterior.simulations import Simulations, Simulator, check_observation, simulate
from bijectory.apps.posterior.store import kept
from bijectory.errors import ConfigError, check

Method = Literal["npe", "fmpe", "nle", "nre"]
LOCAL_TRIALS, LEAST_CHECKS = 20, 50
TRAINING_FILE, CHECKS_FILE = "simulations.safetensors", "checks.safetensors"
SLOW_CHECKS = 100  # pairs that a posterior sampled by Markov chains is checked on: each takes a run of its own


@dataclasses.dataclass(frozen=True)
class Study:
    """What ``study`` found.

    Attributes:
        prior: The prior.
        posterior: At the observation; the recalibrated one where the first failed its checks.
        fit: The fit.
        x: The observation.
        draws: ``(n, features)`` of the posterior.
        predicted: ``(m, *event)``: simulations from draws.
        before: Checks of the fit; empty in sequential inference, where they do not apply.
        after: Checks of the recalibrated posterior on pairs of its own; empty if there was no need.
        local: Local two-sample test at the observation, if asked for.
        notes: What a reader has to know.
        facts: The numbers of the run.
    """

    prior: Prior
    posterior: Posterior
    fit: PosteriorFit
    x: Tensor
    draws: Tensor
    predicted: Tensor
    before: tuple[CalibrationTest, ...]
    after: tuple[CalibrationTest, ...]
    local: LocalTest | None
    notes: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def ok(self) -> bool | None:
        """Whether the posterior that is returned passes its checks; None if it could not be checked."""
        last = self.after or self.before
        return all(c.ok for c in last) if last else None


def study(
    prior: Any,
    simulator: Simulator,
    x: Any,
    *,
    method: Method = "npe",
    simulations: int = 1000,
    rounds: int = 1,
    checks: int = 1000,
    draws: int = 4000,
    ensemble: int = 5,
    embed: Embed = None,
    repair: bool = True,
    local: bool = False,
    missing: str = "drop",
    training: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
) -> Study:
    """Simulate, learn, check, repair, and draw.

    Half of the ``checks`` are for recalibration, should it be needed, and half test the result: no pair does both, and
    none of them trains the posterior.

    Args:
        prior: A ``Prior``, or what makes one.
        simulator: ``theta (m, features) -> x (m, *event)``.
        x: The observation.
        method: "npe"; "fmpe" (flow matching); "nle" or "nre", sampled by Markov chains.
        simulations: For training, in each round.
        rounds: More than 1: truncated sequential inference, for "npe" and "fmpe".
        checks: Further simulations for checks; 0 for none.
        draws: Of the posterior.
        ensemble: Number of members.
        embed: As in ``fit_npe``.
        repair: Whether to recalibrate a posterior that fails.
        local: Whether to run ``local_c2st`` (some twenty classifiers) on the returned posterior.
        missing: See ``Simulations.of``.
        training: Settings that replace those of ``posterior_config``.
        out: Folder for the simulations and the checkpoints of training (of one round): what ``resume`` needs.
        resume: Go on with an interrupted study of the same settings in ``out``; the result is the same, bit for bit.
        seed: Of everything.

    Raises:
        ConfigError, DataError, ShapeError: If something does not fit.
        CheckpointError: If ``out`` holds another study.
        KeyboardInterrupt: After Ctrl-C, also during training: nothing is made of a posterior that is half learned.

    Example:
        >>> from bijectory.apps.posterior import box_uniform
        >>> simulator = lambda theta: theta + 0.1 * torch.randn(len(theta), 2)
        >>> quick = {"ensemble": 1, "checks": 200, "training": {"epochs": 2}}
        >>> found = study(box_uniform([0.0], [1.0]), simulator, [0.5, 0.6], simulations=300, **quick)
        >>> found.draws.shape, [c.name for c in found.before]
        (torch.Size([4000, 1]), ['SBC', 'expected coverage', 'TARP'])
    """
    check(method in ("npe", "fmpe", "nle", "nre"), ConfigError, f"method={method!r}; use npe, fmpe, nle or nre.")
    direct = method in ("npe", "fmpe")
    check(rounds == 1 or direct, ConfigError, f"rounds={rounds}: sequential inference is for npe and fmpe.")
    enough = checks == 0 or checks >= 2 * LEAST_CHECKS
    check(enough, ConfigError, f"checks={checks}: use at least {2 * LEAST_CHECKS}, or 0 for none.")
    folder, single = None if out is None else Path(out), rounds == 1
    check(folder is not None or not resume, ConfigError, "resume=True needs out, the folder of the study.")
    check(single or not resume, ConfigError, "a study in rounds cannot be gone on with; start again without resume.")
    known, start = as_prior(prior), time.monotonic()
    recipe = "cfm" if method == "fmpe" else "nsf"
    words: dict[str, Any] = {"seed": seed, **(training or {})}
    if folder is not None and single:
        words |= {"out": folder, "resume": resume and (folder / "checkpoint").exists()}
    settings = posterior_config(simulations * rounds, recipe=recipe, **words)
    words = {"ensemble": ensemble, "config": settings}
    if method != "nle":
        words["embed"] = embed
    if direct:
        words["recipe"] = recipe
    way: Callable[..., PosteriorFit] = fit_npe if direct else fit_nle if method == "nle" else fit_nre
    learn = functools.partial(way, **words)

    def draw(name: str, n: int, own: int) -> Simulations:
        def make() -> Simulations:
            pairs = simulate(known, simulator, n, missing=missing, seed=own)
            check_observation(x, pairs.event_shape, many=not direct, missing=missing)
            return pairs

        file = None if folder is None or not single else folder / name
        return kept(file, make, known, {"simulations": n, "missing": missing, "seed": own}, resume=resume)

    if rounds > 1:
        plan: dict[str, Any] = {"simulations": simulations, "rounds": rounds, "missing": missing, "seed": seed}
        fitted = fit_sequentially(known, simulator, x, **plan, fit=learn)
    else:
        pairs = draw(TRAINING_FILE, simulations, seed)
        check_observation(x, pairs.event_shape, many=not direct, missing=missing)
        fitted = learn(pairs, known)
    if fitted.result.stop_reason == "interrupted":
        signal.raise_signal(fitted.result.signal or signal.SIGINT)
    trained = time.monotonic() - start
    posterior, notes = fitted.posterior.at(x), list(fitted.notes)
    held: Simulations | None = None
    if checks and single:
        held = draw(CHECKS_FILE, checks if direct else min(checks, 2 * SLOW_CHECKS), seed + 10**6)
        if len(held) < 2 * LEAST_CHECKS:
            notes.append(f"not checked: {len(held)} of {checks} further simulations are finite; ask for more checks.")
            held = None
    before: tuple[CalibrationTest, ...] = ()
    after: tuple[CalibrationTest, ...] = ()
    test: LocalTest | None = None
    if held is not None:
        first, last = _halves(held)
        before = calibrations(posterior, last, seed)
        enough = len(first) >= LEAST_PAIRS
        if repair and enough and isinstance(posterior, NeuralPosterior) and not all(c.ok for c in before):
            posterior = recalibrate(posterior, first, seed=seed)
            after = calibrations(posterior, last, seed)
            notes.append(
                f"the posterior failed its checks and was recalibrated with {len(first)} held-out simulations."
            )
        if local and direct:
            test = local_c2st(posterior, last, trials=LOCAL_TRIALS, seed=seed)
    elif rounds > 1:
        notes.append("not checked: calibration needs a posterior for every observation; fit with rounds=1 to check it.")
    theta = posterior.sample(draws, seed=seed)
    predicted = posterior.predictive(simulator, min(draws, 500), seed=seed)
    facts = {
        "method": method,
        "simulations": len(fitted.simulations),
        "simulations that failed": fitted.simulations.failed,
        "rounds": rounds,
        "members": ensemble,
        "epochs": len(fitted.result.history),
        "best epoch": fitted.result.best_epoch,
        "stop": fitted.result.stop_reason,
        "seconds of simulation and training": round(trained, 1),
        "seconds in all": round(time.monotonic() - start, 1),
    }
    given = posterior.x if posterior.x is not None else torch.empty(0)
    return Study(known, posterior, fitted, given, theta, predicted, before, after, test, tuple(notes), facts)


def calibrations(posterior: Posterior, pairs: Simulations, seed: int = 0) -> tuple[CalibrationTest, ...]:
    """SBC, expected coverage and TARP on the same draws."""
    ranked = rank(posterior, pairs, seed=seed)
    return sbc(ranked), coverage(ranked), tarp(ranked)


def _halves(pairs: Simulations) -> tuple[Simulations, Simulations]:
    """Two disjoint halves."""
    n = len(pairs) // 2
    return Simulations(pairs.theta[:n], pairs.x[:n]), Simulations(pairs.theta[n:], pairs.x[n:])

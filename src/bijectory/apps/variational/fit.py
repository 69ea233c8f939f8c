"""From an unnormalised log-density to a flow that approximates it, untuned."""

import inspect
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from bijectory.apps.variational.density import LogDensity, UnnormalizedDensity
from bijectory.apps.variational.diagnostics import diagnose, weighted_draws
from bijectory.apps.variational.joint import Joint
from bijectory.apps.variational.laplace import Approximation, explore, mixture_weights, moment_match, weighty
from bijectory.apps.variational.parameters import Parameters
from bijectory.apps.variational.posterior import VariationalPosterior
from bijectory.densities import Flow
from bijectory.errors import ConfigError, ConvergenceError, NonFiniteError, check
from bijectory.objectives import AlphaDivergence, ReverseKL
from bijectory.recipes import find_recipe
from bijectory.training import Anneal, Callback, FitConfig, FitResult, fit
from bijectory.training.rng import isolated
from bijectory.training.state import Run
from bijectory.transforms import Chain, Whiten

Objective = Literal["reverse", "forward", "alpha"]
BATCH, EPOCH_STEPS, VALIDATION = 512, 25, 2048
SMALL = {"hidden": (32, 32), "layers": 4, "acts_on": "noise"}  # of a recipe, where it has such arguments
WARM_DRAWS, WARM_EPOCHS = 8192, 15
ENOUGH, LIGHT = 0.99, 0.5  # effective share of the draws, and Pareto shape, with which training ends
OUTSIDE = 0.01  # largest share of draws without density with which the reverse KL starts


class Enough(Callback):
    """Stops a training with nothing left to gain: weights of nearly equal draws at the end of an epoch."""

    def __init__(self, flow: Flow, density: UnnormalizedDensity) -> None:
        self.flow, self.density, self.reached = flow, density, False

    def on_epoch(self, run: Run, record: Mapping[str, Any]) -> bool:
        generator = torch.Generator().manual_seed(run.step)
        sample, own = weighted_draws(self.flow, self.density, VALIDATION, generator, warn=False)
        share = float((2 * own.logsumexp(0) - (2 * own).logsumexp(0)).exp()) / len(own)
        self.reached = share > ENOUGH and sample.weights.khat < LIGHT
        return self.reached


def variational_config(**changes: Any) -> FitConfig:
    """Settings of ``fit_posterior``: many draws a step and a fixed, decaying rate, which need no tuning.

    40 epochs of 25 steps of 512 draws at a peak rate of 5e-3; the best by 2048 validation draws of fixed noise.

    Args:
        **changes: Settings of ``FitConfig``.

    References:
        Advances in Black-Box VI, Agrawal, Sheldon, Domke 2020, arXiv:2006.10343: large batches, path gradients.

    Example:
        >>> variational_config(epochs=10).batch_size
        512
    """
    rows = EPOCH_STEPS * BATCH
    settings = {
        "epochs": 40,
        "batch_size": BATCH,
        "lr": 5e-3,
        "clip_norm": 10.0,
        "warmup_steps": 25,
        "patience": 10,
        "validation_fraction": VALIDATION / (rows + VALIDATION),
        "progress": False,
    }
    return FitConfig(**{**settings, **changes})


def fit_posterior(
    log_density: LogDensity | Joint,
    parameters: Parameters | Mapping[str, Any] | Iterable[str] | int | None = None,
    *,
    bounded: Mapping[str, tuple[float, float]] | None = None,
    positive: Iterable[str] = (),
    recipe: str | Flow = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    objective: Objective = "reverse",
    alpha: float = 2.0,
    start: Literal["laplace", "broad"] = "laplace",
    starts: int = 8,
    anneal: float = 0.0,
    draws: int = 8192,
    seed: int = 0,
    config: FitConfig | None = None,
    warn: bool = True,
) -> VariationalPosterior:
    r"""Approximate an unnormalised posterior by a flow, and measure how good the approximation is.

    The flow is :math:`u \to x`: bounds by bijections, a normal approximation found by L-BFGS, then the recipe, which starts
    near the identity. It is trained on the free energy with path gradients; afterwards fresh draws give importance weights.

    Args:
        log_density: Batch of rows ``(n, width)``, float64, to log-densities ``(n,)``; or a ``Joint``, which knows its
            parameters.
        parameters: Names with supports, ``{"mu": "real", "tau": "positive", "p": (0, 1), "cut": Parameter("ordered", 3)}``;
            names alone; or how many.
        bounded: Bounds of parameters by name.
        positive: Names of positive parameters.
        recipe: Architecture, or a flow of as many features (then float64).
        recipe_args: Arguments of the recipe; by default four layers with networks of 32 x 32.
        objective: "reverse" KL; "forward" KL or "alpha"-divergence by adaptive importance sampling, which cover more and
            need no gradient.
        alpha: Of the alpha-divergence: 2 is chi-square, the variance of the weights.
        start: "laplace", or "broad": the standard normal in unconstrained coordinates.
        starts: Paths of the search for modes.
        anneal: Share of the training during which the density is tempered, from a tenth of its weight.
        draws: Draws for the importance weights.
        seed: Of everything random.
        config: Settings of the training, see ``variational_config``.
        warn: Warn where the weights cannot be trusted or a mode is missed.

    Returns:
        A ``VariationalPosterior``: draws, table, weights, diagnostics, ``polish``.

    Raises:
        FlowError: If the density cannot be used; the message names the remedy.
        ConvergenceError: If training met values that are not finite and could not go on.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770.
        Sticking the Landing, Roeder, Wu, Duvenaud 2017, arXiv:1703.09194.
        Automatic Differentiation Variational Inference, Kucukelbir+ 2016, arXiv:1603.00788 (supports).

    Example:
        >>> def log_density(x):  # a log-normal and a normal, without their constants
        ...     return -0.5 * x[:, 0].log() ** 2 - x[:, 0].log() - 0.5 * x[:, 1] ** 2
        >>> posterior = fit_posterior(log_density, {"rate": "positive", "shift": "real"})
        >>> posterior.diagnostics.verdict, round(posterior.diagnostics.log_evidence, 2)  # log 2 pi
        ('good', 1.84)
    """
    begin = time.monotonic()
    if isinstance(log_density, Joint):
        check(parameters is None, ConfigError, "a Joint declares its parameters; leave `parameters` out.")
        parameters = log_density.parameters
    check(
        parameters is not None, ConfigError, 'declare the parameters: {"mu": "real", "tau": "positive"}, or a number.'
    )
    check(callable(log_density), ConfigError, f"log_density must be callable, got {type(log_density).__name__}.")
    check(objective in ("reverse", "forward", "alpha"), ConfigError, f"there is no objective {objective!r}.")
    check(0 <= anneal < 1, ConfigError, f"anneal is a share in [0, 1), got {anneal!r}.")
    check(starts >= 1 and draws >= 100, ConfigError, "starts must be at least 1 and draws at least 100.")
    declared = Parameters.declare(parameters, bounded=bounded, positive=positive)  # type: ignore[arg-type]
    density = UnnormalizedDensity(log_density, declared)
    config = variational_config(seed=seed) if config is None else config
    generator = torch.Generator().manual_seed(seed)
    density.probe(generator, gradient=objective == "reverse" or start == "laplace")
    modes = explore(density, starts, generator) if start == "laplace" else []
    with isolated(seed):
        main = weighty(modes)
        flow = _build(declared, recipe, recipe_args, main)
        if len(main) > 1:
            _warm_up(flow, density, main, config, generator)
        result = _train(flow, density, objective, alpha, anneal, config)
    message = f'training stopped: {result.report}. Try config=variational_config(lr=1e-3), or objective="forward".'
    check(result.stop_reason != "non_finite", ConvergenceError, message)
    flow.requires_grad_(requires_grad=False)
    sample, found = diagnose(flow, density, modes, draws, generator, warn=warn)
    training = {
        "recipe": recipe if isinstance(recipe, str) else "given",
        "objective": objective,
        "steps": result.steps,
        "stop_reason": "nothing left to gain" if result.stop_reason == "callback" else result.stop_reason,
        "seconds": round(time.monotonic() - begin, 2),
        "seed": seed,
    }
    return VariationalPosterior(flow, declared, log_density, sample, found, training)


def _build(
    parameters: Parameters,
    recipe: str | Flow,
    arguments: Mapping[str, Any] | None,
    modes: list[Approximation],
) -> Flow:
    """The flow in the space of the parameters, float64."""
    width = parameters.width
    if isinstance(recipe, Flow):
        inner = recipe.double()
        got = tuple(inner.event_shape)
        check(got == (width,), ConfigError, f"the flow has events {got}, the model {width} parameters.")
    else:
        entry = find_recipe(recipe)
        message = f'recipe {recipe!r} is for images; choose one for vectors, such as "nsf".'
        check(entry.event == "features", ConfigError, message)
        accepted = inspect.signature(entry.build).parameters
        known = {k: v for k, v in SMALL.items() if k in accepted}
        inner = entry.build(width, **{**known, **(arguments or {})}).double()
    check(inner.context == 0, ConfigError, "the flow reads a context; a posterior has none.")
    loc = torch.zeros(width, dtype=torch.float64)
    root = torch.eye(width, dtype=torch.float64)
    if modes:
        loc, root = moment_match(modes)
    return Flow(Chain(parameters.unconstrain(), Whiten(width, loc, root), inner.transform), inner.base).double()


def _warm_up(
    flow: Flow, density: UnnormalizedDensity, modes: list[Approximation], config: FitConfig, generator: torch.Generator
) -> None:
    """Teach the flow all modes: maximum likelihood on draws of the mixture of their normal approximations."""
    w = mixture_weights(modes)
    which = torch.multinomial(w.clamp(min=1e-2), WARM_DRAWS, replacement=True, generator=generator)
    e = torch.randn(WARM_DRAWS, density.parameters.width, generator=generator, dtype=torch.float64)
    locs, roots = torch.stack([m.loc for m in modes]), torch.stack([m.root for m in modes])
    u = locs[which] + (roots[which] @ e.unsqueeze(-1)).squeeze(-1)
    x, _ = density.map.inverse(u)
    weight = (w / w.clamp(min=1e-2))[which]
    epochs = min(WARM_EPOCHS, config.epochs or WARM_EPOCHS)
    warm = variational_config(epochs=epochs, batch_size=config.batch_size, seed=config.seed)
    fit(flow, (x, None, weight), config=warm)


def _train(
    flow: Flow, density: UnnormalizedDensity, objective: Objective, alpha: float, anneal: float, config: FitConfig
) -> FitResult:
    """Train on as many draws as an epoch has rows."""
    size = config.batch_size * EPOCH_STEPS
    rows = flow.sample(round(size / (1 - config.validation_fraction)))
    with torch.no_grad():
        start = rows[:VALIDATION]
        outside = float(density(start).isneginf().double().mean())
    message = f"log_density is -inf for {outside:.0%} of the draws at the start, such as "
    if objective == "reverse" and outside > OUTSIDE:
        first = density.describe(start[density(start).isneginf()][0])
        raise NonFiniteError(
            f'{message}{first}. Declare the support (bounded=, positive=, Parameter("ordered", n)) so that no draw can '
            'leave it, or use objective="forward".'
        )
    loss: Any
    if objective == "reverse":
        slow = any(t.solver != "closed form" for t in flow.transform.modules() if hasattr(t, "solver"))
        loss = ReverseKL(density.batched, "total" if slow else "path")
    else:
        loss = AlphaDivergence(density.batched, 1.0 if objective == "forward" else alpha)
    callbacks: list[Callback] = [] if anneal else [Enough(flow, density)]
    if anneal:
        total = config.total_steps(EPOCH_STEPS) or EPOCH_STEPS * 40
        callbacks.append(Anneal(loss, max(1, math.ceil(anneal * total)), start=0.1))
    return fit(flow, rows, objective=loss, config=config, callbacks=callbacks)

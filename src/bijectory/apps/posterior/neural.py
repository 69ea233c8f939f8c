r"""Neural posterior estimation: a conditional flow of the parameters given the data.

.. math:: \max_\phi \; E_{p(\theta)\,p(x|\theta)} \log q_\phi(\theta | x)

whose maximum over all densities is the posterior. The data are standardised and pass an embedding; the parameters are
mapped onto the real line (so no probability leaves the bounds of the prior), standardised, and freed of their linear
regression on the data. What is left is learned by an ensemble of flows, trained together.

References: Papamakarios, Murray 2016, arXiv:1605.06376; Greenberg, Nonnenmacher, Macke 2019, arXiv:1905.07488; Wildberger
et al. 2023, arXiv:2305.17161 (flow matching).
"""

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from bijectory.apps.posterior.base import Posterior
from bijectory.apps.posterior.eyes import Embed, Eyes
from bijectory.apps.posterior.prior import Prior, as_prior
from bijectory.apps.posterior.simulations import Simulations
from bijectory.densities import Density, Ensemble, Flow
from bijectory.errors import CheckpointError, ConfigError, ShapeError, check
from bijectory.io import load, load_metadata, save
from bijectory.objectives import find_objective
from bijectory.recipes import find_recipe
from bijectory.spec import to_spec
from bijectory.tables import DataWarning
from bijectory.training import Callback, Data, FitConfig, FitResult, fit_ensemble
from bijectory.transforms import Chain, Regression, Standardize, Transform

Recipe = str | Callable[..., Flow]
POSTERIOR = "posterior"  # kind of the run folder, in the metadata of the model


class NeuralPosterior(Posterior):
    """A conditional density of the parameters, exact and amortised: for every observation at once.

    Args:
        density: ``q(theta | x)``, float64, with the raw observation as its context.
        prior: Whose parameters these are.
        event_shape: Shape of one observation.
        missing: Whether the density reads observations with NaN for what is missing.

    Example:
        >>> from bijectory import nsf
        >>> from bijectory.apps.posterior import Prior
        >>> from torch.distributions import Normal
        >>> prior = Prior([Normal(0.0, 1.0), Normal(0.0, 1.0)])
        >>> posterior = NeuralPosterior(nsf(2, 3, layers=2, hidden=(8,)).double(), prior, (3,))
        >>> posterior.at([0.0, 1.0, 2.0]).sample(5, seed=0).shape
        torch.Size([5, 2])
    """

    def __init__(self, density: Density, prior: Prior, event_shape: Sequence[int], *, missing: bool = False) -> None:
        check(
            tuple(density.event_shape) == (prior.features,),
            ShapeError,
            f"the density has events {tuple(density.event_shape)}, the prior {prior.features} parameters.",
        )
        self.density, self.prior, self.event_shape = density.eval(), prior, torch.Size(event_shape)
        self.missing = missing

    def __repr__(self) -> str:
        return f"NeuralPosterior({', '.join(self.prior.names)} | x {tuple(self.event_shape)})"

    def _log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        return self.density.log_prob(theta, x)

    def _sample(self, n: int, x: Tensor, seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        draws = self.density.sample(n, x, generator=generator)
        low, high = (draws.new_tensor(b) for b in zip(*self.prior.bounds, strict=True))
        return draws.clamp(low, high)  # rounding may pass a bound that is not a float64

    def save(self, folder: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Write the density, with names and bounds of the parameters, into a run folder."""
        facts: dict[str, Any] = {
            "kind": POSTERIOR,
            "names": list(self.prior.names),
            "event_shape": list(self.event_shape),
        }
        facts["missing"] = self.missing
        bounds = [[repr(a), repr(b)] for a, b in self.prior.bounds]  # text, for infinity is no JSON
        x = None if self.x is None else json.dumps(self.x.nan_to_num(nan=1e308).tolist())
        save(self.density, folder, metadata={**(metadata or {}), **facts, "bounds": bounds, "x": x})

    @classmethod
    def load(cls, folder: str | Path, prior: Any) -> Self:
        """Read what ``save`` wrote; the prior is code and has to be given again."""
        facts, known = load_metadata(folder), as_prior(prior)
        check(facts.get("kind") == POSTERIOR, CheckpointError, f"{folder} holds no posterior; fit one there first.")
        bounds = [[repr(a), repr(b)] for a, b in known.bounds]
        same = facts["names"] == list(known.names) and facts["bounds"] == bounds
        check(same, CheckpointError, f"{folder} was fitted with {facts['names']} in {facts['bounds']}, not {known}.")
        found = cls(load(folder), known, facts["event_shape"], missing=facts["missing"])
        if facts["x"] is not None:
            x = torch.tensor(json.loads(facts["x"]), dtype=torch.float64)
            found.x = torch.where(x == 1e308, torch.nan, x)
        return found


@dataclasses.dataclass(frozen=True)
class PosteriorFit:
    """What came out of a fit.

    Attributes:
        posterior: The posterior.
        result: Of the training of all members together; losses in nats in standardised units.
        simulations: The pairs that were used.
        notes: What a reader of the results has to know.
    """

    posterior: Posterior
    result: FitResult
    simulations: Simulations
    notes: tuple[str, ...]


def posterior_config(simulations: int, *, recipe: Recipe = "nsf", **changes: Any) -> FitConfig:
    """Settings of training that suit a number of simulations and a recipe.

    The loss of flow matching is noisy: it takes more epochs, and weights that are averaged.

    Example:
        >>> posterior_config(1000).batch_size, posterior_config(1000, epochs=3).epochs
        (100, 3)
    """
    small = simulations < 5000
    defaults: dict[str, Any] = {
        "batch_size": 100 if small else 256 if simulations < 50_000 else 512,
        "epochs": 60,
        "lr": 3e-3,
        "weight_decay": 0.1,
        "patience": 10,
        "validation_fraction": 0.1,
        "progress": False,
    }
    if objective_name(recipe) != "nll":
        defaults |= {"epochs": 200, "patience": 40, "ema_decay": 0.99}
    return FitConfig(**{**defaults, **changes})


def objective_name(recipe: Recipe) -> str:
    """What the members are trained with: the recipe's own objective.

    Flow matching pairs rows with noise at random. Pairs by optimal transport would have to be those of one observation, of
    which there is one row.
    """
    name = find_recipe(recipe).objective if isinstance(recipe, str) else "nll"
    return "flow_matching" if name.endswith("flow_matching") else name


def fit_npe(
    simulations: Simulations | tuple[Any, Any],
    prior: Any,
    *,
    recipe: Recipe = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    embed: Embed = None,
    ensemble: int = 5,
    missing: str = "drop",
    config: FitConfig | None = None,
    softness: float = 0.05,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> PosteriorFit:
    """Learn the posterior from pairs of parameters and simulated data (NPE; FMPE with a recipe of flow matching).

    Args:
        simulations: ``Simulations``, or ``(theta, x)``; theta drawn from the prior.
        prior: A ``Prior``, or what makes one.
        recipe: Name of a recipe, or a function ``(features, context, **recipe_args) -> Flow``. ``"cfm"`` makes it flow
            matching posterior estimation.
        recipe_args: Keywords of the recipe.
        embed: The embedding of one observation: "vector", "series" ``(steps, features)``, "set" ``(elements, features)``,
            "image" ``(channels, height, width)``; or a module ``(n, *event) -> (n, width)`` of yours, or a function
            ``() -> module`` that makes one for each member. None reads vectors as they are. Where values are missing,
            the last axis is twice as wide for a module of yours: values (0 for missing ones), then indicators.
        ensemble: Number of flows, each validated on a part of its own.
        missing: See ``Simulations.of``; only with ``(theta, x)``.
        config: Settings of training; None for ``posterior_config``.
        softness: Of the bounds, see ``SoftClip``.
        out: Run folder.
        callbacks: Watchers of the training loop.

    Raises:
        ConfigError, DataError, ShapeError: If something does not fit.

    Example:
        >>> from bijectory.apps.posterior import box_uniform, simulate
        >>> prior = box_uniform([0.0], [1.0])
        >>> pairs = simulate(prior, lambda theta: theta + 0.1 * torch.randn(len(theta), 2), 300)
        >>> fitted = fit_npe(pairs, prior, ensemble=2, config=posterior_config(300, epochs=2))
        >>> bool((fitted.posterior.sample(100, [0.9, 1.1], seed=0) <= 1.0).all())
        True
    """
    pairs = simulations if isinstance(simulations, Simulations) else Simulations.of(*simulations, missing=missing)
    known = as_prior(prior)
    check_pairs(pairs, known)
    for note in pairs.notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    check(ensemble >= 1, ConfigError, f"ensemble must be at least 1, got {ensemble}.")
    settings = config or posterior_config(len(pairs), recipe=recipe)
    settings = settings.replace(out=out if out is not None else settings.out)
    eyes = Eyes(pairs.x, embed)
    c = eyes.encode(pairs.x)
    way = Chain(*known.unconstrain(softness=softness), Standardize(known.features).double())
    way.initialize(pairs.theta)
    if eyes.width and embed is None:
        regression = Regression(known.features, eyes.width).double()
        with torch.no_grad():
            regression.initialize(way.forward(pairs.theta)[0], c)
        way = Chain(*way, regression)
    with torch.no_grad():
        z = way.forward(pairs.theta, c if embed is None else None)[0]
    flows = build(recipe, known.features, eyes, recipe_args, ensemble, settings.seed)
    if settings.out is not None:
        to_spec(flows[0])  # what cannot be stored is told before it is trained
    result = fit_ensemble(
        flows,
        Data(z.float(), c.float()),
        objective=find_objective(objective_name(recipe)),
        config=settings,
        callbacks=callbacks,
    )
    density = Ensemble(*(join(way, flow, eyes) for flow in flows)).double().eval().requires_grad_(requires_grad=False)
    posterior = NeuralPosterior(density, known, pairs.event_shape, missing=pairs.incomplete)
    if out is not None:
        posterior.save(out, metadata={"simulations": len(pairs), "failed": pairs.failed, "stop": result.stop_reason})
    return PosteriorFit(posterior, result, pairs, pairs.notes)


def check_pairs(pairs: Simulations, prior: Prior) -> None:
    """Raise unless the parameters are those of the prior."""
    width = pairs.theta.shape[1]
    check(
        width == prior.features,
        ShapeError,
        f"theta has {width} columns, the prior {prior.features} parameters: {', '.join(prior.names)}.",
    )
    low, high = (pairs.theta.new_tensor(b) for b in zip(*prior.bounds, strict=True))
    outside = ((pairs.theta < low) | (pairs.theta > high)).any(0)
    names = [name for name, bad in zip(prior.names, outside.tolist(), strict=True) if bad]
    check(
        not names, ConfigError, f"some theta lie outside the bounds of the prior: {', '.join(names)}; check the prior."
    )


def build(
    recipe: Recipe, features: int, eyes: Eyes, arguments: Mapping[str, Any] | None, count: int, seed: int
) -> list[Flow]:
    """Members that differ in their first weights."""
    make = find_recipe(recipe).build if isinstance(recipe, str) else recipe
    defaults: dict[str, Any] = (
        {"layers": 5, "hidden": (64, 64)} if recipe in ("nsf", "maf", "nsf_ar", "real_nvp") else {}
    )
    flows = []
    with torch.random.fork_rng(devices=[]):
        for k in range(count):
            torch.manual_seed(seed + k)
            net, width = eyes.open()
            flow = make(features, width, **{**defaults, **(arguments or {})})
            inner = net if flow.embed is None or net is None else nn.Sequential(net, flow.embed)
            flows.append(Flow(flow.transform, flow.base, inner if net is not None else flow.embed))
    return flows


def join(way: Transform, flow: Flow, eyes: Eyes) -> Flow:
    """One flow from parameters and raw observations."""
    layers = flow.transform if isinstance(flow.transform, Chain) else [flow.transform]
    first = list(way) if isinstance(way, Chain) else [way]
    door = eyes.first if flow.embed is None else nn.Sequential(eyes.first, flow.embed)
    return Flow(Chain(*first, *layers), flow.base, door)

"""Recipes inside ``sbi``, and posteriors of ``sbi`` under the diagnostics of this library.

``density_estimator`` is what ``sbi.inference.NPE`` takes in place of the name of one of its own networks, and
``likelihood_estimator`` what ``NLE`` takes: a function of the training data that builds the network, here a flow behind the
interface of ``ConditionalDensityEstimator``. The other way round, ``from_sbi`` makes a posterior of ``sbi`` one of
``bijectory.apps.posterior``, so that ``sbc``, ``tarp``, ``local_c2st`` and ``recalibrate`` take it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.apps.posterior import Posterior, as_prior
from bijectory.densities import Flow
from bijectory.errors import ConfigError, ShapeError, check
from bijectory.interop.extras import need
from bijectory.recipes import find_recipe
from bijectory.transforms import Chain, Standardize, Transform

need("sbi", "sbi")
Estimator: Any = need("sbi.neural_nets.estimators", "sbi").ConditionalDensityEstimator

__all__ = ["FlowEstimator", "SbiPosterior", "density_estimator", "from_sbi", "likelihood_estimator"]

Recipe = str | Callable[..., Flow]
LEAST = 1e-6  # a column that is constant keeps its scale, as far as float32 can tell


class FlowEstimator(Estimator):
    """A conditional flow as a density estimator of ``sbi``.

    Args:
        net: The flow, float32 as all of ``sbi``; its raw context has events of shape ``condition_shape``.
        input_shape: Shape of what the density is of.
        condition_shape: Shape of the condition.

    Example:
        >>> from bijectory import nsf
        >>> estimator = FlowEstimator(nsf(2, 3), torch.Size([2]), torch.Size([3]))
        >>> estimator.log_prob(torch.zeros(5, 4, 2), torch.zeros(4, 3)).shape
        torch.Size([5, 4])
    """

    net: Flow

    def __init__(self, net: Flow, input_shape: torch.Size, condition_shape: torch.Size) -> None:
        super().__init__(net, input_shape, condition_shape)

    @property
    def embedding_net(self) -> nn.Module | None:
        """What the condition passes first."""
        return self.net.embed

    def log_prob(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """``(sample, batch, *input), ([sample,] batch, *condition) -> (sample, batch)``."""
        self._check_input_shape(input)
        self._check_condition_shape(condition)
        lead = input if input.dim() > 1 + len(self.input_shape) else input.unsqueeze(0)
        return self.net.log_prob(lead, condition)

    def loss(self, input: Tensor, condition: Tensor, **kwargs: Any) -> Tensor:
        """Negative log-likelihood of each row, ``(batch,)``."""
        return -self.log_prob(input.unsqueeze(0), condition)[0]

    def sample(self, sample_shape: Any, condition: Tensor, **kwargs: Any) -> Tensor:
        """Draws ``(*sample_shape, batch, *input)``."""
        self._check_condition_shape(condition)
        return self.net.sample(tuple(sample_shape), condition)

    def sample_and_log_prob(self, sample_shape: Any, condition: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities ``(*sample_shape, batch)`` in one pass."""
        self._check_condition_shape(condition)
        return self.net.rsample_and_log_prob(tuple(sample_shape), condition)


class Door(nn.Module):
    """The condition, standardised and embedded: ``(*batch, *event) -> (*batch, context)``.

    Args:
        x: Conditions that set the scale, ``(n, *event)``.
        net: Network of ``(n, *event)``; the values themselves, flat, if None.
        scale: Whether to standardise.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, x: Tensor, net: nn.Module | None, *, scale: bool) -> None:
        super().__init__()
        loc, deviation = x.mean(0), x.std(0)
        self.register_buffer("loc", loc if scale else torch.zeros_like(loc))
        self.register_buffer("scale", torch.where(deviation > LEAST, deviation, 1.0) if scale else torch.ones_like(loc))
        self.net = net if net is not None else nn.Flatten()

    def forward(self, c: Tensor) -> Tensor:
        """Embed."""
        batch = c.shape[: c.dim() - self.loc.dim()]
        out = self.net(((c - self.loc) / self.scale).reshape(-1, *self.loc.shape))
        return out.reshape(*batch, out.shape[-1])


def density_estimator(
    recipe: Recipe = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    *,
    prior: Any = None,
    embedding_net: nn.Module | None = None,
    z_score: bool = True,
) -> Callable[[Tensor, Tensor], FlowEstimator]:
    """The density of parameters given data, for ``sbi.inference.NPE(prior, density_estimator=...)``.

    Args:
        recipe: Name of a recipe that is trained by likelihood, or a function ``(features, context, **recipe_args) -> Flow``.
        recipe_args: Arguments of the recipe.
        prior: A distribution of the parameters. Its bounds then hold by construction: nothing leaks out of the prior, and
            ``sbi`` has nothing to reject. None: the parameters are real numbers.
        embedding_net: Network of the data ``(n, *event) -> (n, width)``; it is trained with the flow.
        z_score: Standardise parameters and data by their training sets.

    Returns:
        A function ``(theta, x) -> FlowEstimator``, which ``sbi`` calls with the training data.

    Raises:
        ConfigError: If the recipe is unknown, or is trained otherwise.

    Example:
        >>> build = density_estimator("nsf", {"layers": 2, "hidden": (8,)})
        >>> build(torch.randn(50, 2), torch.randn(50, 3)).sample((5,), torch.zeros(4, 3)).shape
        torch.Size([5, 4, 2])
    """
    make, arguments = _recipe(recipe), dict(recipe_args or {})
    way = Chain() if prior is None else as_prior(prior).unconstrain().float()

    def build(theta: Tensor, x: Tensor) -> FlowEstimator:
        return _build(make, arguments, way, embedding_net, theta, x, z_score=z_score)

    return build


def likelihood_estimator(
    recipe: Recipe = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    *,
    embedding_net: nn.Module | None = None,
    z_score: bool = True,
) -> Callable[[Tensor, Tensor], FlowEstimator]:
    """The density of data given parameters, for ``sbi.inference.NLE(prior, density_estimator=...)``.

    Args:
        recipe: As in ``density_estimator``.
        recipe_args: Arguments of the recipe.
        embedding_net: Network of the parameters ``(n, features) -> (n, width)``.
        z_score: Standardise parameters and data by their training sets.

    Returns:
        A function ``(theta, x) -> FlowEstimator`` of data given parameters.

    Example:
        >>> build = likelihood_estimator("real_nvp")
        >>> build(torch.randn(50, 2), torch.randn(50, 3)).input_shape
        torch.Size([3])
    """
    make, arguments = _recipe(recipe), dict(recipe_args or {})

    def build(theta: Tensor, x: Tensor) -> FlowEstimator:
        return _build(make, arguments, Chain(), embedding_net, x, theta, z_score=z_score)

    return build


def _recipe(recipe: Recipe) -> Callable[..., Flow]:
    if not isinstance(recipe, str):
        check(callable(recipe), ConfigError, f"recipe must be a name or a function, got {recipe!r}.")
        return recipe
    found = find_recipe(recipe)
    remedy = f'sbi trains by likelihood, {recipe!r} by {found.objective}; use "nsf", or bijectory.fit_npe.'
    check(found.objective == "nll", ConfigError, remedy)
    return found.build


def _build(
    make: Callable[..., Flow],
    arguments: Mapping[str, Any],
    way: Transform,
    net: nn.Module | None,
    target: Tensor,
    condition: Tensor,
    *,
    z_score: bool,
) -> FlowEstimator:
    shape = tuple(target.shape)
    check(target.dim() == 2, ShapeError, f"the density is of {shape[1:]}; a recipe of vectors takes (rows, features).")
    features, door = shape[1], Door(condition, net, scale=z_score)
    with torch.no_grad():
        width = door(condition[:2]).shape[-1]
        free = way.forward(target)[0]
    inner = make(features, width, **arguments)
    steps = [way]
    if z_score:
        deviation = free.std(0)
        steps.append(Standardize(features, free.mean(0), torch.where(deviation > LEAST, deviation, 1.0)))
    flow = Flow(Chain(*steps, inner.transform), inner.base, door)
    return FlowEstimator(flow.float(), target.shape[1:], condition.shape[1:])


class SbiPosterior(Posterior):
    """A posterior of ``sbi`` behind the interface of ``bijectory.apps.posterior``; ``from_sbi`` makes it.

    Example:
        >>> from bijectory.apps.posterior import sbc
        >>> sbc(from_sbi(posterior, prior), simulations)  # doctest: +SKIP
    """

    normalised = False  # what leaks out of the prior is cut off and not counted

    def __init__(self, posterior: Any, prior: Any) -> None:
        self.direct, self.estimator = posterior, posterior.posterior_estimator
        self.prior, self.event_shape = as_prior(prior), torch.Size(self.estimator.condition_shape)

    def __repr__(self) -> str:
        return f"SbiPosterior({', '.join(self.prior.names)} | x {tuple(self.event_shape)})"

    def _log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(theta.shape[:-1], x.shape[: x.dim() - len(self.event_shape)])
        rows = theta.expand(*batch, theta.shape[-1]).reshape(1, -1, theta.shape[-1])
        given = x.expand(*batch, *self.event_shape).reshape(-1, *self.event_shape)
        return self.estimator.log_prob(rows.float(), given.float())[0].reshape(batch).to(theta.dtype)

    def _sample(self, n: int, x: Tensor, seed: int | None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        rows = x.reshape(-1, *self.event_shape).float()
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            size = max(1, min(10_000, 100_000 // len(rows)))  # what sbi would cut it down to, with a warning
            draws = self.direct.sample_batched((n,), rows, max_sampling_batch_size=size, show_progress_bars=False)
        low, high = (draws.new_tensor(b).double() for b in zip(*self.prior.bounds, strict=True))
        return draws.double().clamp(low, high).reshape(n, *batch, -1)


def from_sbi(posterior: Any, prior: Any) -> SbiPosterior:
    """A posterior of ``sbi`` for the questions and diagnostics of ``bijectory.apps.posterior``.

    Args:
        posterior: What ``NPE(...).build_posterior(sample_with="direct")`` returned.
        prior: Its prior, with names and bounds if it is a ``Prior``.

    Raises:
        ConfigError: If the posterior is not sampled directly.

    Example:
        >>> from_sbi(inference.build_posterior(), prior).at(x).credible_intervals(0.9)  # doctest: +SKIP
    """
    direct = need("sbi.inference.posteriors", "sbi").DirectPosterior
    got = type(posterior).__name__
    remedy = f"only a DirectPosterior can be evaluated at many observations, got {got}; train by NPE."
    check(isinstance(posterior, direct), ConfigError, remedy)
    return SbiPosterior(posterior, prior)

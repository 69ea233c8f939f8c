r"""The border to ``torch.distributions``, both ways.

=========================================  ============================================
of torch                                   here
=========================================  ============================================
``flow.at(c)``, a ``Distribution``         a ``Flow``
``FlowTransform(flow)``, a ``Transform``   the map of a ``Flow``, or a ``Transform``
a ``Distribution``                         ``TorchDensity``, a ``Density``: a base
a ``Transform``                            ``TorchTransform``, a ``Transform``: a layer
a ``TransformedDistribution``              ``as_density``: a ``Flow``
=========================================  ============================================

A transform of torch goes from noise to data, one of this library from data to latent. Both wrappers keep the meaning:
``TorchTransform(t).inverse`` is ``t``, and ``FlowTransform(flow)`` is ``flow.to_data``.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution, biject_to, constraints, transforms

from bijectory.apps import Estimate
from bijectory.densities import Density, Flow, FlowDistribution
from bijectory.densities.base import open_unit
from bijectory.errors import ConfigError, check, check_type
from bijectory.ops.shape import draw_shape, sum_event
from bijectory.transforms import Chain, Inverse, Transform

PARTS = (Distribution, transforms.Transform, constraints.Constraint)


def owned(part: Any) -> Any:
    """A copy of a torch distribution or transform with tensors of its own, detached, that checks no values."""
    if isinstance(part, Tensor):
        return part.detach().clone()
    if isinstance(part, (list, tuple)):
        return type(part)(owned(p) for p in part)
    if not isinstance(part, PARTS) or isinstance(part, nn.Module):
        return part
    new = copy.copy(part)
    new.__dict__.update({k: owned(v) for k, v in vars(part).items()})
    if isinstance(new, Distribution):
        new._validate_args = False
    return new


def moved(part: Any, move: Callable[[Tensor], Tensor]) -> Any:
    """Apply what ``Module.to`` applies to every tensor inside, in place."""
    if isinstance(part, Tensor):
        return move(part)
    if isinstance(part, (list, tuple)):
        return type(part)(moved(p, move) for p in part)
    if isinstance(part, PARTS) and not isinstance(part, nn.Module):
        part.__dict__.update({k: moved(v, move) for k, v in vars(part).items()})
    return part


class TorchDensity(Density):
    """A ``torch.distributions.Distribution`` as a density: the base of a flow, a proposal, a target.

    Its batch shape becomes part of the event, as in ``torch.distributions.Independent``. It owns a copy of the values and
    learns nothing; they follow ``.to(...)``. Outside the support the log-density is ``-inf``. A flow over it cannot be
    stored by ``save``, for a specification holds parts of this library only.

    Args:
        distribution: Continuous, with a batch or event shape of at least one dimension.

    Raises:
        ConfigError: If it is discrete, a scalar, or lives on a surface, such as a simplex.

    Example:
        >>> from torch.distributions import Laplace
        >>> p = TorchDensity(Laplace(torch.zeros(2), 1.0))
        >>> p.event_shape, p.log_prob(torch.zeros(5, 2))[0]
        (torch.Size([2]), tensor(-1.3863))
    """

    _like: Tensor
    _inner: Tensor

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        check_type(distribution, Distribution, "distribution")
        name = type(distribution).__name__
        event = distribution.batch_shape + distribution.event_shape
        check(len(event) > 0, ConfigError, f"{name} is of one number; give it vectors: {name}(torch.zeros(d), ...).")
        support: Any = distribution.support
        check(not support.is_discrete, ConfigError, f"{name} is discrete; a flow needs continuous variables.")
        with torch.no_grad():
            inner = _inside(distribution, event, name)
        self.distribution = owned(distribution)
        self.event_shape = event
        self.register_buffer("_inner", inner, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TorchDensity":  # noqa: FBT001, FBT002
        moved(self.distribution, fn)
        return super()._apply(fn, recurse)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        d = self.distribution
        dims = len(d.event_shape)
        ok = _holds(d.support, x)
        safe = torch.where(ok.reshape(*ok.shape, *(1,) * dims), x, self._inner)
        missing = x.isnan().flatten(x.dim() - dims).any(-1) if dims else x.isnan()
        outside = torch.where(missing, math.nan, -math.inf).to(x.dtype)
        return sum_event(torch.where(ok, d.log_prob(safe), outside), len(d.batch_shape))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        lead = draw_shape(shape, c, torch.Size())
        if generator is None:
            return self.distribution.sample(lead)
        # Torch's distributions know the global generator only.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        devices = [self._inner.device] if self._inner.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            return self.distribution.sample(lead)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        if self.distribution.event_shape:
            inner: Any = self.distribution
            independent = isinstance(inner, torch.distributions.Independent) and not inner.base_dist.event_shape
            if not independent:
                return super().from_uniform(u, c)
            inner = inner.base_dist
        else:
            inner = self.distribution
        try:
            return inner.icdf(open_unit(u).to(self._inner.dtype))
        except NotImplementedError:
            return super().from_uniform(u, c)


def _holds(support: Any, x: Tensor) -> Tensor:
    """Whether values lie in the support; torch's own check of independent ones fails on an empty batch."""
    if isinstance(support, constraints.independent):
        inner, dims = _holds(support.base_constraint, x), support.reinterpreted_batch_ndims
        return inner.flatten(inner.dim() - dims).all(-1) if dims else inner
    return support.check(x)


def _inside(distribution: Distribution, event: torch.Size, name: str) -> Tensor:
    """A point of the support, with the dtype of the draws."""
    like = distribution.sample()
    support: Any = distribution.support
    try:
        way = biject_to(support)
    except NotImplementedError:
        return like
    free = way.inverse_shape(event)
    flat = free.numel() == event.numel()
    remedy = "use its unconstrained coordinates: TransformedDistribution with the transform biject_to(support).inv"
    check(flat, ConfigError, f"{name} lives on a surface of {free.numel()} dimensions in {event.numel()}; {remedy}.")
    return way(torch.zeros(free, dtype=like.dtype, device=like.device)).expand(event).clone()


class TorchTransform(Transform):
    """A ``torch.distributions.transforms.Transform`` as a layer: ``inverse``, latent -> data, is the transform itself.

    Args:
        transform: Bijective, between events of the same number of values. Its tensors are copied and not trained.
        event_dim: Number of dimensions of an event of data; at least that of the transform.

    Raises:
        ConfigError: If it is not bijective, or changes the number of values.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> layer = TorchTransform(ExpTransform())
        >>> layer.inverse(torch.zeros(2)), layer.forward(torch.ones(2))
        ((tensor([1., 1.]), tensor(0.)), (tensor([0., 0.]), tensor(-0.)))
    """

    def __init__(self, transform: transforms.Transform, event_dim: int = 1) -> None:
        super().__init__()
        check_type(transform, transforms.Transform, "transform")
        name, ends = type(transform).__name__, (transform.domain.event_dim, transform.codomain.event_dim)
        check(bool(transform.bijective), ConfigError, f"{name} is not bijective: a density needs its inverse.")
        check(event_dim >= max(*ends, 1), ConfigError, f"{name} needs event_dim of at least {max(*ends, 1)}.")
        self.transform = owned(transform)
        self.event_dim, self.latent_event_dim = event_dim, event_dim + ends[0] - ends[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "TorchTransform":  # noqa: FBT001, FBT002
        moved(self.transform, fn)
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = self.transform.inv(x)
        return z, -self._ladj(z, x)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.transform(z)
        return x, self._ladj(z, x)

    def _ladj(self, z: Tensor, x: Tensor) -> Tensor:
        return sum_event(self.transform.log_abs_det_jacobian(z, x), self.event_dim - self.transform.codomain.event_dim)

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        return torch.Size(self.transform.inverse_shape(data_shape))

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        shape = torch.Size(self.transform.forward_shape(latent_shape))
        same, name = shape.numel() == latent_shape.numel(), type(self.transform).__name__
        check(
            same, ConfigError, f"{name} turns events {tuple(latent_shape)} into {tuple(shape)}: a surface, no density."
        )
        return shape


class FlowTransform(transforms.Transform):
    """A flow's map, or a transform of this library, as a ``torch.distributions.transforms.Transform``: latent -> data.

    Args:
        flow: A ``Flow`` (its base is left out) or a ``Transform``.
        c: Context.
        cache_size: As of every transform of torch: 1 remembers the last pair.

    Example:
        >>> from bijectory import StandardNormal, real_nvp
        >>> from torch.distributions import Independent, Normal, TransformedDistribution
        >>> flow = real_nvp(2)
        >>> p = TransformedDistribution(Independent(Normal(torch.zeros(2), 1.0), 1), FlowTransform(flow))
        >>> torch.allclose(p.log_prob(torch.ones(2)), flow.log_prob(torch.ones(2)))
        True
    """

    bijective = True

    def __init__(self, flow: Flow | Transform, c: Tensor | None = None, cache_size: int = 0) -> None:
        check(isinstance(flow, (Flow, Transform)), ConfigError, f"give a Flow or a Transform, got {flow!r}.")
        layer = flow.transform if isinstance(flow, Flow) else flow
        self.flow, self.c = flow, c
        self.domain = constraints.independent(constraints.real, layer.latent_event_dim)
        self.codomain = constraints.independent(constraints.real, layer.event_dim)
        self._layer, self._by_data = layer, _costly_decoder(layer)
        super().__init__(cache_size=cache_size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlowTransform) and other.flow is self.flow and other.c is self.c

    __hash__ = object.__hash__

    def with_cache(self, cache_size: int = 1) -> "FlowTransform":
        """The same transform with another size of cache."""
        return self if cache_size == self._cache_size else FlowTransform(self.flow, self.c, cache_size)

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.to_data(z, self.c) if isinstance(self.flow, Flow) else self.flow.inverse(z, self.c)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow.to_latent(x, self.c) if isinstance(self.flow, Flow) else self.flow.forward(x, self.c)

    def _call(self, x: Tensor) -> Tensor:
        return self._decode(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._encode(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``log|det dy/dx|`` for latent ``x`` and data ``y``, from the side that costs less."""
        return -self._encode(y)[1] if self._by_data else self._decode(x)[1]

    def forward_shape(self, shape: Any) -> torch.Size:
        """Shape of data for a shape of latents."""
        return self._shape(torch.Size(shape), self._layer.latent_event_dim, self._layer.data_shape)

    def inverse_shape(self, shape: Any) -> torch.Size:
        """Shape of latents for a shape of data."""
        return self._shape(torch.Size(shape), self._layer.event_dim, self._layer.latent_shape)

    def _shape(self, shape: torch.Size, dims: int, turn: Callable[[torch.Size], torch.Size]) -> torch.Size:
        cut = len(shape) - dims
        return torch.Size((*shape[:cut], *turn(shape[cut:])))


def _costly_decoder(layer: nn.Module) -> bool:
    """Whether latent -> data goes feature by feature, or iterates, somewhere."""
    if isinstance(layer, Inverse):
        return False
    if isinstance(layer, Transform) and layer.solver != "closed form":
        return True
    return any(_costly_decoder(child) for child in layer.children())


def as_density(distribution: Distribution) -> Density:
    """A distribution of torch as a density: a ``TransformedDistribution`` becomes a ``Flow``, ``flow.at()`` the flow again.

    Raises:
        ConfigError: As ``TorchDensity`` and ``TorchTransform`` do; or if it is a flow at a context.

    Example:
        >>> from torch.distributions import AffineTransform, ExpTransform, Normal, TransformedDistribution
        >>> steps = [AffineTransform(1.0, 2.0), ExpTransform()]
        >>> p = TransformedDistribution(Normal(torch.zeros(2), 1.0), steps)
        >>> flow = as_density(p)
        >>> torch.allclose(flow.log_prob(torch.ones(2)), p.log_prob(torch.ones(2)).sum())
        True
    """
    if isinstance(distribution, FlowDistribution):
        remedy = "it is a flow at a context; use the flow itself and pass the context with each call."
        check(distribution.c is None and not distribution.batch_shape, ConfigError, remedy)
        return distribution.flow
    if isinstance(distribution, TransformedDistribution):
        base, steps = as_density(distribution.base_dist), []
        dims = len(distribution.batch_shape + distribution.event_shape)
        for t in reversed(distribution.transforms):
            steps.append(TorchTransform(t, dims))
            dims = steps[-1].latent_event_dim
        return Flow(Chain(*steps), base)
    return TorchDensity(distribution)


def kl_divergence(
    p: Distribution | Density, q: Distribution | Density, *, samples: int = 10_000, seed: int | None = None
) -> Estimate:
    r"""Monte-Carlo estimate of :math:`\mathrm{KL}(p \| q) = E_p[\log p - \log q]` with its standard error, nats.

    What ``torch.distributions.kl_divergence`` cannot know about a flow. No gradients; ``objectives`` has those.

    Args:
        p: Draws come from it. A flow at a context is ``flow.at(c)``.
        q: Defined wherever ``p`` has draws, else the estimate is ``inf``.
        samples: Number of draws, at least 2.
        seed: Of the draws; None takes the global generator of torch.

    Returns:
        One number for each batch element of ``p``.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> one = torch.ones(2)
        >>> found = kl_divergence(Independent(Normal(one, one), 1), Independent(Normal(0 * one, one), 1), seed=0)
        >>> abs(found.value - 1.0) < 4 * found.se
        tensor(True)
    """
    check(samples >= 2, ConfigError, f"samples must be at least 2, got {samples}.")
    with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        x = p.sample((samples,))
        terms = (p.log_prob(x) - q.log_prob(x)).double()
    return Estimate(terms.mean(0), terms.std(0) / math.sqrt(samples))

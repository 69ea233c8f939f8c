r"""Priors: any ``torch.distributions``, with the bounds of every parameter.

A bounded parameter is mapped onto the real line by a bijection that belongs to the flow. Whatever the weights, draws of
the flow lie inside the bounds and its density integrates to one there: no probability leaks out, nothing is rejected or
renormalised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bijectory.bijections import Log, SoftClip
from bijectory.densities import BoxUniform, Density
from bijectory.errors import ConfigError, ShapeError, check
from bijectory.transforms import Chain, Elementwise, Partition, Standardize, Transform

Bounds = tuple[float, float]


class Prior:
    """A distribution of parameters, with their names and bounds.

    Args:
        distribution: A ``torch.distributions.Distribution`` of vectors (or with a batch shape ``(d,)``: independent
            parameters); a list of distributions of numbers, or a mapping ``name -> distribution``; or a density of this
            library without context.
        names: Of the parameters; ``theta0, theta1, ...`` or the keys of the mapping if None.
        bounds: ``(low, high)`` for each parameter, with ``-inf`` and ``inf`` where there is none; None reads them off the
            support of the distribution.

    Raises:
        ConfigError: If the distribution is discrete, or its bounds cannot be read off.

    Example:
        >>> from torch.distributions import Normal, Uniform
        >>> prior = Prior({"rate": Uniform(0.0, 2.0), "shift": Normal(0.0, 1.0)})
        >>> prior.names, prior.bounds
        (('rate', 'shift'), ((0.0, 2.0), (-inf, inf)))
        >>> prior.log_prob(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
        tensor([-1.6121,    -inf])
    """

    def __init__(
        self,
        distribution: "Distribution | Density | Sequence[Distribution] | Mapping[str, Distribution]",
        *,
        names: Sequence[str] | None = None,
        bounds: Sequence[Bounds] | None = None,
    ) -> None:
        if isinstance(distribution, Mapping):
            names, distribution = tuple(distribution) if names is None else names, list(distribution.values())
        self.parts: list[Any] = list(distribution) if isinstance(distribution, Sequence) else [distribution]
        check(bool(self.parts), ConfigError, "a prior needs at least one parameter.")
        self.widths = [_width(p) for p in self.parts]
        self.features = sum(self.widths)
        self.names = tuple(names) if names is not None else tuple(f"theta{k}" for k in range(self.features))
        distinct = len(set(self.names)) == len(self.names) == self.features
        check(distinct, ConfigError, f"give {self.features} different names, got {self.names}.")
        if bounds is None:
            bounds = [b for p, n in zip(self.parts, self.widths, strict=True) for b in _bounds(p, n)]
        self.bounds: tuple[Bounds, ...] = tuple((float(low), float(high)) for low, high in bounds)
        check(len(self.bounds) == self.features, ConfigError, f"give {self.features} bounds, got {len(self.bounds)}.")
        for name, (low, high) in zip(self.names, self.bounds, strict=True):
            ok = low < high and not (low == -math.inf and high < math.inf)
            remedy = "need low < high, and a low one with a high one; use the negative of a parameter below a bound"
            check(ok, ConfigError, f"parameter {name!r} has bounds ({low}, {high}): bounds {remedy}.")

    def __repr__(self) -> str:
        parts = ", ".join(f"{n} in ({a:g}, {b:g})" for n, (a, b) in zip(self.names, self.bounds, strict=True))
        return f"Prior({parts})"

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draws ``(n, features)``, float64; None takes the global generator of torch."""
        check(n >= 0, ConfigError, f"n must not be negative, got {n}.")
        with torch.random.fork_rng(devices=[], enabled=seed is not None), torch.no_grad():
            if seed is not None:
                torch.manual_seed(seed)
            shape = (n,)
            draws = [p.sample(shape).reshape(n, w).double() for p, w in zip(self.parts, self.widths, strict=True)]
        return torch.cat(draws, -1)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log-density in nats, ``(*batch, features) -> (*batch,)``; ``-inf`` outside the bounds."""
        check(
            theta.dim() >= 1 and theta.shape[-1] == self.features,
            ShapeError,
            f"theta has shape {tuple(theta.shape)}; expected (*batch, {self.features}).",
        )
        low, high = (theta.new_tensor(b) for b in zip(*self.bounds, strict=True))
        inside = (theta >= low) & (theta <= high)
        middle = torch.where(low.isfinite(), torch.where(high.isfinite(), (low + high) / 2, low + 1), 0.0)
        safe = torch.where(inside, theta, middle)
        total: Tensor = theta.new_zeros(theta.shape[:-1])
        for p, part in zip(self.parts, safe.split(self.widths, -1), strict=True):
            total = total + _log_prob(p, part)
        return torch.where(inside.all(-1), total, -math.inf)

    def unconstrain(self, *, softness: float = 0.05) -> Chain:
        """The transform from parameters to real numbers without bounds, float64: what keeps a flow inside the bounds.

        Args:
            softness: Of ``SoftClip``, for parameters with two bounds; those with one have the logarithm.
        """
        kinds = [0 if low == -math.inf else 1 if high == math.inf else 2 for low, high in self.bounds]
        if not any(kinds):
            return Chain()
        loc = [low if kind else 0.0 for kind, (low, _) in zip(kinds, self.bounds, strict=True)]
        scale = [high - low if kind == 2 else 1.0 for kind, (low, high) in zip(kinds, self.bounds, strict=True)]
        groups = [[k for k, found in enumerate(kinds) if found == kind] for kind in sorted(set(kinds))]
        families = (None, Log(), SoftClip(softness=softness))
        steps: list[Transform] = []
        for kind, group in zip(sorted(set(kinds)), groups, strict=True):
            family = families[kind]
            steps.append(Chain() if family is None else Elementwise(family, len(group)))
        vectors = (torch.tensor(v, dtype=torch.float64) for v in (loc, scale))
        return Chain(Standardize(self.features, *vectors), Partition(*steps, groups=groups)).double()


def box_uniform(low: Sequence[float], high: Sequence[float], *, names: Sequence[str] | None = None) -> Prior:
    """Independent uniform parameters.

    Example:
        >>> box_uniform([0.0, -1.0], [2.0, 1.0], names=["a", "b"])
        Prior(a in (0, 2), b in (-1, 1))
    """
    bounds = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    same = bounds[0].dim() == 1 and bounds[0].shape == bounds[1].shape
    check(same, ConfigError, f"low and high must be lists of one length, got {low} and {high}.")
    for k, (a, b) in enumerate(zip(*(b.tolist() for b in bounds), strict=True)):
        name = names[k] if names is not None and k < len(names) else f"theta{k}"
        check(a < b, ConfigError, f"parameter {name!r} has bounds ({a:g}, {b:g}): low must be below high.")
    return Prior(torch.distributions.Independent(torch.distributions.Uniform(*bounds), 1), names=names)


def as_prior(prior: Any) -> Prior:
    """What a user calls a prior as a ``Prior``."""
    return prior if isinstance(prior, Prior) else Prior(prior)


def _width(part: Any) -> int:
    check(
        isinstance(part, (Distribution, Density)),
        ConfigError,
        f"a prior is made of torch.distributions (or densities of this library), got {type(part).__name__} {part!r}.",
    )
    if isinstance(part, Density):
        check(part.context == 0 and len(part.event_shape) == 1, ConfigError, f"{part} is no density of plain vectors.")
        return part.event_shape[0]
    shape = (*part.batch_shape, *part.event_shape)
    check(len(shape) == 1 or not shape, ConfigError, f"{part} has shape {shape}; expected a number or a vector.")
    return shape[0] if shape else 1


def _log_prob(part: Any, theta: Tensor) -> Tensor:
    if isinstance(part, Density):
        return part.log_prob(theta)
    if len(part.event_shape) == 1:
        return part.log_prob(theta)
    out: Tensor = part.log_prob(theta if part.batch_shape else theta[..., 0])
    return out.sum(-1) if part.batch_shape else out


def _bounds(part: Any, width: int) -> list[Bounds]:
    if isinstance(part, BoxUniform):
        sides = (torch.tensor(b, dtype=torch.float64).expand(width).tolist() for b in (part.lower, part.upper))
        return list(zip(*sides, strict=True))
    if isinstance(part, Density):
        return [(-math.inf, math.inf)] * width
    support: Any = part.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    check(not support.is_discrete, ConfigError, f"{part} is discrete; a flow needs continuous parameters.")
    kinds: tuple[type, ...] = (constraints.interval, constraints.half_open_interval, constraints.less_than)
    kinds = (*kinds, constraints.greater_than, constraints.greater_than_eq)
    known = support is constraints.real or isinstance(support, (type(constraints.real), *kinds))
    check(
        known, ConfigError, f"the bounds of {part} cannot be read off its support {support}; pass bounds=[(l, h), ...]."
    )
    return list(
        zip(
            _side(getattr(support, "lower_bound", -math.inf), width),
            _side(getattr(support, "upper_bound", math.inf), width),
            strict=True,
        )
    )


def _side(bound: Any, width: int) -> list[float]:
    return torch.as_tensor(bound, dtype=torch.float64).expand(width).tolist()

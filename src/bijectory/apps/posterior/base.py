"""What can be asked of a posterior, however it was learned."""

import abc
import copy
import dataclasses
import math
from typing import Any, Self

import torch
from torch import Tensor

from bijectory.apps.posterior.prior import Prior
from bijectory.apps.posterior.simulations import Simulator, call, rows
from bijectory.errors import ConfigError, DataError, ShapeError, check

STARTS, ASCENT = 20, 300  # the search for the mode: best draws it starts from, steps


class Posterior(abc.ABC):
    """The distribution of parameters given an observation.

    All methods take the observation ``x``; without it they use that of ``at``.

    Attributes:
        prior: The prior.
        event_shape: Shape of one observation.
        normalised: Whether ``log_prob`` is normalised.
        x: The observation that methods use by default, or None.
        missing: Whether an observation may have missing values, NaN: it was learned from simulations with some.
    """

    prior: Prior
    event_shape: torch.Size
    normalised: bool = True
    x: Tensor | None = None
    missing: bool = False

    @abc.abstractmethod
    def _log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """``theta (*batch, features), x (*batch', *event)`` -> log-density; the batch shapes broadcast."""

    @abc.abstractmethod
    def _sample(self, n: int, x: Tensor, seed: int | None) -> Tensor:
        """``(n, *batch, features)`` for observations ``(*batch, *event)``."""

    def _read(self, x: Any) -> Tensor:
        """One observation, checked."""
        x = torch.as_tensor(x) if isinstance(x, (list, tuple, float, int)) else x
        value = rows(x, "x") if not (isinstance(x, Tensor) and x.dim() == 0) else x[None].double()
        if value.shape == (1, *self.event_shape):
            value = value[0]
        check(
            value.shape == self.event_shape,
            ShapeError,
            f"the observation has shape {tuple(value.shape)}; the simulations have {tuple(self.event_shape)}.",
        )
        self._check_finite(value)
        return value

    def _check_finite(self, x: Tensor) -> None:
        message = "the observation is not finite; NaN is for a posterior that was learned with missing='indicate'."
        check(bool(x.isfinite().all()) or self.missing, DataError, message)
        check(
            bool(x.isfinite().any()) and not x.isinf().any(), DataError, "the observation is infinite, or all missing."
        )

    def _given(self, x: Any) -> Tensor:
        if x is None:
            check(self.x is not None, ConfigError, "which observation? Pass x, or use posterior.at(x).")
            return self.x  # type: ignore[return-value]
        return self._read(x)

    def at(self, x: Any) -> Self:
        """The same posterior, with ``x`` as the observation that methods use by default."""
        other = copy.copy(self)
        other.x = self._read(x)
        return other

    def sample(self, n: int, x: Any = None, *, seed: int | None = None) -> Tensor:
        """Draws ``(n, features)``, all inside the bounds of the prior."""
        check(n >= 0, ConfigError, f"n must not be negative, got {n}.")
        return self._sample(n, self._given(x), seed)

    def log_prob(self, theta: Any, x: Any = None) -> Tensor:
        """Log-density in nats, ``(*batch, features) -> (*batch,)``; ``-inf`` outside the bounds of the prior."""
        return self._scored(rows(theta, "theta"), self._given(x))

    def sample_each(self, n: int, x: Tensor, *, seed: int | None = None) -> Tensor:
        """``n`` draws for each of many observations: ``(m, *event) -> (n, m, features)``."""
        return self._sample(n, x, seed)

    def log_prob_each(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log-density of ``theta (*k, m, features)`` given the observations ``(m, *event)``, row by row."""
        return self._scored(theta, x)

    def _scored(self, theta: Tensor, x: Tensor) -> Tensor:
        check(
            theta.shape[-1] == self.prior.features,
            ShapeError,
            f"theta has shape {tuple(theta.shape)}; expected (*batch, {self.prior.features}).",
        )
        low, high = (theta.new_tensor(b) for b in zip(*self.prior.bounds, strict=True))
        inside = ((theta >= low) & (theta <= high)).all(-1)
        with torch.no_grad():
            found = self._log_prob(torch.where(inside[..., None], theta, self._inner(theta)), x)
        return torch.where(inside.expand(found.shape), found, -math.inf)

    def _inner(self, like: Tensor) -> Tensor:
        """A point inside the bounds."""
        ends = [(0.0, 0.0) if a == -math.inf else (a, a + 2 if b == math.inf else b) for a, b in self.prior.bounds]
        return like.new_tensor([(a + b) / 2 for a, b in ends])

    def map(self, x: Any = None, *, draws: int = 1000, seed: int | None = 0) -> Tensor:
        """The mode of the density, ``(features,)``: gradient ascent from the best draws, inside the bounds.

        The mode depends on the units of the parameters; it is that in the units of the prior.
        """
        given = self._given(x)
        theta = self._sample(draws, given, seed)
        score = self._scored(theta, given)
        best = score.argsort(descending=True)[:STARTS]
        way = self.prior.unconstrain()
        with torch.no_grad():
            u = way.forward(theta)[0]
            step = 0.05 * u.std(0).clamp(min=1e-12)
        leaf = (u[best] / step).requires_grad_()
        optimizer = torch.optim.Adam([leaf], lr=0.5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ASCENT)
        top, where = score[best[0]], theta[best[0]]
        with torch.enable_grad():
            for _ in range(ASCENT):
                point, _ = way.inverse(leaf * step)
                value = self._log_prob(point, given)
                k = int(value.argmax())
                if value[k] > top:
                    top, where = value[k].detach(), point[k].detach()
                (leaf.grad,) = torch.autograd.grad(-value.sum(), leaf)
                optimizer.step()
                schedule.step()
        return where

    def credible_intervals(self, level: float = 0.9, x: Any = None, *, draws: int = 4000, seed: int = 0) -> Tensor:
        """Central interval of each parameter, ``(features, 2)``."""
        check(0 < level < 1, ConfigError, f"level must be in (0, 1), got {level}.")
        theta = self.sample(draws, x, seed=seed)
        edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=theta.dtype)
        return torch.quantile(theta, edges, 0).mT

    def credible_region(
        self, level: float = 0.9, x: Any = None, *, draws: int = 4000, seed: int = 0
    ) -> "CredibleRegion":
        """Region of highest density that holds a part ``level`` of the draws."""
        check(0 < level < 1, ConfigError, f"level must be in (0, 1), got {level}.")
        given = self._given(x)
        score = self._scored(self._sample(draws, given, seed), given)
        return CredibleRegion(self.at(given), level, float(torch.quantile(score, 1 - level)))

    def predictive(self, simulator: Simulator, n: int = 1000, x: Any = None, *, seed: int = 0) -> Tensor:
        """Simulations from draws, ``(n, *event)``: what the model says that could have been observed."""
        return call(simulator, self.sample(n, x, seed=seed), seed=seed + 1)


@dataclasses.dataclass(frozen=True)
class CredibleRegion:
    """Where the density is at least ``threshold``.

    Attributes:
        posterior: With its observation.
        level: Probability of the region.
        threshold: Least log-density inside it, nats.
    """

    posterior: Posterior
    level: float
    threshold: float

    def contains(self, theta: Any) -> Tensor:
        """Which parameters ``(*batch, features)`` lie in the region."""
        return self.posterior.log_prob(theta) >= self.threshold

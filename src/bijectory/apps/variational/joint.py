"""A joint density of named parameters from ``torch.distributions``."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bijectory.apps.variational.parameters import Parameter, Parameters
from bijectory.errors import ConfigError, check

Prior = Distribution | Callable[[dict[str, Tensor]], Distribution]


class Joint:
    r"""Unnormalised log-posterior :math:`\sum_k \log p(x_k \mid x_{<k}) + \log p(y \mid x)` of named parameters.

    Args:
        priors: Names with distributions, or with functions of the values so far that return one. A value is ``(n,)``, or
            ``(n, size)`` of a vector. Names, sizes and supports are read off the distributions.
        log_likelihood: Function of all values by name that returns ``(n,)``; None for a prior alone.

    Raises:
        ConfigError: If a distribution is discrete, or has a support that cannot be mapped (a simplex, a matrix).

    Example:
        >>> from torch.distributions import HalfCauchy, Normal
        >>> joint = Joint(
        ...     {"mu": Normal(0.0, 5.0), "tau": HalfCauchy(5.0)},
        ...     lambda v: Normal(v["mu"], v["tau"]).log_prob(torch.tensor(1.0)),
        ... )
        >>> joint.parameters.columns, joint(torch.ones(3, 2)).shape
        (('mu', 'tau'), torch.Size([3]))
    """

    def __init__(
        self, priors: Mapping[str, Prior], log_likelihood: Callable[[dict[str, Tensor]], Tensor] | None = None
    ) -> None:
        self.priors, self.log_likelihood = dict(priors), log_likelihood
        entries: list[tuple[str, Parameter]] = []
        values: dict[str, Tensor] = {}
        for name, prior in self.priors.items():
            made = self._at(name, prior, values)
            fixed = isinstance(prior, Distribution)
            shape = made.batch_shape + made.event_shape if fixed else (made.batch_shape + made.event_shape)[1:]
            check(len(shape) <= 1, ConfigError, f"prior of {name!r} has events of shape {tuple(shape)}; use a vector.")
            entries.append((name, Parameter(_support(name, made.support), shape[0] if shape else None)))
            with torch.no_grad():
                values[name] = made.sample((1,) if fixed else ()).double()
        self.parameters = Parameters(tuple(entries))

    def __call__(self, x: Tensor) -> Tensor:
        """Log-density of rows ``(n, width)``: ``(n,)``."""
        values = self.parameters.named(x)
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        seen: dict[str, Tensor] = {}
        for name, prior in self.priors.items():
            term = self._at(name, prior, seen).log_prob(values[name])
            total = total + term.reshape(len(x), -1).sum(-1)
            seen[name] = values[name]
        return total if self.log_likelihood is None else total + self.log_likelihood(values)

    def _at(self, name: str, prior: Prior, values: dict[str, Tensor]) -> Distribution:
        made = prior if isinstance(prior, Distribution) else prior(dict(values))
        got = type(made).__name__
        check(
            isinstance(made, Distribution), ConfigError, f"prior of {name!r} must be a torch Distribution, got {got}."
        )
        return made


def _support(name: str, support: Any) -> Any:
    """The support of a distribution in the words of ``Parameter``."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    check(not support.is_discrete, ConfigError, f"prior of {name!r} is discrete; sum it out of the log-likelihood.")
    if support in (constraints.real, constraints.real_vector):
        return "real"
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    remedy = f"the support {support} of {name!r} cannot be mapped; write it with real, positive or bounded parameters."
    check(low is not None, ConfigError, remedy)
    return (_one(name, low), float("inf") if high is None else _one(name, high))


def _one(name: str, bound: Any) -> float:
    values = torch.as_tensor(bound, dtype=torch.float64).unique()
    check(len(values) == 1, ConfigError, f"the bounds of {name!r} differ between its values; declare one for each.")
    return float(values[0])

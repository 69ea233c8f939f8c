"""What the estimators share: the log-density with its supports, a proposal, and draws that somebody brings."""

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bijectory.apps.variational import Chains, Joint, Parameters, VariationalPosterior
from bijectory.apps.variational.density import LogDensity, UnnormalizedDensity
from bijectory.densities import Flow
from bijectory.errors import ConfigError, DataError, DomainError, NonFiniteError, ShapeError, check

CHAIN = "chain"  # the column of a data frame that tells chains apart
MIN_DRAWS = 8

Model = VariationalPosterior | Joint | LogDensity


@dataclasses.dataclass(frozen=True)
class Problem:
    """An unnormalised log-density of declared parameters, and a proposal if there is one."""

    density: UnnormalizedDensity
    flow: Flow | None

    @classmethod
    def of(cls, model: Model, parameters: Any = None, flow: Flow | None = None) -> "Problem":
        """From a fitted posterior, or from a log-density with its declarations.

        Raises:
            ConfigError: If there is no log-density, no declaration, or the flow has other features.
        """
        if isinstance(model, VariationalPosterior):
            check(parameters is None, ConfigError, "a posterior knows its parameters; leave `parameters` out.")
            if model.log_density is None:
                raise ConfigError(
                    "the log-density is not stored with a posterior; use VariationalPosterior.load(folder, log_density=f)."
                )
            function, parameters = model.log_density, model.parameters
            flow = model.flow if flow is None else flow
        else:
            check(
                callable(model),
                ConfigError,
                f"give a VariationalPosterior or a log-density, got {type(model).__name__}.",
            )
            function = model
            if isinstance(model, Joint):
                same = parameters is None or parameters == model.parameters
                check(same, ConfigError, "a Joint declares its parameters; leave `parameters` out.")
                parameters = model.parameters
        message = 'declare the parameters: {"mu": "real", "tau": "positive"}, or a number.'
        check(parameters is not None, ConfigError, message)
        declared = Parameters.declare(parameters)
        if flow is not None:
            got = tuple(flow.event_shape)
            check(
                got == (declared.width,), ConfigError, f"the flow has events {got}, the model {declared.width} columns."
            )
        return cls(UnnormalizedDensity(function, declared), flow)

    @property
    def proposal(self) -> Flow:
        """The flow.

        Raises:
            ConfigError: If there is none.
        """
        if self.flow is None:
            raise ConfigError(
                "there is no proposal; pass a fitted VariationalPosterior, or flow= beside the log-density."
            )
        return self.flow

    def log_density(self, draws: NDArray[np.float64]) -> Tensor:
        """Log-density of posterior draws ``(chains, n, width)``: ``(chains * n,)``, every one of them finite.

        Raises:
            DomainError: If the density is zero at a draw: they cannot be draws of it.
        """
        x = torch.from_numpy(draws).reshape(-1, draws.shape[-1])
        with torch.no_grad():
            value = self.density(x)
        zero = value.isneginf().nonzero().flatten()
        if len(zero):
            raise DomainError(
                f"log_density is -inf at {len(zero)} of {len(x)} posterior draws, first at "
                f"{self.density.describe(x[zero[0]])}: these are no draws of this density. Check the order and the units of "
                "the columns, and that the draws belong to this model."
            )
        return value


def read_draws(draws: Any, parameters: Parameters) -> NDArray[np.float64]:
    """Posterior draws with their chains kept apart: ``(chains, n, width)``.

    Args:
        draws: ``(chains, n, width)``; ``(n, width)`` of one chain; ``Chains``; or a data frame with the parameters as
            columns and, of several chains, a column "chain".
        parameters: What the columns are.

    Raises:
        ShapeError, DataError, NonFiniteError: If they are no such draws.
    """
    names = list(parameters.columns)
    if isinstance(draws, Chains):
        draws = draws.draws
    if isinstance(draws, pd.DataFrame):
        lost = [n for n in names if n not in draws.columns]
        check(not lost, DataError, f"the draws lack the columns {lost}; the parameters are {names}.")
        parts = [g for _, g in draws.groupby(CHAIN, sort=True)] if CHAIN in draws.columns else [draws]
        sizes = sorted({len(g) for g in parts})
        check(len(sizes) == 1, DataError, f"chains have {sizes} draws; cut them to the same length.")
        draws = np.stack([g[names].to_numpy(dtype=np.float64) for g in parts])
    x = draws.detach().cpu().double().numpy() if isinstance(draws, Tensor) else np.asarray(draws, dtype=np.float64)
    x = x[None] if x.ndim == 2 else x
    ok = x.ndim == 3 and x.shape[-1] == len(names)
    message = (
        f"draws have shape {x.shape}, expected (chains, n, {len(names)}) or (n, {len(names)}): {', '.join(names)}."
    )
    check(ok, ShapeError, message)
    check(x.shape[1] >= MIN_DRAWS, DataError, f"there are {x.shape[1]} draws in a chain; give at least {MIN_DRAWS}.")
    bad = int((~np.isfinite(x)).sum())
    check(bad == 0, NonFiniteError, f"{bad} values of the draws are not finite; leave those draws out.")
    return np.ascontiguousarray(x)


def halves(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two disjoint parts: whole chains where there are at least two, else the halves of the only one."""
    if len(draws) >= 2:
        return draws[0::2], draws[1::2]
    middle = draws.shape[1] // 2
    return draws[:, :middle], draws[:, middle:]


def log_mean_exp(values: Tensor) -> Tensor:
    """Logarithm of the mean of exponentials, ``(n,) -> ()``."""
    return values.logsumexp(0) - math.log(len(values))

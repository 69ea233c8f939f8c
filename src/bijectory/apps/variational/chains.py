"""Draws of Markov chains with what they are worth."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bijectory.apps.variational.convergence import ess, rhat

RHAT_LIMIT, ESS_LIMIT = 1.01, 400.0


@dataclasses.dataclass(frozen=True)
class Chains:
    """Draws of several Markov chains.

    Attributes:
        draws: ``(chains, n, width)``.
        columns: Names of the parameters.
        method: "independence" or "neutra".
        acceptance: Mean probability of acceptance (of the Hamiltonian moves).
        step: Step size that the warm-up found; 0 without.
        divergences: Trajectories whose energy ran away.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(4, 500, 1))
        >>> chains = Chains(draws, ("mu",), "independence", 0.9, 0.0, 0)
        >>> chains.converged, chains.frame().shape
        (True, (2000, 1))
    """

    draws: NDArray[np.float64]
    columns: tuple[str, ...]
    method: str
    acceptance: float
    step: float
    divergences: int

    def frame(self) -> pd.DataFrame:
        """All draws, chain after chain."""
        return pd.DataFrame(self.draws.reshape(-1, len(self.columns)), columns=list(self.columns))

    def convergence(self) -> pd.DataFrame:
        """One row for each parameter: rhat, ess_bulk, ess_tail."""
        values = {"rhat": rhat(self.draws), "ess_bulk": ess(self.draws), "ess_tail": ess(self.draws, "tail")}
        return pd.DataFrame(values, index=list(self.columns))

    @property
    def converged(self) -> bool:
        """Whether every R-hat is at most 1.01 and every ESS at least 400."""
        found = self.convergence()
        enough = (found[["ess_bulk", "ess_tail"]] >= ESS_LIMIT).to_numpy().all()
        return bool((found["rhat"] <= RHAT_LIMIT).all() and enough)

    def to_dict(self) -> dict[str, Any]:
        """What there is beside the draws, as plain data."""
        found = self.convergence()
        return {
            "method": self.method,
            "acceptance": self.acceptance,
            "step": self.step,
            "divergences": self.divergences,
            "chains": self.draws.shape[0],
            "draws": self.draws.shape[1],
            "max_rhat": float(found["rhat"].max()),
            "min_ess_bulk": float(found["ess_bulk"].min()),
            "min_ess_tail": float(found["ess_tail"].min()),
            "converged": self.converged,
        }

"""A fitted posterior: draws, densities, tables, weights, correction by Markov chains, storage."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from bijectory.apps.importance import ImportanceWeights, psis
from bijectory.apps.kind import SCHEMA
from bijectory.apps.variational.chains import Chains
from bijectory.apps.variational.convergence import ess
from bijectory.apps.variational.density import LogDensity, UnnormalizedDensity
from bijectory.apps.variational.diagnostics import Diagnostics, Weighted, weighted_draws
from bijectory.apps.variational.mcmc import independence_metropolis, neutra
from bijectory.apps.variational.parameters import Parameters
from bijectory.densities import Flow
from bijectory.errors import CheckpointError, ConfigError, ShapeError, check
from bijectory.io import load, load_metadata, save
from bijectory.io.fs import atomic_write
from bijectory.tables.prepare import weighted_quantile

DRAWS_FILE = "draws.safetensors"
OVERSAMPLE, LEAST = 4, 4096
QUANTILES = {"q5": 0.05, "median": 0.5, "q95": 0.95}

Source = Literal["auto", "flow", "weighted", "chains"]


@dataclasses.dataclass(frozen=True)
class VariationalPosterior:
    """A flow fitted to an unnormalised log-density; ``fit_posterior`` makes it.

    Attributes:
        flow: Density of the parameters, in their own units and within their supports.
        parameters: Names and supports.
        log_density: What it was fitted to; None after loading without it.
        draws: Draws of the flow with their importance weights.
        diagnostics: Free energy, evidence, weights, modes. Print it.
        training: Recipe, steps, seconds, seed.
        chains: Draws of Markov chains after ``polish``.

    Example:
        >>> from bijectory import fit_posterior
        >>> posterior = fit_posterior(lambda x: -0.5 * (x[:, 0] - 3) ** 2, ["mu"])
        >>> posterior, posterior.sample(5, seed=0).shape
        (VariationalPosterior(mu: good), (5, 1))
        >>> posterior.table()["mean"].round(1).to_dict()
        {'mu': 3.0}
    """

    flow: Flow
    parameters: Parameters
    log_density: LogDensity | None
    draws: Weighted
    diagnostics: Diagnostics
    training: dict[str, Any]
    chains: Chains | None = None

    def __repr__(self) -> str:
        polished = f", polished by {self.chains.method}" if self.chains else ""
        return f"VariationalPosterior({', '.join(self.parameters.columns)}: {self.diagnostics.verdict}{polished})"

    def sample(self, n: int, *, corrected: bool = False, seed: int | None = None) -> pd.DataFrame:
        """Draw parameters.

        Args:
            n: Number of rows.
            corrected: Draws of the posterior itself and not of the flow: from the chains if there are any, else by
                importance resampling of four times as many draws.
            seed: Seed; None takes the global generator of torch.

        Raises:
            ConfigError: If ``n`` is negative, or the log-density is needed and not there.
        """
        ok = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        check(ok, ConfigError, f"n must be a non-negative int, got {n!r}.")
        generator = _generator(seed)
        if not corrected:
            return self._frame(self.flow.sample(n, generator=generator))
        if self.chains is not None:
            rows = torch.from_numpy(self.chains.draws).flatten(0, 1)
            enough = n <= len(rows)
            order = (
                torch.randperm(len(rows), generator=generator)[:n]
                if enough
                else torch.randint(len(rows), (n,), generator=generator)
            )
            return self._frame(rows[order])
        fresh, _ = weighted_draws(self.flow, self._density(), max(LEAST, OVERSAMPLE * n), generator, warn=True)
        return self._frame(fresh.x[fresh.weights.resample(n, generator=generator)])

    def log_prob(self, data: Any) -> np.ndarray:
        """Normalised log-density of the flow, ``(n,)``.

        Args:
            data: Data frame or mapping with the parameters as columns, or an array or tensor ``(n, width)``.

        Raises:
            ShapeError, ConfigError: If columns are missing or their number is wrong.
        """
        with torch.inference_mode():
            return self.flow.log_prob(self._rows(data)).numpy()

    def importance_weights(self, data: Any = None) -> ImportanceWeights:
        """Weights of the draws of the fit, or of other draws of the flow.

        Args:
            data: Draws of this flow, as in ``log_prob``; None: those of ``draws``.
        """
        if data is None:
            return self.draws.weights
        x = self._rows(data)
        with torch.inference_mode():
            return psis((self._density()(x) - self.flow.log_prob(x)).clone())

    def table(self, source: Source = "auto") -> pd.DataFrame:
        """Mean with standard error, sd and quantiles of every parameter.

        Args:
            source: "chains", "weighted" or "flow" draws; "auto" takes the chains if there are any, else the weighted draws.

        Returns:
            Indexed by parameter: mean, se, sd, q5, median, q95; of chains also rhat, ess_bulk, ess_tail.
        """
        check(source in ("auto", "flow", "weighted", "chains"), ConfigError, f"there is no source {source!r}.")
        if source == "auto":
            source = "chains" if self.chains is not None else "weighted"
        if source == "chains":
            return self._chain_table()
        x = self.draws.x
        weights = self.draws.weights if source == "weighted" else psis(torch.zeros(len(x)))
        mean, se = weights.expectation(x)
        w = weights.weights
        sd = (w.unsqueeze(-1) * (x - mean).square()).sum(0).sqrt()
        found: dict[str, Any] = {"mean": mean.numpy(), "se": se.numpy(), "sd": sd.numpy()}
        for name, q in QUANTILES.items():
            found[name] = [weighted_quantile(column.numpy(), q, w.numpy()) for column in x.T]
        return pd.DataFrame(found, index=list(self.parameters.columns))

    def _chain_table(self) -> pd.DataFrame:
        if self.chains is None:
            raise ConfigError('there are no chains; call polish(), or table("weighted").')
        flat = self.chains.draws.reshape(-1, self.parameters.width)
        sd = flat.std(0)
        found = {"mean": flat.mean(0), "se": sd / np.sqrt(ess(self.chains.draws, "mean")), "sd": sd}
        found |= {name: np.quantile(flat, q, axis=0) for name, q in QUANTILES.items()}
        return pd.DataFrame(found, index=list(self.parameters.columns)).join(self.chains.convergence())

    def polish(
        self,
        method: Literal["neutra", "independence"] = "neutra",
        *,
        chains: int = 32,
        draws: int = 200,
        warmup: int = 100,
        thin: int = 5,
        seed: int = 0,
    ) -> Self:
        """Correct the flow by Markov chains that start from its weighted draws.

        Args:
            method: "neutra": Hamiltonian moves in latent space, and draws of the flow as proposals after each.
                "independence": these proposals alone, cheaper, for a flow that is nearly right.
            chains: Number of chains, which move as one batch.
            draws: Kept draws of each.
            warmup: Moves before them that adapt the step size (of "neutra").
            thin: Proposals for each kept draw (of "independence").
            seed: Of everything random.

        Returns:
            The same posterior with ``chains``; its ``table`` and corrected draws come from them.
        """
        check(method in ("neutra", "independence"), ConfigError, f'there is no method {method!r}; use "neutra".')
        ok = chains >= 2 and draws >= 8 and warmup >= 0 and thin >= 1
        check(ok, ConfigError, "take at least 2 chains of 8 draws, a warmup of at least 0 and thin of at least 1.")
        generator, density = _generator(seed), self._density()
        if method == "independence":
            sizes = {"chains": chains, "draws": draws, "thin": thin}
            found = independence_metropolis(self.flow, density, self.draws, **sizes, generator=generator)
        else:
            sizes = {"chains": chains, "draws": draws, "warmup": warmup}
            found = neutra(self.flow, density, self.draws, **sizes, generator=generator)
        return dataclasses.replace(self, chains=found)

    def summary(self) -> str:
        """Everything worth reading, as text."""
        parts = [repr(self), str(self.diagnostics)]
        if self.chains is not None:
            c = self.chains.to_dict()
            state = "converged" if c["converged"] else "NOT CONVERGED: more draws, or a better flow"
            parts.append(
                f"chains          {c['chains']} × {c['draws']} by {c['method']}, acceptance {c['acceptance']:.2f}, largest "
                f"R-hat {c['max_rhat']:.3f}, smallest ESS {min(c['min_ess_bulk'], c['min_ess_tail']):.0f}: {state}"
            )
        parts.append(self.table().to_string(float_format=lambda v: f"{v:.4g}"))
        return "\n".join(parts)

    def save(self, folder: str | Path) -> None:
        """Store flow, declarations, diagnostics and draws in a folder; not the log-density, which is code."""
        folder = Path(folder)
        metadata = {
            "kind": "posterior",
            "parameters": self.parameters.to_list(),
            "diagnostics": self.diagnostics.to_dict(),
            "training": self.training,
            "chains": None if self.chains is None else self.chains.to_dict(),
        }
        save(self.flow, folder, metadata={"posterior": json.loads(json.dumps(metadata))})
        schema = {"kind": "posterior", "parameters": self.parameters.to_list()}
        atomic_write(folder / SCHEMA, [json.dumps(schema, indent=1, allow_nan=True).encode()])
        tensors = {"x": self.draws.x.numpy(), "log_ratios": self.draws.weights.log_ratios.numpy()}
        if self.chains is not None:
            tensors["chains"] = self.chains.draws
        atomic_write(folder / DRAWS_FILE, [save_tensors({k: np.ascontiguousarray(v) for k, v in tensors.items()})])

    @classmethod
    def load(cls, folder: str | Path, *, log_density: LogDensity | None = None) -> "VariationalPosterior":
        """Load what ``save`` stored.

        Args:
            folder: The folder.
            log_density: What it was fitted to, needed only for new corrected draws and ``polish``.

        Raises:
            CheckpointError: If the folder holds no posterior, or a damaged one.
        """
        folder = Path(folder)
        metadata = load_metadata(folder).get("posterior")
        if not isinstance(metadata, dict):
            raise CheckpointError(f"{folder} holds a model that is not a posterior.")
        try:
            tensors = load_tensors((folder / DRAWS_FILE).read_bytes())
            x, ratios = torch.from_numpy(tensors["x"]), torch.from_numpy(tensors["log_ratios"])
        except Exception as error:  # the reader has no common class of errors
            raise CheckpointError(
                f"{folder / DRAWS_FILE} cannot be read ({error}); use a backup or fit again."
            ) from None
        parameters = Parameters.from_list(metadata["parameters"])
        chains = None
        if metadata["chains"] is not None and "chains" in tensors:
            known = {k: metadata["chains"][k] for k in ("method", "acceptance", "step", "divergences")}
            chains = Chains(tensors["chains"], parameters.columns, **known)
        draws = Weighted(x, psis(ratios, warn=False))
        found = Diagnostics.from_dict(metadata["diagnostics"])
        return cls(load(folder), parameters, log_density, draws, found, metadata["training"], chains)

    def _density(self) -> UnnormalizedDensity:
        if self.log_density is None:
            raise ConfigError(
                "the log-density is not stored with a posterior; use VariationalPosterior.load(folder, log_density=f)."
            )
        return UnnormalizedDensity(self.log_density, self.parameters)

    def _frame(self, x: Tensor) -> pd.DataFrame:
        return pd.DataFrame(x.numpy(), columns=list(self.parameters.columns))

    def _rows(self, data: Any) -> Tensor:
        names = list(self.parameters.columns)
        if isinstance(data, dict):
            data = pd.DataFrame(data)
        if isinstance(data, pd.DataFrame):
            lost = [n for n in names if n not in data.columns]
            check(not lost, ConfigError, f"the data lack the columns {lost}; the parameters are {names}.")
            data = data[names].to_numpy()
        x = data.double() if isinstance(data, Tensor) else torch.from_numpy(np.array(data, dtype=np.float64))
        ok = x.dim() == 2 and x.shape[1] == len(names)
        check(ok, ShapeError, f"data have shape {tuple(x.shape)}, expected (rows, {len(names)}): {', '.join(names)}.")
        return x


def _generator(seed: int | None) -> torch.Generator:
    """A generator of its own; without a seed, seeded by the global one."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

"""Conditional rows and marginal densities of a joint table."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from bijectory.apps.importance import ImportanceWarning, psis
from bijectory.apps.query.chains import MOST, walk
from bijectory.apps.query.joint import Joint, as_table
from bijectory.apps.query.kernels import LIMIT, mean_weight, resample, weighted
from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Flow
from bijectory.errors import ConfigError, LowESSError, check
from bijectory.tables import to_frame
from bijectory.tables.frame import check_columns

How = Literal["auto", "importance", "chains"]
RHAT, BAD_RHAT = 1.01, 1.1  # trusted up to, refused above


@dataclasses.dataclass(frozen=True)
class Query:
    """Draws of the rest when some columns are known.

    Attributes:
        rows: Rows, all columns; the known ones are constant.
        log_density: Estimate of the log-density of the known values, ``log p(k)``, in nats, in the units of the data.
        error: Its standard error.
        ess: Effective sample size of the draws: of the weights, or of the chains (the smallest of a column).
        draws: Number of weighted draws, or of draws of the chains.
        distinct: Number of different draws among the rows.
        method: "exact", "importance" or "chains".
        khat: Pareto shape of the weights ("importance"), else NaN.
        rhat: Largest R-hat of a column ("chains"), else NaN.
        reliable: Whether the Pareto shape is at most its limit, or R-hat at most 1.01.
    """

    rows: pd.DataFrame
    log_density: float
    error: float
    ess: float
    draws: int
    distinct: int
    method: str = "exact"
    khat: float = float("nan")
    rhat: float = float("nan")
    reliable: bool = True

    def summary(self) -> str:
        """By which method, and how good, in a line."""
        how = {
            "exact": "exact draws",
            "importance": f"importance sampling, Pareto k {self.khat:.2f}",
            "chains": f"Markov chains, R-hat {self.rhat:.3f}",
        }[self.method]
        doubt = "" if self.reliable else " (NOT reliable)"
        density = f"log-density of the known columns {self.log_density:.4f} ± {self.error:.4f} nats"
        rows = f"{len(self.rows)} rows ({self.distinct} distinct)"
        return f"{rows}, {how}{doubt}, effective sample size {self.ess:.0f} of {self.draws}; {density}"


@dataclasses.dataclass(frozen=True)
class _Answer:
    r: np.ndarray
    log_density: float
    error: float
    ess: float
    draws: int
    distinct: int
    method: str
    khat: float = float("nan")
    rhat: float = float("nan")
    reliable: bool = True


def conditional(
    model: TableFlow | Flow,
    known: Mapping[Any, float],
    n: int = 1000,
    *,
    min_ess: float | None = None,
    method: How = "auto",
    seed: int = 0,
) -> Query:
    """Rows from ``p(rest | known)`` of a joint density, approximate in the sense of the module.

    Args:
        model: The density; of a conditional table all given columns must be known. A ``Flow`` has the columns x0, x1, ...
        known: ``column -> value``.
        n: Number of rows.
        min_ess: Smallest effective sample size that is an answer; None for ``min(n, 100)``. Draws are added until it reaches
            ``n``, up to 100,000 weighted ones or 25,600 of chains.
        method: "importance", "chains", or "auto": chains where the weights are worth too little or cannot be trusted.
        seed: Seed.

    Raises:
        LowESSError: If the effective sample size stays below ``min_ess``, or the chains do not agree (R-hat above 1.1): the
            values are too improbable, or too many columns are unknown.
        ConfigError: If no column is left to draw, or a given column is not known.
        DataError, DomainError, NonFiniteError: On unknown columns and values outside their bounds.

    Warns:
        ImportanceWarning: If the Pareto shape of the weights, or R-hat, is above its limit.

    Example:
        >>> from bijectory import StandardNormal, Standardize
        >>> flow = Flow(Standardize(2, [0.0, 5.0], [1.0, 2.0]), StandardNormal(2))
        >>> found = conditional(flow, {"x0": 1.0}, n=500)
        >>> found.ess > 500, bool(abs(found.rows["x1"].mean() - 5.0) < 0.5), set(found.rows["x0"])
        (True, True, {1.0})
        >>> found.method, found.reliable
        ('importance', True)
    """
    whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1
    check(whole, ConfigError, f"n must be a positive int, got {n!r}.")
    table = as_table(model)
    joint = Joint(table, known, np.random.default_rng(seed))
    check(len(joint.rest) > 0, ConfigError, "every column is known: nothing is left to draw; name fewer, or use score.")
    if not joint.fixed:
        rows = table.sample(n, given=joint.given, seed=seed)
        return Query(rows, 0.0, 0.0, float(n), n, n)
    found = _answer(joint, n, min(n, 100) if min_ess is None else min_ess, method)
    if not found.reliable:
        warnings.warn(
            f"the answer by {found.method} cannot be trusted (Pareto k {found.khat:.2f}, R-hat {found.rhat:.3f}); "
            "ask with more known columns, or fit with these as given columns.",
            ImportanceWarning,
            stacklevel=2,
        )
    facts = {k: v for k, v in dataclasses.asdict(found).items() if k != "r"}
    return Query(joint.rows(found.r), **facts)


def _answer(joint: Joint, n: int, least: float, method: How) -> _Answer:
    check(method in get_args(How), ConfigError, f"method={method!r}; use {', '.join(get_args(How))}.")
    if not joint.rest:
        return _Answer(np.zeros((1, 0)), float(joint.log_prob(np.zeros((1, 0)))[0]), 0.0, 1.0, 1, 1, "exact")
    start = weighted(joint, n, least)
    size = start.ess
    pareto = psis(torch.from_numpy(start.log_w), smooth=False, warn=False) if size > 0 else None
    good = pareto is not None and pareto.reliable
    out_of_reach = least > LIMIT
    if method == "importance" or out_of_reach or (method == "auto" and good and size >= least):
        _enough(joint, size, least, len(start.r))
        chosen = resample(start.log_w, n, joint.rng)
        value, error = mean_weight(start.log_w)
        khat = float("nan") if pareto is None else pareto.khat
        distinct = len(np.unique(chosen))
        return _Answer(
            start.r[chosen], value, error, size, len(start.r), distinct, "importance", khat=khat, reliable=good
        )
    _enough(joint, min(least, MOST), least, MOST)  # not even if every draw were independent
    found = walk(joint, start, max(n, least))
    pool = found.draws.reshape(-1, found.draws.shape[2])
    _enough(joint, found.ess, least, len(pool))
    check(
        found.rhat <= BAD_RHAT,
        LowESSError,
        f"the chains do not agree (R-hat {found.rhat:.2f}, more than {BAD_RHAT}) given {_listing(joint)}: the rest has "
        "separate modes or is out of reach; know more columns, or fit with these as given columns.",
    )
    chosen = joint.rng.choice(len(pool), n, replace=n > len(pool))
    return _Answer(
        pool[chosen],
        found.log_density,
        found.error,
        found.ess,
        len(pool),
        len(np.unique(pool[chosen], axis=0)),
        "chains",
        rhat=found.rhat,
        reliable=found.rhat <= RHAT,
    )


def _listing(joint: Joint) -> str:
    return ", ".join(f"{k} = {v:g}" for k, v in joint.values.items())


def _enough(joint: Joint, size: float, least: float, draws: int) -> None:
    check(
        size >= least,
        LowESSError,
        f"{draws} draws given {_listing(joint)} are worth only {size:.1f} independent ones, fewer than {least:g}: the "
        "values are too improbable under the model, or too many columns are unknown; know more, or fit with these as given "
        "columns.",
    )


class Marginal:
    """Some columns of a joint density, whatever the others.

    Args:
        model: The density, without given columns.
        columns: Names of the columns; of a ``Flow`` x0, x1, ...

    Example:
        >>> from bijectory import StandardNormal, Standardize
        >>> flow = Flow(Standardize(2, [0.0, 5.0], [1.0, 2.0]), StandardNormal(2))
        >>> value, error = Marginal(flow, ["x1"]).log_prob({"x1": [5.0]})
        >>> bool(abs(value[0] + 0.5 * np.log(2 * np.pi * 4)) < 5 * error[0] < 0.1)
        True
    """

    def __init__(self, model: TableFlow | Flow, columns: Iterable[str]) -> None:
        check(not isinstance(columns, str), ConfigError, f"columns={columns!r}: pass a list of names, [{columns!r}].")
        self.model, self.columns = as_table(model), list(columns)
        check(bool(self.columns), ConfigError, "name at least one column.")
        check(not self.model.schema.givens, ConfigError, "a marginal needs a joint density, without given columns.")
        check_columns(pd.DataFrame(columns=self.model.schema.names), self.columns)

    def sample(self, n: int, *, seed: int | None = None) -> pd.DataFrame:
        """Exact draws: of the joint, without the other columns."""
        return self.model.sample(n, seed=seed)[self.columns]

    def log_prob(
        self, data: Any, *, n: int = 1000, min_ess: float = 100, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Marginal log-density of each row, with its standard error: by importance or bridge sampling.

        Where the columns are all columns there is nothing to estimate and the error is 0. Takes a second or so for each row,
        more where Markov chains are needed.

        Args:
            data: Rows with the columns.
            n: Effective sample size aimed at: the error is about ``n ** -0.5`` or less.
            min_ess: Smallest that is an answer.
            seed: Seed.

        Raises:
            LowESSError: If the effective sample size of a row stays below ``min_ess``.
        """
        frame = to_frame(data)
        check_columns(frame, self.columns)
        if set(self.columns) >= {c.name for c in self.model.schema.columns}:
            return self.model.score_samples(frame), np.zeros(len(frame))
        found = []
        for values in frame[self.columns].to_numpy(dtype=np.float64):
            joint = Joint(self.model, dict(zip(self.columns, values, strict=True)), np.random.default_rng(seed))
            answer = _answer(joint, n, min_ess, "auto") if joint.fixed else None
            found.append((0.0, 0.0) if answer is None else (answer.log_density, answer.error))
        out = np.array(found).reshape(-1, 2)
        return out[:, 0], out[:, 1]

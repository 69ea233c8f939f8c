r"""Questions to a joint density: some columns when others are known, and some columns whatever the others.

A flow of a joint table has no closed form for :math:`p(r \mid k) = p(k, r) / p(k)`, where :math:`k` are the known columns,
:math:`r` the rest. Draws from it are made by *adaptive importance sampling*, in standardised units:

1. rows drawn from the joint that lie near the known values, moved onto them by a linear regression (Beaumont 2002), are the
   first guess of the rest;
2. the guess is smoothed into a mixture of Student-t kernels :math:`q(r)` (with the shrinkage of West 1993, which keeps its
   covariance), draws from it are weighted by :math:`w = p(k, r) / q(r)` and resampled, four times over;
3. fresh draws from the last mixture are weighted; the mean weight estimates :math:`p(k)` without bias, and draws resampled
   by weight are rows from :math:`p(r \mid k)`.

*Exact*: draws of ``Marginal.sample``, and both where every column is known or none is. *Approximate*: conditional draws, to
the extent of the effective sample size :math:`(\sum w)^2 / \sum w^2` that comes with them, and marginal log-densities, to
their standard error. A density that the mixture misses altogether (a far mode in many dimensions) is seen by neither.

References:
    Approximate Bayesian computation in population genetics, Beaumont, Zhang, Balding 2002, Genetics 162(4).
    Approximating posterior distributions by mixtures, West 1993, JRSS B 55(2).
    Population Monte Carlo, Cappé, Guillin, Marin, Robert 2004, JCGS 13(4).
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import gammaln, logsumexp

from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Flow
from bijectory.errors import ConfigError, DataError, LowESSError, check
from bijectory.tables import Column, Schema, preprocess, to_frame
from bijectory.tables.frame import check_columns
from bijectory.tables.schema import check_domain, check_finite

POOL = 10_000  # draws of the joint that the first guess is looked for in
NEAR = 500  # of which so many, the nearest, are used
KERNELS = 150  # of each of the two kinds
ROUNDS = 4
PILOT = 2000  # draws of a round
DEGREES = 5.0  # of freedom of the kernels
LIMIT = 100_000  # weighted draws at most


@dataclasses.dataclass(frozen=True)
class Query:
    """Draws of the rest when some columns are known.

    Attributes:
        rows: Rows, all columns; the known ones are constant.
        log_density: Estimate of the log-density of the known values, ``log p(k)``, in nats, in the units of the data.
        error: Its standard error.
        ess: Effective sample size of the weighted draws.
        draws: Their number.
        distinct: Number of different draws among the rows.
    """

    rows: pd.DataFrame
    log_density: float
    error: float
    ess: float
    draws: int
    distinct: int


def conditional(
    model: TableFlow | Flow, known: Mapping[Any, float], n: int = 1000, *, min_ess: float | None = None, seed: int = 0
) -> Query:
    """Rows from ``p(rest | known)`` of a joint density, approximate in the sense of the module.

    Args:
        model: The density; of a conditional table all given columns must be known. A ``Flow`` has the columns x0, x1, ...
        known: ``column -> value``.
        n: Number of rows.
        min_ess: Smallest effective sample size that is an answer; None for ``min(n, 100)``. Draws are added until it reaches
            ``n``, up to 100,000 of them.
        seed: Seed.

    Raises:
        LowESSError: If the effective sample size stays below ``min_ess``: the values are too improbable, or too many columns
            are unknown.
        ConfigError: If no column is left to draw, or a given column is not known.
        DataError, DomainError, NonFiniteError: On unknown columns and values outside their bounds.

    Example:
        >>> from bijectory import StandardNormal, Standardize
        >>> flow = Flow(Standardize(2, [0.0, 5.0], [1.0, 2.0]), StandardNormal(2))
        >>> found = conditional(flow, {"x0": 1.0}, n=500)
        >>> found.ess > 500, bool(abs(found.rows["x1"].mean() - 5.0) < 0.5), set(found.rows["x0"])
        (True, True, {1.0})
    """
    whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1
    check(whole, ConfigError, f"n must be a positive int, got {n!r}.")
    table = _table(model)
    joint = _Joint(table, known, np.random.default_rng(seed))
    check(len(joint.rest) > 0, ConfigError, "every column is known: nothing is left to draw; name fewer, or use score.")
    if not joint.fixed:
        rows = table.sample(n, given=joint.given, seed=seed)
        return Query(rows, 0.0, 0.0, float(n), n, n)
    least = min(n, 100) if min_ess is None else min_ess
    r, log_w, ess = _weighted(joint, n, least)
    chosen = _resample(log_w, n, joint.rng)
    log_density, error = _mean_weight(log_w)
    rows = joint.rows(r[chosen])
    return Query(rows, log_density, error, ess, len(r), len(np.unique(chosen)))


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
        self.model, self.columns = _table(model), list(columns)
        check(bool(self.columns), ConfigError, "name at least one column.")
        check(not self.model.schema.givens, ConfigError, "a marginal needs a joint density, without given columns.")
        check_columns(pd.DataFrame(columns=self.model.schema.names), self.columns)

    def sample(self, n: int, *, seed: int | None = None) -> pd.DataFrame:
        """Exact draws: of the joint, without the other columns."""
        return self.model.sample(n, seed=seed)[self.columns]

    def log_prob(
        self, data: Any, *, n: int = 1000, min_ess: float = 100, seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Marginal log-density of each row, with its standard error: estimates by importance sampling.

        Where the columns are all columns there is nothing to estimate and the error is 0. Takes a second or so for each row.

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
            joint = _Joint(self.model, dict(zip(self.columns, values, strict=True)), np.random.default_rng(seed))
            found.append(_mean_weight(_weighted(joint, n, min_ess)[1]) if joint.fixed else (0.0, 0.0))
        out = np.array(found).reshape(-1, 2)
        return out[:, 0], out[:, 1]


class _Joint:
    """The joint density with some columns fixed, as a function of the rest in standardised units."""

    def __init__(self, model: TableFlow, known: Mapping[Any, float], rng: np.random.Generator) -> None:
        schema = model.schema
        self.model, self.rng = model, rng
        self.values = {str(name): float(value) for name, value in known.items()}
        check_columns(pd.DataFrame(columns=schema.names), list(self.values))
        columns = [c for c in schema.columns if c.name in self.values]
        vector = np.array([[self.values[c.name] for c in columns]])
        check_finite(vector, [c.name for c in columns], "Give finite values.")
        check_domain(vector, columns)
        for c in columns:
            same = c.kind != "constant" or c.role == "given" or self.values[c.name] == c.value
            check(same, DataError, f"column {c.name!r} is always {c.value}; {self.values[c.name]} has probability 0.")
        absent = [c.name for c in schema.givens if c.name not in self.values]
        check(not absent, ConfigError, f"this density is conditional: {', '.join(absent)} must be known too.")
        given = {c.name: [self.values[c.name]] for c in schema.columns if c.role == "given" and c.name in self.values}
        self.given = given or None
        self.context = schema.encode_given(given) if schema.givens else None
        self.fixed = [k for k, c in enumerate(schema.targets) if c.name in self.values]
        self.rest = [k for k, c in enumerate(schema.targets) if c.name not in self.values]
        self.prep = preprocess(schema.targets)

    def pool(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of the joint: standardised fixed columns, standardised rest."""
        seed = int(self.rng.integers(2**31))
        c = None if self.context is None else torch.from_numpy(np.repeat(self.context, n, axis=0))
        shape: Any = n if c is None else ()
        with torch.no_grad():
            x = self.model.flow.sample(shape, c, generator=torch.Generator().manual_seed(seed))
            u = self.prep.forward(x)[0].numpy()
        u = u[np.isfinite(u).all(1)]
        return u[:, self.fixed], u[:, self.rest]

    def place(self, n: int) -> np.ndarray:
        """The known values in data units, ``(n, fixed)``, anywhere in the cells of dequantized columns."""
        x = np.zeros((n, len(self.model.schema.targets)))
        for k in self.fixed:
            x[:, k] = self.values[self.model.schema.targets[k].name]
        return self.model.schema.place(x, self.rng.random(x.shape))[:, self.fixed]

    def centre(self) -> np.ndarray:
        """The known values in standardised units, ``(fixed,)``."""
        return self._standard(self.place(1))[0]

    def log_prob(self, r: np.ndarray) -> np.ndarray:
        """``log p(k, r)``: per unit of the data for the fixed columns, per standardised unit for the rest."""
        with torch.inference_mode():
            u = torch.zeros(len(r), len(self.model.schema.targets), dtype=torch.float64)
            known = self.place(len(r))
            u[:, self.fixed], u[:, self.rest] = torch.from_numpy(self._standard(known)), torch.from_numpy(r)
            x, ladj = self.prep.inverse(u)
            safe = torch.isfinite(x).all(1) & torch.isfinite(ladj)
            x = torch.where(safe[:, None], x, x[safe][:1] if bool(safe.any()) else torch.zeros(()))
            c = None if self.context is None else torch.from_numpy(self.context).expand(len(x), -1)
            parts = zip(x.split(8192), [None] * len(x) if c is None else c.split(8192), strict=False)
            joint = torch.cat([self.model.flow.log_prob(a, b) for a, b in parts])
            # log|dx/du| of all columns less that of the fixed ones, which stay in data units
            volume = ladj - self._volume(known)
            value = torch.where(safe & torch.isfinite(joint), joint + volume, -torch.inf)
        return value.numpy()

    def rows(self, r: np.ndarray) -> pd.DataFrame:
        """All columns of a table for draws of the rest."""
        u = np.zeros((len(r), len(self.model.schema.targets)))
        u[:, self.rest] = r
        u[:, self.fixed] = self.centre()
        with torch.inference_mode():
            x = self.prep.inverse(torch.from_numpy(u))[0].numpy()
        place = {c.name: x[:, k] for k, c in enumerate(self.model.schema.targets)}
        columns = {}
        for c in self.model.schema.columns:
            constant = self.values.get(c.name, c.value)
            settled = c.name in place and c.name not in self.values
            columns[c.name] = c.settle(place[c.name]) if settled else np.full(len(r), constant)
        return pd.DataFrame(columns)

    def _standard(self, known: np.ndarray) -> np.ndarray:
        targets = [self.model.schema.targets[k] for k in self.fixed]
        return preprocess(targets).forward(torch.from_numpy(known))[0].numpy()

    def _volume(self, known: np.ndarray) -> torch.Tensor:
        targets = [self.model.schema.targets[k] for k in self.fixed]
        return -preprocess(targets).forward(torch.from_numpy(known))[1]


def _weighted(joint: _Joint, n: int, least: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Weighted draws of the rest, their log-weights, and their effective sample size."""
    rng = joint.rng
    if not joint.rest:
        return np.zeros((1, 0)), joint.log_prob(np.zeros((1, 0))), 1.0
    centres = _first_guess(joint)
    for _ in range(ROUNDS):
        r, log_q = _kernels(centres, PILOT, rng)
        log_w = joint.log_prob(r) - log_q
        if not np.isfinite(log_w).any():
            break
        centres = r[_resample(log_w, KERNELS, rng)]
    total = int(np.clip(4 * n, PILOT, LIMIT))
    draws, weights = np.empty((0, len(joint.rest))), np.empty(0)
    while True:
        r, log_q = _kernels(centres, total - len(draws), rng)
        draws, weights = np.concatenate([draws, r]), np.concatenate([weights, joint.log_prob(r) - log_q])
        ess = effective(weights)
        if ess >= max(n, least) or total == LIMIT:
            break
        total = min(LIMIT, 2 * total)
    names = ", ".join(f"{k} = {v:g}" for k, v in joint.values.items())
    check(
        ess >= least,
        LowESSError,
        f"{len(draws)} draws given {names} are worth only {ess:.1f} independent ones, fewer than {least:g}: the values are "
        "too improbable under the model, or too many columns are unknown; know more, or fit with these as given columns.",
    )
    return draws, weights, ess


def _first_guess(joint: _Joint) -> np.ndarray:
    """Draws of the joint near the known values, moved onto them by a local linear regression."""
    known, rest = joint.pool(POOL)
    goal = joint.centre()
    scale = np.maximum(known.std(0), 1e-12)
    near = np.argsort((((known - goal) / scale) ** 2).sum(1))[:NEAR]
    design = np.column_stack([np.ones(len(near)), (known[near] - goal) / scale])
    slope = np.linalg.lstsq(design, rest[near], rcond=None)[0]
    moved = rest[near] - design[:, 1:] @ slope[1:]
    return moved[joint.rng.permutation(len(moved))[:KERNELS]]


def _kernels(centres: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws from a mixture of Student-t kernels at shrunken centres, and their log-density."""
    m, d = centres.shape
    mean = centres.mean(0)
    cov = np.atleast_2d(np.cov(centres.T)) + 1e-12 * np.eye(d)
    cov += 1e-6 * np.diag(np.diag(cov))
    width = (4 / (m * (d + 2))) ** (1 / (d + 4))
    root = np.linalg.cholesky(cov)
    # the second half of the mixture keeps its centres where they are: shrinking would move separate modes together
    shrunk = mean + (1 - min(width, 0.99) ** 2) ** 0.5 * (centres - mean)
    both = np.concatenate([shrunk, centres])
    t = rng.standard_normal((n, d)) / np.sqrt(rng.chisquare(DEGREES, (n, 1)) / DEGREES)
    r = both[rng.integers(len(both), size=n)] + width * t @ root.T
    white = np.linalg.solve(root, both.T).T / width
    constant = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - 0.5 * d * np.log(DEGREES * np.pi)
    constant -= np.log(np.diag(root)).sum() + d * np.log(width) + np.log(len(both))
    log_q = np.empty(n)
    for start in range(0, n, 1024):
        points = np.linalg.solve(root, r[start : start + 1024].T).T / width
        square = np.maximum((points**2).sum(1)[:, None] + (white**2).sum(1) - 2 * points @ white.T, 0)
        log_q[start : start + 1024] = logsumexp(-0.5 * (DEGREES + d) * np.log1p(square / DEGREES), axis=1)
    return r, log_q + constant


def effective(log_w: np.ndarray) -> float:
    r"""Effective sample size of weights, :math:`(\sum w)^2 / \sum w^2`; 0 if all are 0."""
    if not np.isfinite(log_w).any():
        return 0.0
    return float(np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)))


def _mean_weight(log_w: np.ndarray) -> tuple[float, float]:
    """Logarithm of the mean weight, and its standard error by the delta method."""
    n = len(log_w)
    value = float(logsumexp(log_w) - np.log(n))
    return value, float(np.exp(log_w - value).std() / n**0.5)


def _resample(log_w: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of ``n`` draws, by weight: systematic resampling in random order."""
    w = np.exp(log_w - log_w.max()).cumsum()
    places = (np.arange(n) + rng.random()) / n * w[-1]
    return rng.permutation(np.searchsorted(w, places).clip(0, len(w) - 1))


def _table(model: TableFlow | Flow) -> TableFlow:
    """A flow as that of a table with the columns x0, x1, ..."""
    if isinstance(model, TableFlow):
        return model
    vector = len(model.event_shape) == 1 and not model.context and model.embed is None
    check(vector, ConfigError, "queries need a joint density of vectors, without a context; use flow.sample(n, c).")
    columns = tuple(Column(name=f"x{k}") for k in range(model.event_shape[0]))
    return TableFlow(copy.deepcopy(model).cpu().double(), Schema(columns=columns, rows=0))

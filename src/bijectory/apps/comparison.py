r"""Which of two fitted densities explains rows better that neither has seen.

With :math:`d_i = \log p_A(x_i) - \log p_B(x_i)` on :math:`n` held-out rows, the mean :math:`\bar d` estimates the
difference of the two Kullback-Leibler divergences from the truth, :math:`KL(p \| p_B) - KL(p \| p_A)`, the entropy of the
truth cancelling. The rows are the same for both, so the differences are paired: their spread, not that of the
log-likelihoods, is what counts. Two tests must agree before one density is preferred: that of Vuong,
:math:`z = \sqrt n\, \bar d / \hat\omega` against the normal distribution (no penalty for parameters is needed, for the rows
were held out), and the bootstrap of the differences.

References:
    Likelihood Ratio Tests for Model Selection and Non-Nested Hypotheses, Vuong 1989, Econometrica 57, eq. 5.6.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bijectory.apps.kind import run_kind
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import load_rows
from bijectory.errors import ConfigError, DataError, NonFiniteError, check
from bijectory.tables import Schema, to_matrix

Seen = Literal["raise", "drop", "keep"]
LEVEL = 0.05
DRAWS = 1e7  # numbers drawn at a time by the bootstrap


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        names: Of the two densities.
        rows: Number of rows compared.
        means: Mean log-likelihood of each, nats a row.
        difference: Mean of A minus B, nats a row.
        standard_error: Of the difference.
        interval: Bootstrap interval of the difference, 95%.
        statistic: Vuong's z.
        p_value: Of Vuong's test, two-sided.
        bootstrap_p_value: Of the bootstrap, two-sided.
        impossible: Rows to which each gives density zero.
        notes: What limits the comparison.

    Example:
        >>> found = Comparison(("A", "B"), 100, (-1.0, -1.5), 0.5, 0.1, (0.3, 0.7), 5.0, 6e-7, 5e-4, (0, 0))
        >>> found.verdict
        'A is preferred by 0.5 ± 0.1 nats a row (p = 6e-07)'
    """

    names: tuple[str, str]
    rows: int
    means: tuple[float, float]
    difference: float
    standard_error: float
    interval: tuple[float, float]
    statistic: float
    p_value: float
    bootstrap_p_value: float
    impossible: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def preferred(self) -> str | None:
        """Name of the density that is preferred, None if no difference can be told."""
        if any(self.impossible):
            return None if all(self.impossible) else self.names[int(self.impossible[0] > 0)]
        certain = max(self.p_value, self.bootstrap_p_value) < LEVEL
        return self.names[int(self.difference < 0)] if certain else None

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.preferred and any(self.impossible):
            other = self.names[self.names[0] == self.preferred]
            return f"{self.preferred} is preferred: {other} gives density zero to {max(self.impossible)} of {self.rows} rows"
        if any(self.impossible):
            a, b = self.impossible
            return f"no difference can be told: {a} and {b} of {self.rows} rows have density zero under one of the two"
        size = f"± {self.standard_error:.2g} nats a row"
        if self.preferred is None:
            p = max(self.p_value, self.bootstrap_p_value)
            return f"no difference can be told: {self.difference:+.3g} {size} (p = {p:.2g})"
        return f"{self.preferred} is preferred by {abs(self.difference):.3g} {size} (p = {self.p_value:.2g})"

    def __str__(self) -> str:
        lines = [f"{n}: {m:.4f} nats a row" for n, m in zip(self.names, self.means, strict=True)]
        low, high = self.interval
        lines.append(
            f"{self.names[0]} - {self.names[1]}: {self.difference:+.4f}, 95% [{low:+.4f}, {high:+.4f}], {self.rows} rows"
        )
        return "\n".join([*lines, self.verdict, *self.notes])


def compare(
    a: TableFlow | str | Path,
    b: TableFlow | str | Path,
    data: Any,
    *,
    seen: Seen = "raise",
    names: tuple[str, str] = ("A", "B"),
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two fitted densities of the same columns on rows that neither has seen.

    Args:
        a: A density, or its run folder.
        b: Another one.
        data: Held-out rows.
        seen: What to do with rows that are found among the training and validation rows that a run folder keeps: "raise";
            "drop", which also allows to pass the whole table when both were fitted to it with the same seed; or "keep",
            for discrete tables, in which new rows repeat old ones.
        names: What to call the two.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        DataError: If the columns differ, rows were seen in training, or fewer than 2 rows are left.
        NonFiniteError: On missing values.

    Example:
        >>> from bijectory import Flow, StandardNormal, Standardize
        >>> from bijectory.tables import Column
        >>> schema = Schema(columns=(Column(name="a"),), rows=10)
        >>> a, b = (TableFlow(Flow(Standardize(1, [m], [1.0]), StandardNormal(1)).double(), schema) for m in (0.0, 1.0))
        >>> compare(a, b, a.sample(400, seed=0)).preferred
        'A'
    """
    check(seen in get_args(Seen), ConfigError, f"seen={seen!r}; use 'raise', 'drop' or 'keep'.")
    check(resamples >= 100, ConfigError, f"resamples={resamples} is too few; use at least 100.")
    models = [_table(source) for source in (a, b)]
    notes = _same_columns(models[0].schema, models[1].schema)
    frame = models[0].schema.frame(data)
    for source, name, model in zip((a, b), names, models, strict=True):
        known, note = _seen(source, name, model.schema, frame)
        notes += note
        if known.any() and seen == "raise":
            raise DataError(
                f"{known.sum()} of {len(frame)} rows (first: row {known.argmax()}) were used to fit {name}, which favours "
                "it; pass rows that neither has seen, or leave these out with seen='drop' (--seen drop)."
            )
        if known.any() and seen == "drop":
            notes.append(f"{known.sum()} rows that were used to fit {name} are left out.")
            frame = frame[~known]
    scores = np.stack([m.score_samples(frame, nonfinite="propagate") for m in models])
    missing = np.flatnonzero(np.isnan(scores).any(0))
    check(
        not len(missing), NonFiniteError, f"{len(missing)} rows have missing values (first: row {missing[:1].sum()})."
    )
    neither = np.isneginf(scores).all(0)
    if neither.any():
        notes.append(f"{neither.sum()} rows have density zero under both and are left out.")
        scores = scores[:, ~neither]
    rows = scores.shape[1]
    check(rows >= 2, DataError, f"{rows} rows are left to compare on; pass at least 2 rows that neither has seen.")
    return _compare(scores, names, resamples, seed, tuple(notes))


def _compare(
    scores: NDArray[np.float64], names: tuple[str, str], resamples: int, seed: int, notes: tuple[str, ...]
) -> Comparison:
    n, zero = scores.shape[1], np.isneginf(scores).sum(1)
    means = (float(scores[0].mean()), float(scores[1].mean()))
    impossible = (int(zero[0]), int(zero[1]))
    nan = float("nan")
    if any(impossible):
        return Comparison(names, n, means, means[0] - means[1], nan, (nan, nan), nan, nan, nan, impossible, notes)
    d = scores[0] - scores[1]
    mean, error = float(d.mean()), float(d.std(ddof=1) / np.sqrt(n))
    if error == 0:  # the same density, or one a multiple of the other
        p = 1.0 if mean == 0 else 0.0
        z = 0.0 if mean == 0 else np.copysign(np.inf, mean)
        return Comparison(names, n, means, mean, 0.0, (mean, mean), float(z), p, p, impossible, notes)
    draws = stats.bootstrap(
        (d,),
        np.mean,
        n_resamples=resamples,
        method="percentile",
        batch=max(1, int(DRAWS / n)),
        random_state=np.random.default_rng(seed),
    )
    low, high = (float(v) for v in draws.confidence_interval)
    # Under the hypothesis of no difference the resampled means scatter around 0 as they do around the mean.
    extreme = int((np.abs(draws.bootstrap_distribution - mean) >= abs(mean)).sum())
    boot = (1 + extreme) / (resamples + 1)
    z = mean / error
    return Comparison(
        names, n, means, mean, error, (low, high), z, float(2 * stats.norm.sf(abs(z))), boot, impossible, notes
    )


def _table(source: TableFlow | str | Path) -> TableFlow:
    if isinstance(source, TableFlow):
        return source
    kind = {"image": "the run of images", "posterior": "a posterior"}.get(run_kind(source))
    check(kind is None, ConfigError, f"{source} is {kind}; compare is for runs of tables.")
    return TableFlow.load(source)


def _same_columns(a: Schema, b: Schema) -> list[str]:
    """Refuse densities of different columns; say what else differs."""
    ours, theirs = ({c.name: c.role for c in s.columns} for s in (a, b))
    if ours != theirs:
        differ = sorted(set(ours.items()) ^ set(theirs.items()))
        said = ", ".join(dict.fromkeys(f"{name!r}" for name, _ in differ))
        raise DataError(
            f"the two are densities of different columns: {said} is missing or given in one of them; likelihoods compare "
            "only for the same columns. Fit both with the same --drop and --given."
        )
    steps = [{c.name for c in s.targets if c.step is not None} for s in (a, b)]
    odd = sorted(steps[0] ^ steps[1])
    return (
        [f"columns {', '.join(odd)} are discrete for one of the two only; its likelihood is that of a cell."]
        if odd
        else []
    )


def _seen(source: Any, name: str, schema: Schema, frame: pd.DataFrame) -> tuple[NDArray[np.bool_], list[str]]:
    """Which rows a run was fitted to, and what cannot be told."""
    nothing = np.zeros(len(frame), dtype=bool)
    if isinstance(source, TableFlow):
        return nothing, [f"whether {name} has seen these rows cannot be told: it was passed without its run folder."]
    try:
        parts = load_rows(source)
    except DataError:
        return nothing, [f"whether {name} has seen these rows cannot be told: its folder keeps no rows."]
    kept = [parts[part] for part in ("train", "validation") if part in parts]
    total = sum(map(len, parts.values()))
    partly = total < schema.rows
    notes = (
        [f"{name} keeps {total:,} of its {schema.rows:,} rows; others it has seen cannot be told."] if partly else []
    )
    mine, fitted = (_keys(to_matrix(rows, schema.names)) for rows in (frame, pd.concat(kept)))
    return np.isin(mine, fitted), notes


def _keys(values: NDArray[np.float64]) -> NDArray[Any]:
    """One value for each row, equal for rows that agree to 12 digits (text does not keep the last bits of a number)."""
    mantissa, exponent = np.frexp(values)
    both = np.ascontiguousarray(np.concatenate([np.round(mantissa * 2.0**40), exponent], axis=1) + 0.0)
    return both.view(np.dtype((np.void, both.dtype.itemsize * both.shape[1]))).ravel()

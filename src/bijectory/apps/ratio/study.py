"""How two tables differ: a test, the columns, the log-ratio of every row, and weights that turn one into the other."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from bijectory.apps.importance import ImportanceWeights, psis
from bijectory.apps.ratio.checks import RatioCheck, check_log_ratios
from bijectory.apps.ratio.classifiers import Classifier, check_classifier, split_folds
from bijectory.apps.ratio.estimators import LogRatio, check_size, fit_ratio
from bijectory.apps.ratio.two_sample import FEWEST, TwoSampleTest, two_sample_test
from bijectory.errors import DataError, check
from bijectory.tables import to_frame, to_matrix
from bijectory.tables.frame import check_columns, listing
from bijectory.tables.schema import check_finite

FOLDS, LEVEL = 3, 0.05


@dataclasses.dataclass(frozen=True)
class TableDifference:
    """What ``compare_tables`` found.

    Attributes:
        test: The two-sample test.
        columns: One row for each column, the most different first: ``ks`` (distance of the distribution functions),
            ``p_value`` (Holm's correction over the columns), ``shift`` (of the mean, in standard deviations), ``spread``
            (ratio of the standard deviations), ``share`` (nats a row that the ratio loses when the column is shuffled).
        a: Log-ratio of each row of A, by a fit that had not seen it.
        b: The same of B.
        importance: Weights of the rows of B that make them stand for rows of A.
        check: Whether the ratio holds.
        classifiers: What the ratio was fitted by, in each fold.
        notes: What was left out, and what to beware of.
    """

    test: TwoSampleTest
    columns: pd.DataFrame
    a: LogRatio
    b: LogRatio
    importance: ImportanceWeights
    check: RatioCheck
    classifiers: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> NDArray[np.float64]:
        """Pareto-smoothed weights of the rows of B, with mean 1."""
        return self.importance.weights.numpy() * len(self.b.value)

    @property
    def divergence(self) -> tuple[float, float]:
        """Kullback-Leibler divergence of A from B in nats, the mean log-ratio over A, and its standard error."""
        value = self.a.value
        noise = value.std(ddof=1) / len(value) ** 0.5
        # Errors of the fit are shared by all rows: they do not average out.
        shared = np.nan_to_num(self.a.se).mean()
        return float(value.mean()), float(np.hypot(noise, shared))

    def summary(self) -> str:
        """What was found, in sentences."""
        p, w = self.test.p_value, self.importance
        differ = "differ" if p < LEVEL else "cannot be told apart"
        kl, se = self.divergence
        text = (
            f"The tables {differ}: p = {p:.3g}, AUC {self.test.auc:.3f} on {sum(self.test.rows)} rows left out. "
            f"KL(A, B) = {kl:.3f} ± {se:.3f} nats. "
        )
        if w.reliable:
            text += f"Weighted, the {len(w.log_ratios)} rows of B are worth {w.ess:.0f} of A (Pareto k {w.khat:.2f})."
        else:
            text += f"Do not use the weights: Pareto k {w.khat:.2f} is above {w.limit:.2f}, B hardly overlaps with A."
        if not self.check.ok:
            mean = f"mean ratio over B {self.check.mean_q[0]:.3g}, slope {self.check.slope:.2f}"
            text += f" The ratio does not hold on rows left out ({mean}, both should be 1): take it as a ranking."
        return text

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The columns as text: names of the fields, and cells."""
        heads = ["column", "KS", "p (Holm)", "shift (s.d.)", "s.d. ratio", "nats of the ratio"]
        rows = [
            [str(name), f"{ks:.3f}", f"{p:.2g}", f"{shift:+.3f}", f"{spread:.3f}", f"{share:.4f}"]
            for name, (ks, p, shift, spread, share) in zip(self.columns.index, self.columns.to_numpy(), strict=True)
        ]
        return heads, rows

    def to_dict(self) -> dict[str, Any]:
        """All but the rows, as plain data."""
        return {
            "auc": self.test.auc,
            "p_value": self.test.p_value,
            "rows": [len(self.a.value), len(self.b.value)],
            "divergence": list(self.divergence),
            "khat": self.importance.khat,
            "khat_limit": self.importance.limit,
            "ess": self.importance.ess,
            "reliable": self.importance.reliable,
            "check": {**dataclasses.asdict(self.check), "ok": self.check.ok},
            "columns": self.columns.to_dict("index"),
            "classifiers": list(self.classifiers),
            "notes": list(self.notes),
        }


def compare_tables(
    a: Any,
    b: Any,
    *,
    drop: Iterable[str] = (),
    classifier: Classifier = "auto",
    permutations: int = 999,
    seed: int = 0,
) -> TableDifference:
    """How two tables differ.

    Args:
        a: Rows of one table.
        b: Rows of the other, with the same columns in any order.
        drop: Names of columns, of one table or of both, to leave out.
        classifier: As for ``fit_ratio``.
        permutations: Of the two-sample test.
        seed: Seed.

    Raises:
        DataError: If the columns differ, are text, are all constant, or there are fewer than 20 rows of one.
        NonFiniteError: On missing values.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a, b = (pd.DataFrame({"u": rng.normal(m, 1, 400), "v": rng.normal(size=400)}) for m in (1.0, 0.0))
        >>> found = compare_tables(a, b, classifier="linear")
        >>> found.test.p_value, found.columns.index[0], round(found.divergence[0], 1)
        (0.001, 'u', 0.5)
    """
    check_classifier(classifier)
    a, b = to_frame(a), to_frame(b)
    drop = list(drop)
    check_columns(pd.DataFrame(columns=[*a.columns, *b.columns.difference(a.columns)]), drop, "--drop")
    a, b = (frame.drop(columns=[name for name in drop if name in frame.columns]) for frame in (a, b))
    odd = [name for name in a.columns if name not in b.columns], [name for name in b.columns if name not in a.columns]
    for names, here, there in ((odd[0], "first", "second"), (odd[1], "second", "first")):
        what = "columns" if len(names) > 1 else "column"
        verb, it = ("are", "them") if len(names) > 1 else ("is", "it")
        place = f"in the {here} table and not in the {there}"
        text = f"{what} {listing(names)} {verb} {place}; rename {it}, or leave {it} out (--drop)."
        check(not names, DataError, text)
    b, names = b[list(a.columns)], list(a.columns)
    x, y = to_matrix(a, names), to_matrix(b, names)
    for values in (x, y):
        check_finite(values, names, "Fill or drop these rows.")
        check_size(values, names)
    few = f"the tables have {len(x)} and {len(y)} rows; a comparison needs at least {FEWEST} of each."
    check(min(len(x), len(y)) >= FEWEST, DataError, few)
    varies = np.ptp(np.concatenate([x, y]), axis=0) > 0
    check(bool(varies.any()), DataError, "every column has one value in both tables: there is nothing to compare.")
    constant = [name for name, moving in zip(names, varies, strict=True) if not moving]
    notes = [f"left out, constant and the same in both tables: {listing(constant)}."] if constant else []
    a, b = (frame[[name for name, moving in zip(names, varies, strict=True) if moving]] for frame in (a, b))
    x, y = x[:, varies], y[:, varies]
    shared = len(set(map(bytes, x)) & set(map(bytes, y)))
    if shared:
        notes.append(f"{shared} rows are in both tables: p-value and errors take rows to be independent.")
    test = two_sample_test(a, b, classifier=classifier, permutations=permutations, seed=seed)
    value, se, loss, used = _cross_fit(a, b, classifier, seed)
    n = len(a)
    weights = psis(torch.tensor(value[n:]), warn=False)
    return TableDifference(
        test,
        _columns(a, b, loss),
        LogRatio(value[:n], se[:n]),
        LogRatio(value[n:], se[n:]),
        weights,
        check_log_ratios(value[:n], value[n:]),
        used,
        tuple(notes),
    )


def _cross_fit(
    a: pd.DataFrame, b: pd.DataFrame, classifier: Classifier, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    """Log-ratios of all rows with errors by fits that had not seen them, and what each column is worth."""
    pool = pd.concat([a, b], ignore_index=True)
    label = np.arange(len(pool)) < len(a)
    value, se, loss = np.empty(len(pool)), np.empty(len(pool)), np.zeros(pool.shape[1])
    rng, used = np.random.default_rng(seed), []
    for train, held in split_folds(pool.to_numpy(dtype=float), label, FOLDS, seed):
        rows = pool.iloc[train]
        ratio = fit_ratio(rows[label[train]], rows[~label[train]], classifier=classifier, seed=seed)
        used.append(ratio.classifiers[0])
        new = pool.iloc[held].reset_index(drop=True)
        value[held], se[held] = ratio.log_ratio_and_error(new)
        before = _loss(value[held], label[held])
        for k, name in enumerate(pool.columns):
            shuffled = new.assign(**{name: rng.permutation(new[name].to_numpy())})
            loss[k] += (_loss(ratio.log_ratio(shuffled), label[held]) - before) / FOLDS
    return value, se, loss, tuple(used)


def _loss(odds: NDArray[np.float64], label: NDArray[np.bool_]) -> float:
    """Cross-entropy, both tables of equal weight."""
    each = np.logaddexp(0, odds) - label * odds
    return float(0.5 * each[label].mean() + 0.5 * each[~label].mean())


def _columns(a: pd.DataFrame, b: pd.DataFrame, loss: NDArray[np.float64]) -> pd.DataFrame:
    rows = {}
    for k, name in enumerate(a.columns):
        u, v = a[name].to_numpy(dtype=float), b[name].to_numpy(dtype=float)
        found = stats.ks_2samp(u, v, method="asymp")
        both = np.sqrt((u.var() + v.var()) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift, spread = (u.mean() - v.mean()) / both, u.std() / v.std()
        rows[name] = [float(found.statistic), float(found.pvalue), float(shift), float(spread), float(loss[k])]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["ks", "p_value", "shift", "spread", "share"])
    order = np.argsort(table["p_value"].to_numpy())
    held = table["p_value"].to_numpy()[order] * (len(table) - np.arange(len(table)))
    table.iloc[order, 1] = np.minimum(np.maximum.accumulate(held), 1.0)
    return table.sort_values(["share", "ks"], ascending=False)

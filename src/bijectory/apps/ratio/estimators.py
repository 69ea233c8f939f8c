"""Estimators of log-density ratios."""

import abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bijectory.apps.ratio.classifiers import Classifier, check_classifier, log_odds_of
from bijectory.apps.table_flow import TableFlow
from bijectory.errors import ConfigError, DataError, check
from bijectory.tables import to_frame, to_matrix
from bijectory.tables.frame import check_columns
from bijectory.tables.schema import check_finite

Method = Literal["classifier", "telescoping"]
Bridge = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class LogRatio(NamedTuple):
    """Log-ratios of rows with their standard errors.

    Attributes:
        value: ``(n,)``, nats.
        se: ``(n,)``; NaN where there is one member only.
    """

    value: NDArray[np.float64]
    se: NDArray[np.float64]


class DensityRatio(abc.ABC):
    r"""An estimate of :math:`\log r(x) = \log p(x) - \log q(x)` by one or several members.

    Example:
        >>> issubclass(FlowRatio, DensityRatio), issubclass(ClassifierRatio, DensityRatio)
        (True, True)
    """

    @abc.abstractmethod
    def members(self, data: Any) -> NDArray[np.float64]:
        """Log-ratio of each row by each member, ``(members, n)``."""

    def log_ratio(self, data: Any) -> NDArray[np.float64]:
        """Log-ratio of each row in nats, ``(n,)``: the mean of the members."""
        return self.members(data).mean(0)

    def log_ratio_and_error(self, data: Any) -> LogRatio:
        """Log-ratio of each row and its standard error: the spread of the members (noise of the fit, not its bias)."""
        found = self.members(data)
        se = found.std(0, ddof=1) if len(found) > 1 else np.full(found.shape[1], np.nan)
        return LogRatio(found.mean(0), se)


class FlowRatio(DensityRatio):
    r"""The log-ratio of two fitted densities of the same columns.

    Args:
        p: The numerator, or several fits of it (other seeds, other resamples of its rows), for a standard error.
        q: The denominator, as many.

    Raises:
        DataError: If they differ in their columns.
        ConfigError: If there are not as many of the one as of the other.

    Example:
        >>> from bijectory import Flow, Schema, StandardNormal, Standardize
        >>> from bijectory.tables import Column
        >>> schema = Schema(columns=(Column(name="a"),), rows=10)
        >>> p, q = (TableFlow(Flow(Standardize(1, [m], [1.0]), StandardNormal(1)).double(), schema) for m in (1.0, 0.0))
        >>> FlowRatio(p, q).log_ratio({"a": [0.5, 2.0]})
        array([0. , 1.5])
    """

    def __init__(self, p: TableFlow | Sequence[TableFlow], q: TableFlow | Sequence[TableFlow]) -> None:
        self.p, self.q = ([f] if isinstance(f, TableFlow) else list(f) for f in (p, q))
        same = len(self.p) == len(self.q) > 0
        check(same, ConfigError, f"p has {len(self.p)} members, q {len(self.q)}; pass as many of each, at least one.")
        columns = [{(c.name, c.role) for c in f.schema.columns} for f in (*self.p, *self.q)]
        odd = sorted({name for other in columns for name, _ in columns[0] ^ other})
        check(not odd, DataError, f"the densities differ in columns {', '.join(map(repr, odd))}; fit them to the same.")

    def members(self, data: Any) -> NDArray[np.float64]:
        out = []
        for p, q in zip(self.p, self.q, strict=True):
            above, below = (f.score_samples(data, nonfinite="propagate") for f in (p, q))
            with np.errstate(invalid="ignore"):  # -inf - -inf: where neither has rows there is no ratio
                out.append(above - below)
        return np.stack(out)


class ClassifierRatio(DensityRatio):
    """What ``fit_ratio`` fits: sums of log-odds of classifiers on columns or latents.

    Args:
        names: Columns, in order.
        bridges: For each member its classifiers' log-odds, one for each pair of neighbouring waymarks.
        flow: The flow whose latents the classifiers see, or None.

    Example:
        >>> ratio = ClassifierRatio(["a"], [[lambda x: 2 * x[:, 0]]])
        >>> ratio.log_ratio({"a": [1.0, 3.0]})
        array([2., 6.])
    """

    def __init__(self, names: list[str], bridges: list[list[Bridge]], flow: TableFlow | None = None) -> None:
        self.names, self.bridges, self.flow = names, bridges, flow

    def members(self, data: Any) -> NDArray[np.float64]:
        x = _features(data, self.names, self.flow)
        return np.stack([np.sum([bridge(x) for bridge in member], axis=0) for member in self.bridges])


def fit_ratio(
    p: Any,
    q: Any,
    *,
    method: Method = "classifier",
    classifier: Classifier = "quadratic",
    flow: TableFlow | None = None,
    bridges: int = 4,
    members: int = 8,
    seed: int = 0,
) -> ClassifierRatio:
    r"""Estimate :math:`\log p(x) / q(x)` from rows of both.

    Args:
        p: Rows of the numerator.
        q: Rows of the denominator, the same columns.
        method: "classifier", or "telescoping" where the two hardly overlap.
        classifier: "linear" or "quadratic" logistic regression, or "boosting" (calibrated trees).
        flow: A density of these columns, for example fitted to both tables together: classifiers then see its latents.
        bridges: Ratios of neighbouring waymarks that telescoping takes, :math:`\alpha_k = k / m`.
        members: Fits to reweighted rows, for the standard error.
        seed: Seed.

    Raises:
        DataError: If the columns differ or there are fewer than 10 rows of one.
        NonFiniteError: On missing values.

    References:
        Telescoping Density-Ratio Estimation, Rhodes, Xu, Gutmann 2020, arXiv:2006.12204, eq. 5 (linear combination).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p, q = {"a": rng.normal(1, 1, 2000)}, {"a": rng.normal(0, 1, 2000)}  # the log-ratio is a - 1/2
        >>> fit_ratio(p, q, classifier="linear").log_ratio({"a": [1.5, 2.5]}).round()
        array([1., 2.])
    """
    check(method in get_args(Method), ConfigError, f"method={method!r}; use 'classifier' or 'telescoping'.")
    check(bridges >= 1 and members >= 1, ConfigError, f"bridges={bridges}, members={members} must be at least 1.")
    check_classifier(classifier)
    names = [c.name for c in flow.schema.columns] if flow is not None else list(to_frame(p).columns)
    x, y = _features(p, names, flow), _features(q, names, flow)
    few = f"p has {len(x)} rows, q {len(y)}; a ratio needs at least 10 of each."
    check(min(len(x), len(y)) >= 10, DataError, few)
    rng, alphas = np.random.default_rng(seed), np.linspace(0, 1, (bridges if method == "telescoping" else 1) + 1)
    found: list[list[Bridge]] = []
    # Waymarks are mixtures around a common centre, in common units.
    pool = np.concatenate([x, y])
    centre, spread = pool.mean(0), np.where(pool.std(0) > 0, pool.std(0), 1.0)
    a, b = (x - centre) / spread, (y - centre) / spread
    for _ in range(members):
        # Weights, not copies: a row and its copy must not end up on both sides of a fold.
        u, v = (np.bincount(rng.integers(0, n, n), minlength=n).astype(float) for n in (len(a), len(b)))
        if members == 1:
            u, v = np.ones(len(a)), np.ones(len(b))
        chain: list[Bridge] = []
        n = max(len(a), len(b))
        i, j = (np.concatenate([rng.permutation(k) for _ in range(-(-n // k))])[:n] for k in (len(a), len(b)))
        for low, high in itertools.pairwise(alphas):
            left, lw = (a, u) if low == 0 else (_mix(a[i], b[j], low), u[i] * v[j])
            right, rw = (b, v) if high == 1 else (_mix(a[i], b[j], high), u[i] * v[j])
            label = np.arange(len(left) + len(right)) < len(left)
            rows, weight = np.concatenate([left, right]), np.concatenate([lw, rw])
            chain.append(
                _Rescaled(log_odds_of(classifier, rows, label, weight, int(rng.integers(2**31))), centre, spread)
            )
        found.append(chain)
    return ClassifierRatio(names, found, flow)


class _Rescaled:
    """A function of standardised rows, for rows as they are."""

    def __init__(self, of: Bridge, centre: NDArray[np.float64], spread: NDArray[np.float64]) -> None:
        self.of, self.centre, self.spread = of, centre, spread

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.of((x - self.centre) / self.spread)


def _mix(a: NDArray[np.float64], b: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    return np.sqrt(1 - alpha**2) * a + alpha * b


def _features(data: Any, names: list[str], flow: TableFlow | None) -> NDArray[np.float64]:
    if flow is not None:
        return flow.transform(data).to_numpy()
    frame: pd.DataFrame = to_frame(data)
    check_columns(frame, names)
    values = to_matrix(frame, names)
    check_finite(values, names, "Fill or drop these rows.")
    return values

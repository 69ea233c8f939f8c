"""Estimators of log-density ratios."""

import abc
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bijectory.apps.ratio.classifiers import Bridge, Classifier, Fitted, check_classifier, fit_classifier
from bijectory.apps.table_flow import TableFlow
from bijectory.errors import ConfigError, DataError, check
from bijectory.tables import to_frame, to_matrix
from bijectory.tables.frame import check_columns
from bijectory.tables.schema import check_finite

LARGE = 1e100
Method = Literal["classifier", "telescoping"]


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
        """Log-ratio of each row and its standard error, the spread of the members: NaN where there is one only."""
        found = self.members(data)
        se = found.std(0, ddof=1) if len(found) > 1 else np.full(found.shape[1], np.nan)
        return LogRatio(self.log_ratio(data), se)


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
        centre: The same of the estimate; None for the mean of the members.
        classifiers: Name of the classifier of each bridge, for people.

    Example:
        >>> ratio = ClassifierRatio(["a"], [[lambda x: 2 * x[:, 0]]])
        >>> ratio.log_ratio({"a": [1.0, 3.0]})
        array([2., 6.])
    """

    def __init__(
        self,
        names: list[str],
        bridges: list[list[Bridge]],
        flow: TableFlow | None = None,
        *,
        centre: list[Bridge] | None = None,
        classifiers: Sequence[str] = (),
    ) -> None:
        self.names, self.bridges, self.flow = names, bridges, flow
        self.centre, self.classifiers = centre, tuple(classifiers)

    def members(self, data: Any) -> NDArray[np.float64]:
        x = _features(data, self.names, self.flow)
        return np.stack([np.sum([bridge(x) for bridge in member], axis=0) for member in self.bridges])

    def log_ratio(self, data: Any) -> NDArray[np.float64]:
        if self.centre is None:
            return super().log_ratio(data)
        x = _features(data, self.names, self.flow)
        return np.asarray(np.sum([bridge(x) for bridge in self.centre], axis=0))


def fit_ratio(
    p: Any,
    q: Any,
    *,
    method: Method = "classifier",
    classifier: Classifier = "auto",
    flow: TableFlow | None = None,
    bridges: int = 4,
    members: int | None = None,
    seed: int = 0,
) -> ClassifierRatio:
    r"""Estimate :math:`\log p(x) / q(x)` from rows of both.

    Args:
        p: Rows of the numerator.
        q: Rows of the denominator, the same columns.
        method: "classifier", or "telescoping" where the two hardly overlap.
        classifier: "linear" or "quadratic" logistic regression, "discriminant" (two normal densities), "boosting"
            (calibrated trees), or "auto": the one with the best likelihood of rows left out, calibrated by these.
        flow: A density of these columns, for example fitted to both tables together: classifiers then see its latents.
        bridges: Ratios of neighbouring waymarks that telescoping takes, :math:`\alpha_k = k / m`.
        members: Whose spread is the standard error: posterior draws, or for trees fits to resampled rows. None for 32, or 8
            for trees; with 1 there is no error.
        seed: Seed.

    Raises:
        DataError: If the columns differ or there are fewer than 10 rows of one.
        NonFiniteError: On missing values.

    References:
        Telescoping Density-Ratio Estimation, Rhodes, Xu, Gutmann 2020, arXiv:2006.12204, eq. 5 (linear combination).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p, q = {"a": rng.normal(1, 1, 2000)}, {"a": rng.normal(0, 1, 2000)}  # the log-ratio is a - 1/2
        >>> ratio = fit_ratio(p, q)
        >>> ratio.log_ratio({"a": [1.5, 2.5]}).round(), ratio.classifiers
        (array([1., 2.]), ('linear',))
    """
    check(method in get_args(Method), ConfigError, f"method={method!r}; use 'classifier' or 'telescoping'.")
    enough = bridges >= 1 and (members is None or members >= 1)
    check(enough, ConfigError, f"bridges={bridges}, members={members} must be at least 1.")
    check_classifier(classifier)
    names = [c.name for c in flow.schema.columns] if flow is not None else list(to_frame(p).columns)
    x, y = _features(p, names, flow), _features(q, names, flow)
    few = f"p has {len(x)} rows, q {len(y)}; a ratio needs at least 10 of each."
    check(min(len(x), len(y)) >= 10, DataError, few)
    rng, alphas = np.random.default_rng(seed), np.linspace(0, 1, (bridges if method == "telescoping" else 1) + 1)
    # Waymarks are mixtures around a common centre, in common units.
    pool = np.concatenate([x, y])
    centre, spread = pool.mean(0), np.where(pool.std(0) > 0, pool.std(0), 1.0)
    a, b = (x - centre) / spread, (y - centre) / spread
    n = max(len(a), len(b))
    i, j = (np.concatenate([rng.permutation(k) for _ in range(-(-n // k))])[:n] for k in (len(a), len(b)))
    found: list[Fitted] = []
    for low, high in itertools.pairwise(alphas):
        left = a if low == 0 else _mix(a[i], b[j], low)
        right = b if high == 1 else _mix(a[i], b[j], high)
        label = np.arange(len(left) + len(right)) < len(left)
        found.append(fit_classifier(classifier, np.concatenate([left, right]), label, members, rng))
    count = min(len(f.members) for f in found)  # bridges with trees have fewer

    def rescaled(bridge: Bridge) -> Bridge:
        return _Rescaled(bridge, centre, spread)

    return ClassifierRatio(
        names,
        [[rescaled(f.members[k]) for f in found] for k in range(count)],
        flow,
        centre=[rescaled(f.centre) for f in found],
        classifiers=[f.name for f in found],
    )


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
    check_size(values, names)
    return values


def check_size(values: NDArray[np.float64], names: list[str]) -> None:
    """Refuse values whose squares float64 does not hold."""
    largest = np.abs(values).max(axis=0, initial=0.0)
    k = int(largest.argmax()) if len(largest) else 0
    ok = not len(largest) or bool(largest[k] < LARGE)
    check(
        ok,
        DataError,
        "" if ok else f"column {names[k]!r} holds {largest[k]:.3g}, too large to square; divide it by a constant.",
    )

"""Whether two tables come from the same distribution, by whether a classifier can tell their rows apart."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bijectory.apps.ratio.classifiers import Classifier, check_classifier, fit_classifier, split_folds
from bijectory.apps.ratio.estimators import _features
from bijectory.errors import ConfigError, DataError, check
from bijectory.tables import to_frame

FEWEST = 20  # rows of each table


@dataclasses.dataclass(frozen=True)
class TwoSampleTest:
    """What ``two_sample_test`` found.

    Attributes:
        auc: Probability that a held-out row of p is ranked above one of q; 0.5 if they cannot be told apart.
        p_value: By permutation, exact whatever the classifier.
        rows: Held-out rows of each.

    Example:
        >>> TwoSampleTest(0.9, 0.001, (100, 100)).p_value
        0.001
    """

    auc: float
    p_value: float
    rows: tuple[int, int]


def two_sample_test(
    p: Any, q: Any, *, classifier: Classifier = "boosting", permutations: int = 999, seed: int = 0
) -> TwoSampleTest:
    r"""Classifier two-sample test.

    A classifier is trained on one half of the rows and ranks the other half. If both tables come from the same distribution,
    labels of the other half can be exchanged freely, and :math:`(1 + \#\{b : A_b \ge A\}) / (B + 1)` over :math:`B`
    permutations of them is a valid p-value of the area :math:`A` under the ROC curve.

    Rows that are in both tables stay on one side.

    Args:
        p: Rows of one table.
        q: Rows of the other, the same columns.
        classifier: As for ``fit_ratio``.
        permutations: Number of permutations.
        seed: Seed of halves, trees and permutations.

    Raises:
        DataError: If the columns differ or there are fewer than 20 rows of one.

    References:
        Revisiting Classifier Two-Sample Tests, Lopez-Paz, Oquab 2016, arXiv:1610.06545, sec. 3.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a, b, c = rng.normal(size=(300, 2)), rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) ** 3
        >>> two_sample_test(a, b, classifier="quadratic").p_value > 0.05
        True
        >>> two_sample_test(a, c, classifier="quadratic").p_value < 0.01
        True
    """
    check(permutations >= 19, ConfigError, f"permutations={permutations} is too few; use at least 19.")
    check_classifier(classifier)
    names = list(to_frame(p).columns)
    tables = [_features(rows, names, None) for rows in (p, q)]
    few = f"p has {len(tables[0])} rows, q {len(tables[1])}; the test needs at least {FEWEST} of each."
    check(min(map(len, tables)) >= FEWEST, DataError, few)
    rng = np.random.default_rng(seed)
    x, label = np.concatenate(tables), np.repeat([True, False], [len(tables[0]), len(tables[1])])
    train, test = split_folds(x, label, 2, int(rng.integers(2**31)))[0]
    centre, spread = x[train].mean(0), np.where(x[train].std(0) > 0, x[train].std(0), 1.0)
    z = (x - centre) / spread
    odds = fit_classifier(classifier, z[train], label[train], 1, rng).centre
    rank, label = stats.rankdata(odds(z[test])), label[test]
    n, m = int(label.sum()), int((~label).sum())
    auc = _area(rank, label, n, m)
    extreme = sum(_area(rank, rng.permutation(label), n, m) >= auc - 1e-12 for _ in range(permutations))
    return TwoSampleTest(auc, (1 + extreme) / (permutations + 1), (n, m))


def _area(rank: NDArray[np.float64], label: NDArray[np.bool_], n: int, m: int) -> float:
    return float((rank[label].sum() - n * (n + 1) / 2) / (n * m))

"""What a detector found in a table or a pile of images: scores, p-values, decisions, and how far to trust them."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bijectory.apps.anomaly.calibration import auroc, false_alarm_rate
from bijectory.errors import DataError, check


@dataclasses.dataclass(frozen=True)
class Findings:
    """Scores, p-values and decisions of all rows.

    Attributes:
        score: ``(n,)``, larger is more abnormal; NaN for rows with missing values.
        p_value: ``(n,)`` conformal p-values.
        flagged: ``(n,)`` decisions.
        held_out: ``(m,)`` sorted scores of the held-out rows.
        method: Method of the scores.
        fpr: Rate that was allowed.
        control: What it is a share of: "level" or "discoveries".

    Example:
        >>> score, flagged = np.array([0.5, 9.0]), np.array([False, True])
        >>> found = Findings(score, np.array([0.5, 0.01]), flagged, np.arange(99.0), "log-likelihood", 0.01, "level")
        >>> found.summary()
        '1 of 2 rows flagged (about 0.0 expected among ordinary rows)'
        >>> found.evaluate([0, 1]).auroc
        1.0
    """

    score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    held_out: NDArray[np.float64]
    method: str
    fpr: float
    control: str

    def __len__(self) -> int:
        return len(self.score)

    def table(self) -> pd.DataFrame:
        """Columns ``row, score, p_value, flagged``."""
        columns = {"score": self.score, "p_value": self.p_value, "flagged": self.flagged}
        return pd.DataFrame({"row": np.arange(len(self)), **columns})

    def worst(self, rows: int) -> NDArray[np.intp]:
        """The most abnormal rows, the worst first; those with missing values are left out."""
        known = np.flatnonzero(~np.isnan(self.score))
        return known[np.argsort(-self.score[known], kind="stable")][:rows]

    def summary(self, kind: str = "rows") -> str:
        """One line that says how many were flagged, and how many are flagged by chance."""
        alone = f"about {self.fpr * len(self):.1f} expected among ordinary {kind}"
        chance = alone if self.control == "level" else f"{self.fpr:g} of them false"
        return f"{int(self.flagged.sum())} of {len(self)} {kind} flagged ({chance})"

    def caution(self) -> str | None:
        """One sentence where there are too few held-out rows for what was asked, else None."""
        n = len(self.held_out)
        if self.control == "discoveries":
            known = int((~np.isnan(self.p_value)).sum())
            least = int(np.ceil(known / (self.fpr * (n + 1)) - 1e-9))  # so many must share the smallest p-value
            if least <= 1:
                return None
            return (
                f"with {n} held-out rows, fewer than {least} anomalies among {known} rows cannot be told from chance at "
                f"a rate of {self.fpr:g}; hold out {int(np.ceil(known / self.fpr - 1e-9)) - 1} rows to find a single one."
            )
        mean, low, high = false_alarm_rate(n, self.fpr)
        if high <= 2 * mean:
            return None
        return (
            f"with {n} held-out rows the rate of false alarms is {mean:.2g} on average, but between {low:.2g} and "
            f"{high:.2g} (90 %) for this set; hold out about {int(np.ceil(4 / self.fpr))} rows to be surer."
        )

    def evaluate(self, labels: ArrayLike, *, seed: int = 0) -> "Evaluation":
        """How well the scores and decisions agree with labels.

        Args:
            labels: ``(n,)`` 1 or True for anomalies, 0 or False for ordinary rows.
            seed: Seed of the bootstrap.

        Raises:
            DataError: If the labels are not of this kind, or name one kind of rows only.
        """
        odd = read_labels(labels, len(self))
        area, error = auroc(odd, self.score, seed=seed)
        known = ~np.isnan(self.score)
        hits, alarms = (int(self.flagged[known & kind].sum()) for kind in (odd, ~odd))
        strange, ordinary = int((known & odd).sum()), int((known & ~odd).sum())
        return Evaluation(odd, area, error, hits / strange, alarms / ordinary, alarms / max(hits + alarms, 1))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Agreement of a detector with labels.

    Attributes:
        labels: ``(n,)`` True for anomalies.
        auroc: Area under the ROC curve.
        auroc_error: Its bootstrap standard error.
        recall: Share of the anomalies that is flagged.
        false_alarms: Share of the ordinary rows that is flagged.
        false_discoveries: Share of the flagged rows that is ordinary.

    Example:
        >>> Evaluation(np.array([True, False]), 1.0, 0.0, 1.0, 0.0, 0.0).auroc
        1.0
    """

    labels: NDArray[np.bool_]
    auroc: float
    auroc_error: float
    recall: float
    false_alarms: float
    false_discoveries: float

    def to_dict(self) -> dict[str, float]:
        """The numbers."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "labels"}


def read_labels(labels: Any, n: int) -> NDArray[np.bool_]:
    """Whether each row is an anomaly, from 0 and 1, or False and True.

    Raises:
        DataError: On other values, missing ones, or another number of rows.

    Example:
        >>> read_labels([0, 1, 1.0], 3).tolist()
        [False, True, True]
    """
    found = pd.Series(np.asarray(labels).ravel())
    check(len(found) == n, DataError, f"{len(found)} labels for {n} rows; give one for each.")
    values = [str(v) for v in found.unique()[:4]]
    number = pd.to_numeric(found.astype(object), errors="coerce")
    ok = bool(number.isin([0, 1]).all())
    check(ok, DataError, f"labels are {', '.join(values)}; write 1 for anomalies and 0 for ordinary rows.")
    return number.to_numpy() == 1

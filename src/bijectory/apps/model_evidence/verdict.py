r"""One verdict from several estimates: do they agree, and which one is recommended?

The estimates are made from draws of their own, so that for honest standard errors
:math:`\chi^2 = \sum_i (\log\hat Z_i - \bar{\log Z})^2 / \sigma_i^2` with the weighted mean has one degree of freedom less
than there are estimates. They fail in different ways: importance sampling and annealing see what the flow sees, the harmonic
mean what the draws see, and the bridge needs both to overlap. So agreement means something, though not everything: a mode
that neither the flow nor the draws have ever met is missed by all.
"""

import dataclasses
import itertools
import math
import warnings
from typing import Any

import pandas as pd
from scipy import stats

from bijectory.apps.model_evidence.estimate import EvidenceEstimate, EvidenceWarning

LEVEL = 1e-3  # of the test of agreement
RESOLUTION = 1e-3  # nats: rounding and the inverse of a flow; less matters to nobody
ADVICE = {
    "trusted": "the estimates agree",
    "disagree": "some of the draws or the flow miss part of the posterior; do not use a number before you know which",
    "unreliable": "too few estimates can be trusted; follow what is said beside each",
}


@dataclasses.dataclass(frozen=True)
class Evidence:
    r"""What ``evidence`` found.

    Attributes:
        estimates: One for each estimator that applied.
        notes: What else speaks against them: missed modes, chains that did not converge.
        name: Of the model.

    Example:
        >>> one = EvidenceEstimate("importance", -3.0, 0.01, {}, ())
        >>> two = EvidenceEstimate("bridge", -3.01, 0.02, {}, ())
        >>> found = Evidence((one, two))
        >>> found.state, found.recommended.method, found.log_z
        ('trusted', 'importance', -3.0)
        >>> Evidence((one, dataclasses.replace(two, log_z=-2.0))).state
        'disagree'
    """

    estimates: tuple[EvidenceEstimate, ...]
    notes: tuple[str, ...] = ()
    name: str = "model"

    @property
    def reliable(self) -> tuple[EvidenceEstimate, ...]:
        """The estimates against which nothing speaks."""
        return tuple(e for e in self.estimates if e.reliable)

    @property
    def state(self) -> str:
        """One of "trusted", "disagree" and "unreliable".

        Trusted: at least two estimates are reliable (or the only one that was asked for), they agree (chi-square test at
        0.1 %), and no note speaks against them.
        """
        good = self.reliable
        if len(good) >= 2 and self.agreement[1] < LEVEL:
            return "disagree"
        enough = len(good) >= min(2, len(self.estimates)) and len(good) > 0
        return "trusted" if enough and not self.notes else "unreliable"

    @property
    def agreement(self) -> tuple[float, float]:
        """Chi-square of the reliable estimates, and its p-value; ``(0, 1)`` of fewer than two."""
        good = self.reliable
        if len(good) < 2:
            return 0.0, 1.0
        precision = [1 / _variance(e) for e in good]
        mean = sum(w * e.log_z for w, e in zip(precision, good, strict=True)) / sum(precision)
        chi2 = sum(w * (e.log_z - mean) ** 2 for w, e in zip(precision, good, strict=True))
        return chi2, float(stats.chi2.sf(chi2, len(good) - 1))

    @property
    def recommended(self) -> EvidenceEstimate:
        """The reliable estimate with the smallest standard error; of the others, if none is reliable."""
        known = [e for e in self.estimates if not math.isnan(e.log_z)]
        return min(self.reliable or known or self.estimates, key=lambda e: e.se)

    @property
    def log_z(self) -> float:
        """The recommended estimate, nats."""
        return self.recommended.log_z

    @property
    def se(self) -> float:
        """Its standard error."""
        return self.recommended.se

    def table(self) -> pd.DataFrame:
        """One row for each estimator: log_z, se, state, ess, khat, problems."""
        rows = [
            {
                "log_z": e.log_z,
                "se": e.se,
                "state": e.state,
                "ess": e.diagnostics.get("ess", math.nan),
                "khat": e.diagnostics.get("khat", math.nan),
                "problems": "; ".join(e.problems),
            }
            for e in self.estimates
        ]
        return pd.DataFrame(rows, index=pd.Index([e.method for e in self.estimates], name="estimator"))

    def pairs(self) -> pd.DataFrame:
        """Differences of all pairs of estimates with standard errors and z."""
        rows = []
        for a, b in itertools.combinations([e for e in self.estimates if not math.isnan(e.log_z)], 2):
            error = math.sqrt(_variance(a) + _variance(b))
            gap = a.log_z - b.log_z
            rows.append({"first": a.method, "second": b.method, "difference": gap, "se": error, "z": gap / error})
        return pd.DataFrame(rows, columns=["first", "second", "difference", "se", "z"])

    @property
    def verdict(self) -> str:
        """One sentence."""
        best, (chi2, p) = self.recommended, self.agreement
        good = len(self.reliable)
        if self.state == "trusted" and good > 1:
            return (
                f"trusted: log Z = {best.log_z:.4f} ± {best.se:.2g} nats ({best.method}); {good} estimates agree "
                f"(chi-square {chi2:.1f}, p = {p:.2g})"
            )
        if self.state == "trusted":
            return (
                f"trusted: log Z = {best.log_z:.4f} ± {best.se:.2g} nats ({best.method}); no second estimate to compare"
            )
        if self.state == "disagree":
            low, high = (f(e.log_z for e in self.reliable) for f in (min, max))
            return (
                f"disagree: {good} estimates lie between {low:.3f} and {high:.3f} nats (chi-square {chi2:.1f}, "
                f"p = {p:.1g}); {ADVICE['disagree']}"
            )
        why = "; ".join(self.notes) or f"{good} of {len(self.estimates)} estimates are reliable"
        return f"unreliable: {why}; {ADVICE['unreliable']}"

    def warn(self) -> None:
        """Warn if the evidence is not to be trusted.

        Warns:
            EvidenceWarning: With the verdict.
        """
        if self.state != "trusted":
            warnings.warn(f"evidence of {self.name}: {self.verdict}.", EvidenceWarning, stacklevel=3)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        chi2, p = self.agreement
        return {
            "name": self.name,
            "state": self.state,
            "verdict": self.verdict,
            "recommended": self.recommended.method,
            "log_z": self.log_z,
            "se": self.se,
            "chi_square": chi2,
            "p_value": p,
            "notes": list(self.notes),
            "estimates": [e.to_dict() for e in self.estimates],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Evidence":
        """From what ``to_dict`` gave."""
        estimates = tuple(EvidenceEstimate.from_dict(e) for e in values["estimates"])
        return cls(estimates, tuple(values["notes"]), values["name"])

    def __str__(self) -> str:
        lines = [f"{self.name}"]
        for e in self.estimates:
            words = "failed" if e.state == "failed" else f"{e.log_z:10.4f} ± {e.se:.2g}"
            lines.append(f"  {e.method:<11} {words}{''.join(f'; {p}' for p in e.problems)}")
        return "\n".join([*lines, *(f"  note        {n}" for n in self.notes), f"  verdict     {self.verdict}"])


def _variance(e: EvidenceEstimate) -> float:
    return e.se**2 + RESOLUTION**2

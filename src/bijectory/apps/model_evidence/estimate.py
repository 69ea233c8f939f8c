"""One estimate of the evidence: value, standard error, what it rests on, and what speaks against it."""

import dataclasses
import math
import warnings
from collections.abc import Iterable
from typing import Any

from bijectory.errors import ConfigError, check

METHODS = ("importance", "bridge", "harmonic", "annealed")
LARGEST_SE = 0.5  # nats; beyond, the normal approximation of the error of a logarithm is none
MIN_ESS = 100.0
RHAT_LIMIT = 1.05  # chains that have not mixed; 1.01 is for quantiles to the last digit


class EvidenceWarning(UserWarning):
    """An estimate of the evidence cannot be trusted."""


@dataclasses.dataclass(frozen=True)
class EvidenceEstimate:
    r"""An estimate of :math:`\log Z`.

    Attributes:
        method: "importance", "bridge", "harmonic" or "annealed".
        log_z: The estimate, nats; NaN if the estimator failed.
        se: Its standard error, nats.
        diagnostics: What it rests on: numbers by name.
        problems: What speaks against it, in words; empty if nothing does.

    Example:
        >>> EvidenceEstimate("importance", -1.0, 0.01, {"khat": 0.2}, ())
        EvidenceEstimate(importance: -1.0000 ± 0.0100 nats)
    """

    method: str
    log_z: float
    se: float
    diagnostics: dict[str, float]
    problems: tuple[str, ...]

    def __post_init__(self) -> None:
        check(self.method in METHODS, ConfigError, f"there is no estimator {self.method!r}; use one of {METHODS}.")

    @property
    def reliable(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems

    @property
    def state(self) -> str:
        """One of "reliable", "unreliable" and "failed"."""
        return "failed" if math.isnan(self.log_z) else "reliable" if self.reliable else "unreliable"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**dataclasses.asdict(self), "problems": list(self.problems), "state": self.state}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EvidenceEstimate":
        """From what ``to_dict`` gave; a null is NaN."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        for name in ("log_z", "se"):
            known[name] = math.nan if known[name] is None else float(known[name])
        return cls(**{**known, "problems": tuple(values["problems"])})

    def __repr__(self) -> str:
        words = "" if self.reliable else f", {self.state}: {'; '.join(self.problems)}"
        return f"EvidenceEstimate({self.method}: {self.log_z:.4f} ± {self.se:.4f} nats{words})"


def judged(
    method: str,
    log_z: float,
    se: float,
    diagnostics: dict[str, float],
    problems: Iterable[tuple[bool, str]],
    *,
    warn: bool,
) -> EvidenceEstimate:
    """An estimate with those of the possible problems that it has, and a warning if it has any.

    Warns:
        EvidenceWarning: With the problems.
    """
    large = (not se <= LARGEST_SE, f"standard error of {se:.2g} nats above {LARGEST_SE}: take more draws")
    found = tuple(text for bad, text in (*problems, large) if bad)
    estimate = EvidenceEstimate(method, log_z, se, diagnostics, found)
    if warn and found:
        warnings.warn(
            f"log Z = {log_z:.3f} by the {method} estimator cannot be trusted: {'; '.join(found)}.",
            EvidenceWarning,
            stacklevel=3,
        )
    return estimate

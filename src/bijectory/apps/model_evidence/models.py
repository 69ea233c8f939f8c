r"""Which of several models the data prefer: Bayes factors and posterior probabilities with the errors of the evidences.

.. math:: P(M_k \mid y) = \frac{\pi_k Z_k}{\sum_j \pi_j Z_j}, \qquad \log B_{ab} = \log Z_a - \log Z_b \pm
    \sqrt{\sigma_a^2 + \sigma_b^2}

The evidences must be those of the same data, with every constant kept: a prior without its normalisation shifts
:math:`\log Z`.

References:
    Bayes Factors, Kass, Raftery 1995, JASA 90, sec. 3.2 (words for sizes, here in nats: 1, 3, 5).
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bijectory.apps.model_evidence.estimate import EvidenceWarning
from bijectory.apps.model_evidence.verdict import Evidence
from bijectory.errors import ConfigError, check

CERTAIN = 2.0  # standard errors between two evidences whose order can be told
WORDS = ((5.0, "very strong"), (3.0, "strong"), (1.0, "positive"), (0.0, "hardly worth a mention"))


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """What ``compare_models`` found.

    Attributes:
        evidences: One for each model.
        odds: Prior odds, relative to each other.

    Example:
        >>> from bijectory.apps.model_evidence import EvidenceEstimate
        >>> def of(name, log_z):
        ...     return Evidence((EvidenceEstimate("importance", log_z, 0.03, {}, ()),), name=name)
        >>> found = ModelComparison((of("A", -10.0), of("B", -14.0)), (1.0, 1.0))
        >>> found.verdict
        'A is preferred to B by 4.00 ± 0.042 nats (strong), posterior probability 0.982'
    """

    evidences: tuple[Evidence, ...]
    odds: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models."""
        return tuple(e.name for e in self.evidences)

    @property
    def probabilities(self) -> np.ndarray:
        """Posterior probabilities of the models, ``(models,)``; NaN where an evidence is."""
        score = np.array([e.log_z for e in self.evidences]) + np.log(self.odds)
        weight = np.exp(score - score.max())
        return np.asarray(weight / weight.sum())

    @property
    def probability_errors(self) -> np.ndarray:
        r"""Their standard errors by the delta method, :math:`\partial p_i / \partial\log Z_j = p_i(\delta_{ij} - p_j)`."""
        p = self.probabilities
        slopes = np.diag(p) - np.outer(p, p)
        return np.asarray(np.sqrt(slopes**2 @ np.array([e.se for e in self.evidences]) ** 2))

    @property
    def order(self) -> list[int]:
        """Models by posterior probability, the largest first."""
        return [int(k) for k in np.argsort(-self.probabilities, kind="stable")]

    @property
    def log_bayes_factor(self) -> tuple[float, float]:
        """Evidence of the first model over the second in ``order``, nats, and its standard error."""
        a, b = (self.evidences[k] for k in self.order[:2])
        return a.log_z - b.log_z, math.hypot(a.se, b.se)

    @property
    def log_odds(self) -> float:
        """Posterior log-odds of the first model against the second in ``order``: prior odds counted."""
        a, b = self.order[:2]
        return self.log_bayes_factor[0] + math.log(self.odds[a] / self.odds[b])

    @property
    def untrusted(self) -> tuple[Evidence, ...]:
        """Evidences that are not to be trusted."""
        return tuple(e for e in self.evidences if e.state != "trusted")

    @property
    def preferred(self) -> str | None:
        """Name of the most probable model; None if that cannot be told."""
        if self.untrusted or self.log_odds < CERTAIN * self.log_bayes_factor[1]:
            return None
        return self.names[self.order[0]]

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.untrusted:
            who = ", ".join(f"{e.name} ({e.state})" for e in self.untrusted)
            return f"no model can be preferred: the evidence of {who} is not to be trusted"
        (value, se), (a, b) = self.log_bayes_factor, (self.names[k] for k in self.order[:2])
        if self.preferred is None:
            return f"no preference can be told: {a} over {b} is {value:+.3f} ± {se:.2g} nats"
        odds = "" if len(set(self.odds)) == 1 else ", prior odds counted in the probability"
        words = next(w for least, w in WORDS if abs(value) >= least)
        p = self.probabilities[self.order[0]]
        sign = "" if value >= 0 else " in spite of its evidence,"
        return (
            f"{a} is preferred to {b}{sign} by {abs(value):.2f} ± {se:.2g} nats ({words}), "
            f"posterior probability {p:.3f}{odds}"
        )

    def table(self) -> pd.DataFrame:
        """One row for each model, the most probable first: log_z, se, over (nats below the best), probability, state."""
        p, errors = self.probabilities, self.probability_errors
        best = self.evidences[self.order[0]]
        rows = [
            {
                "log_z": e.log_z,
                "se": e.se,
                "log_bayes_factor": e.log_z - best.log_z,
                "probability": p[k],
                "probability_se": errors[k],
                "state": e.state,
            }
            for k, e in ((k, self.evidences[k]) for k in self.order)
        ]
        return pd.DataFrame(rows, index=pd.Index([self.names[k] for k in self.order], name="model"))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        value, se = self.log_bayes_factor
        return {
            "verdict": self.verdict,
            "preferred": self.preferred,
            "log_bayes_factor": value,
            "se": se,
            "table": self.table().reset_index().to_dict("records"),
        }

    def __str__(self) -> str:
        return f"{self.table().to_string(float_format=lambda v: f'{v:.4g}')}\n{self.verdict}"


def compare_models(
    evidences: Sequence[Evidence] | Mapping[str, Evidence],
    *,
    odds: Sequence[float] | Mapping[str, float] | None = None,
    warn: bool = True,
) -> ModelComparison:
    """Compare models of the same data by their evidences.

    Args:
        evidences: At least two, with names of their own; or by name.
        odds: Prior odds in the same order, or by name (1 where missing); equal by default.
        warn: Warn where one of the evidences is not to be trusted.

    Raises:
        ConfigError: If there are fewer than two models, names repeat, or odds are not positive.

    Warns:
        EvidenceWarning: If an evidence is not to be trusted; then no model is preferred.

    References:
        Bayes Factors, Kass, Raftery 1995, JASA 90.

    Example:
        >>> from bijectory.apps.model_evidence import EvidenceEstimate
        >>> def of(log_z):
        ...     return Evidence((EvidenceEstimate("bridge", log_z, 0.1, {}, ()),))
        >>> compare_models({"line": of(-20.0), "parabola": of(-18.0)}).preferred
        'parabola'
    """
    if isinstance(evidences, Mapping):
        evidences = [dataclasses.replace(e, name=str(n)) for n, e in evidences.items()]
    names = [e.name for e in evidences]
    check(len(names) >= 2, ConfigError, f"give at least two evidences to compare, got {len(names)}.")
    check(len(set(names)) == len(names), ConfigError, f"models {names} repeat a name; evidence(..., name=) sets it.")
    if isinstance(odds, Mapping):
        strange = sorted(set(odds) - set(names))
        check(not strange, ConfigError, f"odds are given for {strange}; the models are {names}.")
        odds = [odds.get(n, 1.0) for n in names]
    odds = [1.0] * len(names) if odds is None else [float(o) for o in odds]
    check(len(odds) == len(names), ConfigError, f"there are {len(odds)} odds for {len(names)} models.")
    positive = all(math.isfinite(o) and o > 0 for o in odds)
    check(positive, ConfigError, f"prior odds must be positive, got {odds}; leave out a model that is impossible.")
    found = ModelComparison(tuple(evidences), tuple(odds))
    if warn and found.untrusted:
        warnings.warn(f"{found.verdict}.", EvidenceWarning, stacklevel=2)
    return found

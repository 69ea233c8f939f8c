"""What a report says, as plain data: figures and HTML are drawn from this and from nothing else."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bijectory.apps.baselines import Baseline

Array = NDArray[np.float64]
Light = Literal["good", "warn", "bad"]
RESAMPLES = 999
ANOMALIES = 10


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything that a report shows.

    Attributes:
        title: Name of the run.
        columns: Names of the modelled columns.
        given: Names of the conditioning columns.
        heldout: ``(m, d)`` held-out rows in the units of the data.
        samples: ``(k, d)`` draws from the model in the units of the data.
        log_prob: ``(m,)`` held-out log-likelihood, nats.
        train_log_prob: Log-likelihood of (some of) the training rows, nats.
        sample_log_prob: ``(k,)`` log-likelihood of the draws, nats.
        latents: ``(m, d)`` held-out rows in latent space.
        baselines: Classical densities on the same held-out rows, in the same units.
        history: One mapping for each epoch with ``epoch``, ``train_loss``, ``val_loss`` of the objective.
        audit: Rows ``(check, value, bound, verdict)`` of the model's own audit.
        objective: Name of the objective; the losses of ``nll`` are in nats a row.
        facts: What else to list: recipe, parameters, seconds, seed, versions.
        notes: Warnings about the data.
    """

    title: str
    columns: Sequence[str]
    heldout: Array
    samples: Array
    log_prob: Array
    train_log_prob: Array
    sample_log_prob: Array
    latents: Array
    baselines: Sequence[Baseline]
    history: Sequence[Mapping[str, Any]]
    audit: Sequence[tuple[str, str, str, str]]
    facts: Mapping[str, str]
    given: Sequence[str] = ()
    notes: Sequence[str] = ()
    objective: str = "nll"


@dataclasses.dataclass(frozen=True)
class Score:
    """Mean held-out log-likelihood of one density with a 95 % bootstrap interval, nats and bits per dimension."""

    name: str
    nats: float
    low: float
    high: float
    bits_per_dim: float
    gain: float
    gain_low: float
    gain_high: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A light with the rule that lit it."""

    light: Light
    name: str
    value: str
    rule: str


def interval(values: Array, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; infinite values make it infinite."""
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return (float(values.mean()),) * 2
    kwargs = {"n_resamples": RESAMPLES, "batch": 50, "method": "percentile", "rng": np.random.default_rng(seed)}
    ci = stats.bootstrap((values,), np.mean, confidence_level=0.95, **kwargs).confidence_interval
    return float(ci.low), float(ci.high)


def scores(content: Content) -> list[Score]:
    """The model and the baselines on the held-out rows; ``gain`` is the model minus that density, row by row."""
    d = len(content.columns)
    entries = [("this flow", content.log_prob, ""), *((b.name, b.log_prob, b.note) for b in content.baselines)]
    out = []
    for name, log_prob, note in entries:
        gain = content.log_prob - log_prob
        low, high = interval(log_prob)
        gain_low, gain_high = interval(gain)
        nats = float(log_prob.mean())
        bits = -nats / (d * math.log(2))
        out.append(Score(name, nats, low, high, bits, float(gain.mean()), gain_low, gain_high, note))
    return out


def verdicts(content: Content) -> list[Verdict]:
    """The strip of lights: each has a value and the rule beside it."""
    rows = scores(content)
    found = [_beats(row) for row in rows[1:] if row.name == "full Gaussian"]
    if len(rows) > 1:
        best = max(rows[1:], key=lambda r: r.nats)
        if best.name != "full Gaussian":
            found.append(_beats(best))
    found.append(_gap(content))
    if not content.given:  # draws for other contexts than the held-out ones are not comparable column by column
        found.append(_columns(content))
    found.append(_typical(content))
    bad = [name for name, *_, verdict in content.audit if verdict == "fail"]
    value = f"{len(content.audit) - len(bad)} of {len(content.audit)} checks hold" + (
        f"; {', '.join(bad)}" if bad else ""
    )
    found.append(
        Verdict("bad" if bad else "good", "invertible and normalised", value, "good if every audit check holds")
    )
    return found


def _beats(row: Score) -> Verdict:
    light: Light = "good" if row.gain_low > 0 else "bad" if row.gain_high < 0 else "warn"
    value = f"{row.gain:+.3f} nats a row [{row.gain_low:+.3f}, {row.gain_high:+.3f}]"
    return Verdict(light, f"beats the {row.name}", value, "good if the 95 % interval of the gain lies above 0")


def _gap(content: Content) -> Verdict:
    gap = float(content.train_log_prob.mean() - content.log_prob.mean())
    error = (
        math.hypot(stats.sem(content.train_log_prob), stats.sem(content.log_prob)) if len(content.log_prob) > 1 else 0.0
    )
    allowed = 0.05 * len(content.columns) + 2 * error
    light: Light = "good" if gap <= allowed else "warn" if gap <= 3 * allowed else "bad"
    rule = f"good if training minus held-out is at most 0.05 nats a column plus 2 s.e. ({allowed:.3f})"
    return Verdict(light, "does not overfit", f"{gap:+.3f} nats a row", rule)


def _columns(content: Content) -> Verdict:
    tests = [_distance(a, b) for a, b in zip(content.heldout.T, content.samples.T, strict=True)]
    worst = min(range(len(tests)), key=lambda j: tests[j][1])
    distance, p = tests[worst][0], min(1.0, tests[worst][1] * len(tests))
    light: Light = "good" if p > 0.01 or distance < 0.03 else "warn" if distance < 0.1 else "bad"
    value = f"largest distance {distance:.3f} ({content.columns[worst]}, adjusted p = {p:.2g})"
    return Verdict(light, "samples match every column", value, "good if KS adjusted p > 0.01 or distance < 0.03")


def _typical(content: Content) -> Verdict:
    distance, p = _distance(content.log_prob, content.sample_log_prob)
    light: Light = "good" if p > 0.01 or distance < 0.05 else "warn" if distance < 0.15 else "bad"
    value = f"distance {distance:.3f}, p = {p:.2g}"
    return Verdict(light, "held-out rows are typical of the model", value, "good if KS p > 0.01 or distance < 0.05")


def _distance(a: Array, b: Array) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of two samples and its (asymptotic) p-value."""
    result = stats.ks_2samp(a, b, method="asymp")
    return float(result.statistic), float(result.pvalue)


def anomalies(content: Content) -> list[tuple[int, float, list[float]]]:
    """The least likely held-out rows: position, log-likelihood, values."""
    order = np.argsort(content.log_prob)[:ANOMALIES]
    return [(int(i), float(content.log_prob[i]), content.heldout[i].tolist()) for i in order]

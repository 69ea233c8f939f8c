"""What the report of a run of images says, as plain data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bijectory.report.content import Array, Light, Verdict, interval

Pixels = NDArray[np.integer]


@dataclasses.dataclass(frozen=True)
class Part:
    """Bits per dimension of one part of the images: of the model, and of independent pixels on the same part."""

    name: str
    images: int
    bits: float
    error: float
    baseline: float
    baseline_error: float


@dataclasses.dataclass(frozen=True)
class ImageContent:
    """Everything that the report of a run of images shows; images have their channels last.

    Attributes:
        title: Name of the run.
        shape: ``(channels, height, width)``.
        levels: Number of levels of a pixel.
        classes: Labels that the model is conditioned on.
        part: Which part is shown as held out.
        heldout: ``(m, ...)`` some held-out images.
        samples: ``(k, ...)`` draws; of a class-conditional model class by class.
        sweep: Temperatures, each with draws from the same noise.
        paths: ``(rows, steps, ...)`` interpolations between held-out images.
        parts: Bits per dimension of each part.
        bits: ``(m,)`` of held-out images.
        baseline_bits: ``(m,)`` of independent pixels on the same images.
        sample_bits: Of draws.
        history: One mapping for each epoch with ``epoch``, ``train_loss``, ``val_loss`` in nats per image.
        audit: Rows ``(check, value, bound, verdict)``.
        facts: What else to list.
        notes: Remarks about the data.
    """

    title: str
    shape: tuple[int, int, int]
    levels: int
    classes: Sequence[int | str]
    part: str
    heldout: Pixels
    samples: Pixels
    sweep: Sequence[tuple[float, Pixels]]
    paths: Pixels
    parts: Sequence[Part]
    bits: Array
    baseline_bits: Array
    sample_bits: Array
    history: Sequence[Mapping[str, Any]]
    audit: Sequence[tuple[str, str, str, str]]
    facts: Mapping[str, str]
    notes: Sequence[str] = ()


def image_verdicts(content: ImageContent) -> list[Verdict]:
    """The strip of lights: each has a value and the rule beside it."""
    found = [_beats(content)]
    if {"train", "test"} <= {p.name for p in content.parts}:
        found.append(_gap(content))
    found.append(_typical(content))
    bad = [name for name, *_, verdict in content.audit if verdict == "fail"]
    value = f"{len(content.audit) - len(bad)} of {len(content.audit)} checks hold"
    value += f"; {', '.join(bad)}" if bad else ""
    light: Light = "bad" if bad else "good"
    return [*found, Verdict(light, "invertible", value, "good if every audit check holds")]


def _beats(content: ImageContent) -> Verdict:
    gain = content.baseline_bits - content.bits
    low, high = interval(gain)
    light: Light = "good" if low > 0 else "bad" if high < 0 else "warn"
    value = f"{gain.mean():+.3f} bits per dimension [{low:+.3f}, {high:+.3f}]"
    return Verdict(light, "beats independent pixels", value, "good if the 95 % interval of the gain lies above 0")


def _gap(content: ImageContent) -> Verdict:
    parts = {p.name: p for p in content.parts}
    gap = parts["test"].bits - parts["train"].bits
    allowed = 0.05 * parts["train"].bits + 2 * math.hypot(parts["test"].error, parts["train"].error)
    light: Light = "good" if gap <= allowed else "warn" if gap <= 3 * allowed else "bad"
    rule = f"good if test minus training is at most 5 % of training plus 2 s.e. ({allowed:.3f})"
    return Verdict(light, "does not overfit", f"{gap:+.3f} bits per dimension", rule)


def _typical(content: ImageContent) -> Verdict:
    result = stats.ks_2samp(content.bits, content.sample_bits, method="asymp")
    distance, p = float(result.statistic), float(result.pvalue)
    light: Light = "good" if p > 0.01 or distance < 0.05 else "warn" if distance < 0.5 else "bad"
    rule = "good if KS p > 0.01 or distance < 0.05, bad from 0.5; natural images seldom are"
    return Verdict(light, "held-out images are typical of the model", f"distance {distance:.3f}, p = {p:.2g}", rule)

"""The report of evidences: do the estimates agree, and which model is preferred."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bijectory.apps import Evidence, EvidenceStudy, ModelComparison
from bijectory.report.content import Verdict
from bijectory.report.figures import MODEL, QUIET, new_figure, to_png
from bijectory.report.html import write_page

LIGHT = {"trusted": "good", "disagree": "bad", "unreliable": "bad"}


def write_evidence_report(folder: str | Path, study: EvidenceStudy) -> Path:
    """Write ``report.html`` and ``figures/`` into a folder.

    Args:
        folder: Must exist.
        study: What ``study_evidence`` found.

    Returns:
        Path of the HTML file: self-contained, no network.
    """
    figures = [
        (
            f"estimates-{k}",
            f"Evidence of {e.name}: estimates with two standard errors; grey ones are not to be trusted",
            to_png(estimates(e)),
        )
        for k, e in enumerate(study.evidences)
        if any(not math.isnan(s.log_z) for s in e.estimates)
    ]
    if study.comparison is not None:
        caption = "Posterior probabilities of the models, with two standard errors"
        figures.insert(0, ("models", caption, to_png(models(study.comparison))))
    return write_page(
        "evidence.html.j2",
        Path(folder),
        figures,
        title=Path(folder).resolve().name,
        verdicts=evidence_verdicts(study),
        evidences=study.evidences,
        comparison=study.comparison,
        ranking=[] if study.comparison is None else study.comparison.table().reset_index().to_dict("records"),
        text=str(study),
    )


def evidence_verdicts(study: EvidenceStudy) -> list[Verdict]:
    """The strip of lights: one for the comparison, one for each model."""
    rule = "good if at least two reliable estimates agree (chi-square, 0.1 %) and no mode is known to be missed"
    lights = [Verdict(LIGHT[e.state], f"evidence of {e.name}", e.verdict, rule) for e in study.evidences]  # type: ignore[arg-type]
    if study.comparison is not None:
        c = study.comparison
        rule = "good if every evidence is trusted and the first is two standard errors above the second"
        light = "good" if c.preferred else "bad" if c.untrusted else "warn"
        lights.insert(0, Verdict(light, "preference", c.verdict, rule))  # type: ignore[arg-type]
    return lights


def estimates(evidence: Evidence) -> Figure:
    """One line for each estimate."""
    known = [e for e in evidence.estimates if not math.isnan(e.log_z)][::-1]
    figure, ax = new_figure(6.4, 0.7 + 0.42 * len(known))
    for i, e in enumerate(known):
        ax.errorbar(e.log_z, i, xerr=2 * e.se, fmt="o", color=MODEL if e.reliable else QUIET, capsize=3)
    ax.axvline(evidence.log_z, color=QUIET, lw=0.6)
    ax.set_yticks(range(len(known)), [e.method for e in known])
    ax.set(xlabel="log evidence, nats", ylim=(-0.6, len(known) - 0.4))
    return figure


def models(comparison: ModelComparison) -> Figure:
    """Probabilities, the largest on top."""
    table = comparison.table()[::-1]
    figure, ax = new_figure(6.4, 0.7 + 0.42 * len(table))
    place = np.arange(len(table))
    ax.barh(place, table["probability"], xerr=2 * table["probability_se"], color=MODEL, height=0.5)
    ax.set_yticks(place, list(table.index))
    ax.set(xlabel="posterior probability", xlim=(0, 1.02))
    return figure

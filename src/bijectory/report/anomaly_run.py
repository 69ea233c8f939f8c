"""The report of an anomaly run: what was flagged, how sure that is, and because of what."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from bijectory.apps import Detector, TableFlow
from bijectory.apps.anomaly import Evaluation, Findings, PatchExplanation
from bijectory.errors import ConfigError, check
from bijectory.report.anomaly_content import anomaly_verdicts
from bijectory.report.figures import DATA, MODEL, QUIET, new_figure, to_png
from bijectory.report.html import write_page
from bijectory.report.image_run import picture

ROWS, IMAGES, COLUMNS = 10, 8, 12
BINS = 20


def write_anomaly_report(
    folder: str | Path,
    detector: Detector,
    data: Any,
    found: Findings,
    *,
    labels: ArrayLike | None = None,
) -> Path:
    """Write ``report.html`` and ``figures/`` about what a detector found.

    Args:
        folder: Where to; made if it is not there. Not a run folder, whose own report would be lost.
        detector: The detector.
        data: The rows or images that were judged.
        found: Its findings, as ``detector.judge`` returns them.
        labels: ``(n,)`` 1 for anomalies, 0 for ordinary rows: adds an ROC curve and the rates that were reached.

    Returns:
        Path of the HTML file.

    Raises:
        ConfigError: If the folder is a run folder.
        DataError: If the labels are not of this kind.
    """
    folder = Path(folder)
    own = (folder / "schema.json").exists()
    check(not own, ConfigError, f"{folder} is a run folder, whose report would be overwritten; name another folder.")
    rated = None if labels is None else found.evaluate(labels)
    folder.mkdir(parents=True, exist_ok=True)
    image = not isinstance(detector.model, TableFlow)
    worst = found.worst(IMAGES if image else ROWS)
    figures = [
        ("p_values", "P-values; those of ordinary rows are spread evenly", to_png(p_values(found, rated))),
        ("scores", "Scores of held-out and of new rows; the line is where flags begin", to_png(scores(found, rated))),
    ]
    if rated is not None:
        figures.append(("roc", "Anomalies found against false alarms", to_png(roc(found, rated))))
    explained = detector.explain(data.iloc[worst] if isinstance(data, pd.DataFrame) else np.asarray(data)[worst])
    if isinstance(explained, PatchExplanation):
        levels = int(getattr(detector.model.schema, "levels", 256))
        shown = picture(explained.picture(levels), 256, 4)
        figures.append(("patches", "The most abnormal images, the patches to blame in red", shown))
        header, cells = ["patches to blame"], [[text] for text in explained.text()]
    else:
        order = list(explained.nats.max(axis=0).sort_values(ascending=False).index[:COLUMNS])
        header, cells = [*map(str, order), "expected"], []
        for (_, row), text in zip(explained.nats[order].iterrows(), explained.text(2), strict=True):
            cells.append([*(f"{value:.2f}" for value in row), text])
    facts = {
        "method": found.method,
        "rate": f"{found.fpr:g} ({'of the flagged' if found.control == 'discoveries' else 'of the ordinary'} rows)",
        "rows": f"{len(found):,}",
        "held-out rows": f"{len(found.held_out):,}",
        "flow": repr(detector.model),
    }
    notes = [text for text in (found.caution(),) if text is not None]
    return write_page(
        "anomaly.html.j2",
        folder,
        figures,
        title=f"{folder.resolve().name}: anomalies",
        kind="images" if image else "rows",
        verdicts=anomaly_verdicts(found, rated),
        summary=found.summary("images" if image else "rows"),
        header=header,
        rows=[
            (int(i), f"{found.score[i]:.2f}", f"{found.p_value[i]:.3g}", "yes" if found.flagged[i] else "no", cells[k])
            for k, i in enumerate(worst)
        ],
        rated=rated,
        facts=facts,
        notes=notes,
    )


def p_values(found: Findings, rated: Evaluation | None) -> Figure:
    """Histogram of the p-values, by label where there are labels; the line is what chance gives."""
    figure, ax = new_figure(6.4, 3.0)
    known = ~np.isnan(found.p_value)
    bins = np.linspace(0, 1, BINS + 1).tolist()
    if rated is None:
        ax.hist(found.p_value[known], bins=bins, color=MODEL, alpha=0.7)
    else:
        parts = [found.p_value[known & ~rated.labels], found.p_value[known & rated.labels]]
        ax.hist(parts, bins=bins, stacked=True, color=[DATA, MODEL], alpha=0.7, label=["ordinary", "anomalies"])
        ax.legend(frameon=False)
    ax.axhline(known.sum() / BINS, color=QUIET, lw=0.8)
    ax.set(xlabel="p-value", ylabel="rows", xlim=(0, 1))
    return figure


def scores(found: Findings, rated: Evaluation | None) -> Figure:
    """Histograms of the scores of held-out rows and of new ones."""
    figure, ax = new_figure(6.4, 3.0)
    known = np.isfinite(found.score)
    series = [(found.held_out, QUIET, "held out")]
    if rated is None:
        series.append((found.score[known], MODEL, "new"))
    else:
        series.append((found.score[known & ~rated.labels], DATA, "ordinary"))
        series.append((found.score[known & rated.labels], MODEL, "anomalies"))
    series = [(x[np.isfinite(x)], color, label) for x, color, label in series]
    ends = [np.quantile(x, (0.0, 0.98)) for x, *_ in series if len(x)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    bins = np.linspace(low, high if high > low else low + 1, 61)
    for x, color, label in series:  # what lies beyond is counted in the last bin
        if len(x):
            weights = np.full(len(x), 1 / len(x))
            ax.hist(
                np.minimum(x, bins[-1]), bins=bins.tolist(), weights=weights, histtype="step", color=color, label=label
            )
    flagged = found.score[found.flagged & known]
    if len(flagged):
        ax.axvline(min(float(flagged.min()), bins[-1]), color=QUIET, lw=0.8)
    ax.set(xlabel=f"score: {found.method}", ylabel="share")
    ax.legend(frameon=False)
    return figure


def roc(found: Findings, rated: Evaluation) -> Figure:
    """The ROC curve, and the point on it that was chosen."""
    figure, ax = new_figure(4.0, 3.6)
    known = ~np.isnan(found.score)
    strange, ordinary = (np.sort(found.score[known & kind]) for kind in (rated.labels, ~rated.labels))
    cuts = np.unique(found.score[known])[::-1]
    hits = 1 - np.searchsorted(strange, cuts, side="left") / len(strange)
    alarms = 1 - np.searchsorted(ordinary, cuts, side="left") / len(ordinary)
    ax.plot(np.r_[0, alarms], np.r_[0, hits], color=MODEL)
    ax.plot([0, 1], [0, 1], color=QUIET, lw=0.8)
    ax.plot(rated.false_alarms, rated.recall, "o", color=DATA, label=f"flagged, rate {found.fpr:g}")
    ax.set(xlabel="false alarms", ylabel="anomalies found", title=f"AUROC {rated.auroc:.3f} ± {rated.auroc_error:.3f}")
    ax.legend(frameon=False, loc="lower right")
    return figure

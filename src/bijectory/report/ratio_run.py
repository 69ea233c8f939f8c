"""The folder and the report of a comparison of two tables."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bijectory.apps import TableDifference
from bijectory.io.fs import atomic_write
from bijectory.report.content import Verdict
from bijectory.report.figures import DATA, MODEL, new_figure, to_png
from bijectory.report.html import write_page

SHOWN, BINS = 8, 40


def write_ratio(
    found: TableDifference,
    a: pd.DataFrame,
    b: pd.DataFrame,
    folder: str | Path,
    *,
    names: tuple[str, str] = ("A", "B"),
    report: bool = True,
) -> Path:
    """Write ``ratio.json``, ``columns.csv``, ``a.csv`` and ``b.csv`` (rows, log-ratios, weights of b), ``report.html``.

    Args:
        found: What ``compare_tables`` found.
        a: The rows of A.
        b: The rows of B.
        folder: Made if it is not there.
        names: Of the tables, for people.
        report: Whether to write the report too.

    Returns:
        Path of the report, or of the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame, ratio, more in (
        ("a.csv", a, found.a, {}),
        ("b.csv", b, found.b, {"weight": found.weights}),
    ):
        extra = {"log_ratio": ratio.value, "log_ratio_se": ratio.se, **more}
        # A column of the table may have one of these names already: its values stay, ours get another one.
        extra = {key if key not in frame.columns else f"bijectory_{key}": value for key, value in extra.items()}
        frame.assign(**extra).to_csv(folder / name, index=False)
    found.columns.to_csv(folder / "columns.csv", index_label="column")
    facts = {"tables": list(names), **found.to_dict()}
    atomic_write(folder / "ratio.json", [json.dumps(_plain(facts), indent=2, allow_nan=False).encode()])
    if not report:
        return folder
    return write_page(
        "ratio.html.j2",
        folder,
        _figures(found, a, b, names),
        title=f"{names[0]} against {names[1]}",
        names=names,
        verdicts=ratio_verdicts(found),
        columns=found.columns,
        summary=found.summary(),
        notes=found.notes,
        rows=(len(a), len(b)),
    )


def ratio_verdicts(found: TableDifference) -> list[Verdict]:
    """The strip of lights."""
    p = found.test.p_value
    value = f"p = {p:.3g}, AUC {found.test.auc:.3f} on rows left out"
    rule = "two-sample test: below 0.05 the tables differ (no verdict on by how much)"
    lights = [Verdict("good" if p >= 0.05 else "warn", "tables differ" if p < 0.05 else "no difference", value, rule)]
    value = f"mean ratio {found.check.mean_q[0]:.3g} over B, slope {found.check.slope:.2f}"
    rule = "good if the mean ratio over B and the mean inverse over A are 1 and the slope is 0.75 to 1.25"
    lights.append(Verdict("good" if found.check.ok else "bad", "ratio holds", value, rule))
    w = found.importance
    value = f"Pareto k {w.khat:.2f}, {w.ess:.0f} effective of {len(w.log_ratios)} rows"
    rule = f"good if k is at most {w.limit:.2f}; else B has too few rows where A has many"
    lights.append(Verdict("good" if w.reliable else "bad", "weights", value, rule))
    return lights


def _figures(
    found: TableDifference, a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]
) -> list[tuple[str, str, bytes]]:
    figure, ax = new_figure(6.4, 2.8)
    both = np.concatenate([found.a.value, found.b.value])
    bins = np.linspace(*_ends(both), BINS).tolist()
    for value, color, name in ((found.a.value, DATA, names[0]), (found.b.value, MODEL, names[1])):
        ax.hist(np.clip(value, bins[0], bins[-1]), bins=bins, density=True, histtype="step", color=color, label=name)
    ax.set(xlabel="log-ratio, nats", yticks=[])
    ax.legend(frameon=False, fontsize=8)
    ratios = ("log-ratios", "Log-ratio log A/B of the rows of both, each by a fit that had not seen it", to_png(figure))
    shown = list(found.columns.index)[:SHOWN]
    caption = "Columns, those first that matter most: A, B, and B weighted to stand for A"
    return [ratios, ("columns", caption, to_png(_columns(found, a, b, shown, names)))]


def _columns(
    found: TableDifference, a: pd.DataFrame, b: pd.DataFrame, shown: list[str], names: tuple[str, str]
) -> Figure:
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(2.4 * across, 1.9 * down + 0.3), dpi=110, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, name in zip(axes, shown, strict=False):
        u, v = a[name].to_numpy(dtype=float), b[name].to_numpy(dtype=float)
        bins = np.linspace(*_ends(np.concatenate([u, v])), BINS).tolist()
        u, v = np.clip(u, bins[0], bins[-1]), np.clip(v, bins[0], bins[-1])
        draw: dict[str, Any] = {"bins": bins, "density": True, "histtype": "step"}
        ax.hist(u, color=DATA, label=names[0], **draw)
        ax.hist(v, color=MODEL, label=names[1], **draw)
        ax.hist(v, weights=found.weights, color=MODEL, ls=":", label=f"{names[1]}, weighted", **draw)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_yticks([])
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    axes[0].legend(frameon=False, fontsize=6)
    return figure


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.002, 0.998))
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _plain(value: Any) -> Any:
    """JSON-able: numbers that are not finite as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

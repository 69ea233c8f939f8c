"""The report of simulation-based inference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bijectory.apps.posterior import CalibrationTest, NeuralPosterior, Study, predictive_p
from bijectory.report.content import Light, Verdict
from bijectory.report.figures import DATA, MAX_CORNER, MODEL, QUIET, new_figure, to_png
from bijectory.report.html import write_page

SHOWN = 12  # values of an observation that the predictive figure shows


def write_sbi_report(folder: str | Path, study: Study) -> Path:
    """Write ``report.html`` and ``figures/`` into a folder.

    Args:
        folder: Must exist.
        study: What ``study`` found.

    Returns:
        Path of the HTML file: self-contained, no network.
    """
    checks = [
        (when, c.name, c.p, "yes" if all(u.inside for u in c.parts.values()) else "no", _verdict(c))
        for when, found in (("as fitted", study.before), ("recalibrated", study.after))
        for c in found
    ]
    return write_page(
        "sbi.html.j2",
        Path(folder),
        _figures(study),
        title=Path(folder).resolve().name,
        parameters=parameters(study),
        verdicts=verdicts(study),
        checks=checks,
        notes=study.notes,
        facts=study.facts,
        stored=isinstance(study.posterior, NeuralPosterior),
    )


def verdicts(study: Study) -> list[Verdict]:
    """Lights: is the posterior calibrated, is the observation one that the simulator can make, were simulations lost?"""
    last, repaired = study.after or study.before, " after recalibration" if study.after else ""
    lean = next((c.lean for c in last if not c.ok and c.lean), "")
    value = {True: f"SBC, coverage and TARP pass{repaired}", False: f"fails {lean}{repaired}", None: "not checked"}
    lights = [
        Verdict(
            {True: "good", False: "bad", None: "warn"}[study.ok],  # type: ignore[arg-type]
            "Calibration",
            value[study.ok],
            "every p-value above 0.001",
        )
    ]
    far = "below 0.01 the simulator cannot make such data"
    for name, p, what in (
        ("Observation", predictive_p(study.fit.simulations.x, study.x), "among all training simulations"),
        ("Predictive check", predictive_p(study.predicted, study.x), "among simulations from the posterior"),
    ):
        light: Light = "good" if p > 0.05 else "warn" if p > 0.01 else "bad"
        lights.append(Verdict(light, name, f"p = {p:.2g} of one as far out, {what}", far))
    if study.local is not None:
        light, rule = "good" if study.local.ok else "warn", "local C2ST at the observation, p above 0.05"
        lights.append(Verdict(light, "Local test", f"p = {study.local.p:.2g}", rule))
    lost = study.fit.simulations.failed
    share = lost / max(1, lost + len(study.fit.simulations))
    rule = "simulations that are not finite: none, or some; they change the prior"
    lights.append(Verdict("good" if not lost else "warn", "Simulations", f"{share:.1%} failed", rule))
    return lights


def parameters(study: Study) -> list[dict[str, Any]]:
    """One row for each parameter."""
    theta = study.draws
    mode = study.posterior.map()
    edges = torch.quantile(theta, torch.tensor([0.05, 0.95], dtype=theta.dtype), 0)
    return [
        {
            "name": name,
            "bounds": f"{low:g} to {high:g}",
            "mean": float(theta[:, k].mean()),
            "sd": float(theta[:, k].std()),
            "mode": float(mode[k]),
            "low": float(edges[0, k]),
            "high": float(edges[1, k]),
        }
        for k, (name, (low, high)) in enumerate(zip(study.prior.names, study.prior.bounds, strict=True))
    ]


def _verdict(c: CalibrationTest) -> str:
    return "passes" if c.ok else f"fails{f', {c.lean}' if c.lean else ''}"


def _figures(study: Study) -> list[tuple[str, str, bytes]]:
    found = [("posterior", "Prior (grey) and posterior, parameter by parameter and pair by pair", _corner(study))]
    if study.before:
        caption = "Rank distributions minus the diagonal, with simultaneous 95 % bands; outside is evidence of an error"
        found.append(("calibration", caption, _calibration(study)))
    found.append(("predictive", "Simulations from the posterior (5 to 95 %) and the observation", _predictive(study)))
    return [(name, caption, to_png(figure)) for name, caption, figure in found]


def _corner(study: Study) -> Figure:
    d = min(study.prior.features, MAX_CORNER)
    prior = study.prior.sample(2000, seed=0).numpy()
    theta = study.draws[:3000].numpy()
    figure = Figure(figsize=(1.9 * d + 0.6, 1.9 * d + 0.4), dpi=110, layout="constrained")
    axes = figure.subplots(d, d, squeeze=False)
    for i in range(d):
        for j in range(d):
            ax = axes[i, j]
            ax.set_visible(j <= i)
            if j < i:
                ax.plot(theta[:, j], theta[:, i], ".", ms=1.2, alpha=0.4, color=MODEL, rasterized=True)
            elif j == i:
                for values, color in ((prior[:, j], QUIET), (theta[:, j], MODEL)):
                    ax.hist(values, bins=40, density=True, histtype="step", color=color)
                ax.set_yticks([])
            ax.tick_params(labelsize=6)
            if i == d - 1:
                ax.set_xlabel(study.prior.names[j], fontsize=8)
            if j == 0 and i > 0:
                ax.set_ylabel(study.prior.names[i], fontsize=8)
    return figure


def _calibration(study: Study) -> Figure:
    columns = len(study.before)
    figure = Figure(figsize=(3.2 * columns, 2.8), dpi=110, layout="constrained")
    for ax, c in zip(figure.subplots(1, columns, squeeze=False)[0], study.before, strict=True):
        band = next(iter(c.parts.values()))
        ax.fill_between(band.z, band.low - band.z, band.high - band.z, color=QUIET, alpha=0.25, lw=0)
        for u in c.parts.values():
            ax.plot(u.z, u.ecdf - u.z, color=QUIET if study.after else MODEL, lw=1)
        for later in study.after:
            if later.name == c.name:
                for u in later.parts.values():
                    ax.plot(u.z, u.ecdf - u.z, color=MODEL, lw=1)
        ax.axhline(0, color=QUIET, lw=0.6)
        ax.set_title(c.name, fontsize=9)
        ax.tick_params(labelsize=7)
    return figure


def _predictive(study: Study) -> Figure:
    figure, ax = new_figure(6.4, 3.0)
    x = study.predicted.flatten(1).numpy()[:, :SHOWN]
    y = study.x.reshape(-1, study.predicted.flatten(1).shape[1]).numpy()[:, :SHOWN]
    scale = np.where((s := np.nanstd(x, 0)) > 0, s, 1.0)
    centre = np.nanmedian(x, 0)
    low, high = ((np.nanquantile(x, q, 0) - centre) / scale for q in (0.05, 0.95))
    place = np.arange(x.shape[1])
    ax.vlines(place, low, high, color=MODEL, lw=4, alpha=0.6)
    for row in y:
        ax.plot(place, (row - centre) / scale, "x", color=DATA)
    ax.set(xlabel="value of the observation", ylabel="standard deviations")
    ax.set_xticks(place)
    return figure

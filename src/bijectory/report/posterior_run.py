"""The report of a posterior: can it be trusted, what are the parameters, what do they look like."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bijectory.apps import VariationalPosterior
from bijectory.report.content import Verdict
from bijectory.report.figures import DATA, MODEL, QUIET, to_png
from bijectory.report.html import write_page

SHOWN, DRAWS, BINS = 12, 4000, 50
PAIRS = 5


def write_posterior_report(folder: str | Path, *, seed: int = 0) -> Path:
    """Write ``report.html`` and ``figures/`` into the run folder of a posterior; arguments as for ``write_report``."""
    folder = Path(folder)
    posterior = VariationalPosterior.load(folder)
    flow, corrected = posterior.sample(DRAWS, seed=seed), corrected_draws(posterior, seed)
    figures = [
        ("marginals", "Marginals: corrected draws, and the flow before correction", to_png(marginals(flow, corrected))),
        ("pairs", "Pairs of parameters, corrected draws", to_png(pairs(corrected))),
    ]
    table = posterior.table()
    facts = {k.replace("_", " "): str(v) for k, v in posterior.training.items()}
    facts["parameters of the flow"] = f"{sum(p.numel() for p in posterior.flow.parameters()):,}"
    return write_page(
        "posterior.html.j2",
        folder,
        figures,
        title=folder.resolve().name,
        verdicts=posterior_verdicts(posterior),
        columns=list(table.columns),
        rows=[(str(name), [f"{v:.4g}" for v in row]) for name, row in zip(table.index, table.to_numpy(), strict=True)],
        source="Markov chains" if posterior.chains else "importance-weighted draws",
        modes=posterior.diagnostics.modes,
        diagnostics=str(posterior.diagnostics),
        facts=facts,
    )


def posterior_verdicts(posterior: VariationalPosterior) -> list[Verdict]:
    """The strip of lights."""
    found = posterior.diagnostics
    trusted = found.khat <= found.khat_limit
    value = f"Pareto k {found.khat:.2f}, {found.ess:.0f} effective of {found.draws} draws"
    rule = f"good if k is at most {found.khat_limit:.2f}; else draws need Markov chains"
    lights = [Verdict("good" if trusted else "warn" if posterior.chains else "bad", "weights", value, rule)]
    covered = len(found.modes) - len(found.missed)
    value = f"{covered} of {len(found.modes)} modes that the search found"
    rule = "good if the flow has its share of density around every mode with at least 0.1 % of the mass"
    lights.append(Verdict("bad" if found.missed else "good" if found.modes else "warn", "modes covered", value, rule))
    gap = found.free_energy + found.log_evidence
    value = f"{gap:.4f} nats between flow and posterior"
    lights.append(Verdict("good" if gap < 0.1 else "warn", "divergence", value, "good if KL(flow, posterior) < 0.1"))
    if posterior.chains is not None:
        c = posterior.chains.to_dict()
        value = f"largest R-hat {c['max_rhat']:.3f}, smallest ESS {min(c['min_ess_bulk'], c['min_ess_tail']):.0f}"
        rule = "good if every R-hat is at most 1.01 and every ESS at least 400"
        lights.append(Verdict("good" if c["converged"] else "bad", "chains converged", value, rule))
    return lights


def corrected_draws(posterior: VariationalPosterior, seed: int) -> pd.DataFrame:
    """Draws of the posterior without its log-density: of the chains, or resampled from the stored weighted ones."""
    if posterior.chains is not None:
        return posterior.sample(DRAWS, corrected=True, seed=seed)
    w = posterior.importance_weights().weights.numpy()
    chosen = np.random.default_rng(seed).choice(len(w), DRAWS, p=w / w.sum())
    return pd.DataFrame(posterior.draws.x.numpy()[chosen], columns=list(posterior.parameters.columns))


def marginals(flow: pd.DataFrame, corrected: pd.DataFrame) -> Figure:
    """Histograms of the first parameters."""
    names = list(corrected.columns)[:SHOWN]
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(2.4 * across, 1.9 * down + 0.3), dpi=110, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        low, high = np.quantile(corrected[name], (0.002, 0.998))
        bins = np.linspace(low, high if high > low else low + 1, BINS).tolist()
        ax.hist(flow[name], bins=bins, density=True, histtype="step", color=QUIET, label="flow")
        ax.hist(corrected[name], bins=bins, density=True, histtype="step", color=MODEL, label="corrected")
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.set_yticks([])
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def pairs(corrected: pd.DataFrame) -> Figure:
    """Scatter plots of the first parameters against each other."""
    names = list(corrected.columns)[:PAIRS]
    d = max(len(names) - 1, 1)
    figure = Figure(figsize=(1.8 * d + 0.5, 1.8 * d + 0.4), dpi=110, layout="constrained")
    axes = figure.subplots(d, d, squeeze=False)
    for i in range(d):
        for j in range(d):
            ax = axes[i, j]
            ax.set_visible(j <= i)
            if j <= i:
                below = names[min(i + 1, len(names) - 1)]
                ax.plot(corrected[names[j]], corrected[below], ".", ms=1.5, alpha=0.3, color=DATA, rasterized=True)
                ax.tick_params(labelsize=6)
                ax.set_xlabel(names[j] if i == d - 1 else "", fontsize=8)
                ax.set_ylabel(below if j == 0 else "", fontsize=8)
    return figure

"""The report of a variational autoencoder: its bounds, what its posterior is worth, draws and reconstructions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bijectory.apps.images.fit import thin
from bijectory.apps.vae import ActiveUnits, LogLikelihood, VaeModel, load_parts
from bijectory.errors import DataError, check
from bijectory.io import load_metadata
from bijectory.report.content import Light, Verdict
from bijectory.report.figures import DATA, MODEL, QUIET, new_figure, to_png
from bijectory.report.html import write_page
from bijectory.report.image_run import picture

SHOWN, COLUMNS, MEASURED, WEIGHTED, SAMPLES = 64, 8, 1000, 100, 1000
PAIRS = 3  # columns of rows that are shown


def write_vae_report(folder: str | Path, *, seed: int = 0) -> Path:
    """Write ``report.html`` and ``figures/`` into the run folder of an autoencoder; arguments as for ``write_report``."""
    folder = Path(folder)
    model, kept, metadata = VaeModel.load(folder), load_parts(folder), load_metadata(folder)
    check("scores" in metadata, DataError, f"{folder} holds a run that has not ended; go on with resume (--resume).")
    part = next((name for name in ("test", "validation", "train") if len(kept[name]) > 1), "train")
    events = kept[part]
    measured = events[thin(np.arange(len(events)), MEASURED)]
    weighted = model.log_likelihood(events[thin(np.arange(len(events)), WEIGHTED)], SAMPLES, seed=seed)
    bound = model.elbo(events[thin(np.arange(len(events)), WEIGHTED)], 20, seed=seed).bound
    active = model.vae.active_units(model.tensor(model.schema.events(measured)), seed=seed)
    gap = weighted.mean - float(bound.mean())
    records, scores = metadata.pop("history", []), metadata.pop("scores")
    facts = {k.replace("_", " "): str(v) for k, v in metadata.items() if isinstance(v, (str, int, float))}
    facts["parameters"] = f"{sum(p.numel() for p in model.vae.parameters()):,}"
    facts["active units"] = f"{active.count} of {model.vae.latent}"
    return write_page(
        "vae.html.j2",
        folder,
        [*pictures(model, events, seed), *plots(records, active)],
        title=folder.resolve().name,
        shape=model.schema.event_shape,
        latent=model.vae.latent,
        part=part,
        scores=scores,
        weighted=str(weighted),
        gap=gap,
        verdicts=vae_verdicts(scores, weighted, gap, active, model.vae.latent),
        facts=facts,
    )


def vae_verdicts(
    scores: Mapping[str, Mapping[str, float]], weighted: LogLikelihood, gap: float, active: ActiveUnits, latent: int
) -> list[Verdict]:
    """The strip of lights."""
    share = active.count / latent
    light: Light = "good" if share >= 0.5 else "warn" if active.count else "bad"
    rule = "good if half of the latent at least moves with the data; none: the posterior has collapsed"
    found = [Verdict(light, "the latent is used", f"{active.count} of {latent} units active", rule)]
    if {"train", "test"} <= set(scores):
        loss = scores["train"]["elbo"] - scores["test"]["elbo"]
        error = np.hypot(scores["train"]["standard_error"], scores["test"]["standard_error"])
        allowed = 0.05 * abs(scores["train"]["elbo"]) + 2 * error
        light = "good" if loss <= allowed else "warn" if loss <= 3 * allowed else "bad"
        rule = f"good if test is at most 5 % of training plus 2 s.e. ({allowed:.3f}) below training"
        found.append(Verdict(light, "does not overfit", f"{loss:.3f} nats of ELBO", rule))
    light = "good" if gap < 1 else "warn" if gap < 5 else "bad"
    value = f"{gap:.3f} nats between bound and log-likelihood"
    found.append(
        Verdict(light, "the posterior is close", value, "good below 1 nat, bad from 5; a richer posterior helps")
    )
    ess = float(weighted.ess.median())
    light = "good" if ess >= 0.1 * weighted.samples else "warn" if ess >= 10 else "bad"
    value = f"median {ess:.0f} effective of {weighted.samples} samples"
    found.append(
        Verdict(light, "log-likelihoods can be trusted", value, "good from a tenth of the samples, bad below 10")
    )
    return found


def pictures(model: VaeModel, events: np.ndarray, seed: int) -> list[tuple[str, str, bytes]]:
    """Draws and reconstructions."""
    few = events[np.random.default_rng(seed).permutation(len(events))[: SHOWN // 2]]
    back = model.reconstruct(few, seed=seed)
    images = model.schema.images
    if images is None:
        return [
            ("samples", "Rows that were held out, draws, and reconstructions", to_png(scatter(model, events, seed)))
        ]
    shown = few if model.schema.binarize == "no" else model.schema.decode(model.schema.events(few))
    pairs = [
        t
        for start in range(0, len(few), COLUMNS)
        for t in (shown[start : start + COLUMNS], back[start : start + COLUMNS])
    ]
    series = (
        ("samples", "Draws from the model", model.sample(SHOWN, seed=seed)),
        ("means", "Means of the decoder at the same latents", model.sample(SHOWN, seed=seed, mean=True)),
        (
            "reconstructions",
            "Held-out images, and below each row what comes back from the latent",
            np.concatenate(pairs),
        ),
    )
    return [(name, text, picture(images.channels_last(x), images.levels, COLUMNS)) for name, text, x in series]


def scatter(model: VaeModel, rows: np.ndarray, seed: int) -> Figure:
    """Pairs of neighbouring columns."""
    d = min(rows.shape[1] - 1, PAIRS) or 1
    figure = Figure(figsize=(2.6 * d + 0.4, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, d, squeeze=False).ravel()
    rows = rows[thin(np.arange(len(rows)), MEASURED)]
    sets = ((rows, DATA, "held out"), (model.sample(len(rows), seed=seed), MODEL, "draws"))
    for k, ax in enumerate(axes):
        for x, color, label in (*sets, (model.reconstruct(rows, seed=seed), QUIET, "reconstructions")):
            ax.plot(x[:, k], x[:, min(k + 1, x.shape[1] - 1)], ".", ms=2, alpha=0.4, color=color, label=label)
        ax.set(xlabel=f"column {k}", ylabel=f"column {min(k + 1, rows.shape[1] - 1)}")
    axes[0].legend(frameon=False, fontsize=7)
    return figure


def plots(records: Sequence[Mapping[str, Any]], active: ActiveUnits) -> list[tuple[str, str, bytes]]:
    """The bound by epoch, its terms, and the variances of the latent."""
    figures = []
    if records:
        epochs = [r["epoch"] for r in records]
        figure, ax = new_figure(6.4, 3.2)
        for key, color, label in (("train_loss", QUIET, "training loss"), ("val_loss", MODEL, "validation -ELBO")):
            values = [np.nan if r.get(key) is None else r[key] for r in records]
            ax.plot(epochs, values, color=color, label=label, marker=".", ms=4)
        ax.set(xlabel="epoch", ylabel="nats")
        ax.legend(frameon=False)
        figures.append(
            ("learning", "Learning curves; in the warm-up the training loss weighs the KL term less", to_png(figure))
        )
        figure, ax = new_figure(6.4, 3.2)
        ax.plot(epochs, [-r["reconstruction"] for r in records], color=DATA, label="-reconstruction", marker=".", ms=4)
        ax.set(xlabel="epoch", ylabel="-reconstruction, nats")
        twin = ax.twinx()
        twin.plot(epochs, [r["kl"] for r in records], color=MODEL, label="KL", marker=".", ms=4)
        twin.set_ylabel("KL, nats")
        figure.legend(frameon=False, loc="upper center", ncols=2)
        figures.append(("terms", "Terms of the bound of held-out events", to_png(figure)))
    figure, ax = new_figure(6.4, 2.6)
    variance = np.sort(active.variance.cpu().numpy())[::-1].clip(1e-5)
    ax.bar(np.arange(len(variance)), variance, color=MODEL)
    ax.axhline(0.01, color=QUIET, lw=0.8)
    ax.set(yscale="log", xlabel="latent dimension, sorted", ylabel="variance of posterior means")
    return [
        *figures,
        ("units", "Active units: how far the data move each dimension; above 0.01 it is active", to_png(figure)),
    ]

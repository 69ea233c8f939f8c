"""What ``vae`` does, and ``sample``, ``score`` and ``show`` with the run of an autoencoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from bijectory.apps.images import holds_images, read_images, write_grid
from bijectory.apps.vae import VaeModel, fit_vae, vae_config
from bijectory.cli import options
from bijectory.cli.output import print_table, say, write_frame, write_json
from bijectory.errors import ConfigError, ConvergenceError, check
from bijectory.io import load_metadata
from bijectory.tables import read_table

SHOWN = 64


def run_vae(
    data: Path,
    out: Path,
    words: dict[str, Any],
    training: dict[str, Any],
    *,
    resume: bool,
    report: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Read, fit, and say how it went.

    Raises:
        ConvergenceError: If training met values that are not finite and could not go on.
        typer.Exit: With 128 + n after signal n, when the run was saved.
    """
    events, _ = read_events(data)
    config = vae_config(len(events), **training)
    if not resume:
        options.remove_run(out)
    fitted = fit_vae(events, **words, config=config, out=out, resume=resume)
    result = fitted.result
    check(result.stop_reason != "non_finite", ConvergenceError, f"training stopped: {result.report}")
    if json:
        facts = {"run": str(out), "stop_reason": result.stop_reason, "steps": result.steps}
        facts |= {"best_epoch": result.best_epoch, "seconds": round(result.seconds, 3), "scores": fitted.scores}
        write_json(facts)
    else:
        for line in describe(fitted.scores):
            print(line)
    if result.signal:
        raise typer.Exit(128 + result.signal)
    if report:
        from bijectory.report import write_report

        say(f"report: {write_report(out)}", quiet=quiet)
    draw = "-o rows.csv" if fitted.model.schema.images is None else "-n 64 -o samples.png"
    say(f"next: bijectory score {out} {data} · bijectory sample {out} {draw} · bijectory show {out}", quiet=quiet)


def read_events(data: Path) -> tuple[np.ndarray, Any]:
    """Images and the names of their files, or the numbers of a table."""
    if holds_images(data):
        found = read_images(data)
        return found.images, found.names
    return read_table(data).to_numpy(), None


def describe(scores: dict[str, dict[str, float]]) -> list[str]:
    """One line for each part of the data."""
    names = {"train": "training", "validation": "validation", "test": "held-out"}
    lines = []
    for part, s in scores.items():
        terms = f"reconstruction {s['reconstruction']:.3f}, KL {s['kl']:.3f}"
        lines.append(
            f"{names[part]:>10}: ELBO {s['elbo']:.3f} ± {s['standard_error']:.3f} nats ({terms}; {s['events']:.0f})"
        )
        if "log_likelihood" in s:
            weighted = f"{s['log_likelihood']:.3f} ± {s['log_likelihood_error']:.3f}"
            lines.append(f"{'':>10}  importance-weighted {weighted} nats ({s['log_likelihood_events']:.0f})")
    return lines


def sample_events(run: Path, n: int | None, seed: int | None, out: Path | None, *, quiet: bool) -> None:
    """Draw images into an .npz, .npy or .png file, or rows into a table."""
    model = VaeModel.load(run)
    images = model.schema.images
    if images is None:
        drawn = model.sample(1000 if n is None else n, seed=seed)
        write_frame(pd.DataFrame(drawn, columns=[f"x{k}" for k in range(drawn.shape[1])]), out)
        say(f"{len(drawn)} rows drawn{f', written to {out}' if out else ''}", quiet=quiet)
        return
    if out is None or out.suffix.lower() not in (".npz", ".npy", ".png"):
        raise ConfigError(f"images need a file: --out samples.png (a grid) or samples.npz, got --out {out}.")
    drawn = model.sample(SHOWN if n is None else n, seed=seed)
    if out.suffix.lower() == ".png":
        write_grid(out, images.channels_last(drawn), images.levels)
    elif out.suffix.lower() == ".npy":
        np.save(out, drawn)
    else:
        np.savez_compressed(out, images=drawn)
    say(f"{len(drawn)} images drawn, written to {out}", quiet=quiet)


def score_events(run: Path, data: Path, samples: int | None, out: Path | None, *, json: bool, quiet: bool) -> None:
    """Importance-weighted log-likelihood, its error and the effective samples of every image or row, as a table."""
    model, (events, names) = VaeModel.load(run), read_events(data)
    found = model.log_likelihood(events, 1000 if samples is None else samples)
    frame = pd.DataFrame({"event": names or np.arange(len(events)), "log_prob": found.log_prob})
    frame = frame.assign(standard_error=found.se, ess=found.ess)
    if out is not None or not json:
        write_frame(frame, out)
    if json:
        lowest = frame["event"][int(frame["log_prob"].argmin())]
        facts = {"events": len(frame), "mean_log_prob": found.mean, "standard_error": found.standard_error}
        facts |= {"samples": found.samples, "median_ess": float(found.ess.median())}
        write_json(facts | {"lowest_event": lowest if isinstance(lowest, str) else int(lowest)})
    say(str(found), quiet=quiet or json)


def show_vae(run: Path, *, json: bool) -> None:
    """Model, training and scores of the run of an autoencoder."""
    model, facts = VaeModel.load(run), load_metadata(run)
    scores = facts.pop("scores", {})
    facts.pop("history", None)
    facts |= {"events": model.schema.rows, "parameters": sum(p.numel() for p in model.vae.parameters())}
    facts["shape"] = " x ".join(map(str, model.schema.event_shape))
    if json:
        write_json({"facts": facts, "scores": scores})
        return
    print_table(["run", str(run)], [[k, str(v)] for k, v in facts.items()])
    print()
    for line in describe(scores):
        print(line)

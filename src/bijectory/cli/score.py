"""``bijectory score``: the log-likelihood of every row, or the bits per dimension of every image."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.output import rows, say, write_frame, write_json
from bijectory.cli.words import Json, Quiet, Run
from bijectory.errors import ConfigError, check


def score(
    run: Run,
    data: Annotated[Path, Argument(help="Rows or images to score.")],
    *,
    out: Annotated[Path | None, Option("--out", "-o", help="File for rows and log_prob; else stdout.")] = None,
    nonfinite: Annotated[
        str, Option(metavar="raise|propagate", help="Rows with NaN: refuse, or score as NaN.")
    ] = "raise",
    samples: Annotated[int | None, Option(min=1, help="Images: noise samples; more give a tighter bound.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score rows by log-likelihoods in nats, in the units of the data; images by bits per dimension."""
    from bijectory.apps import TableFlow, run_kind
    from bijectory.tables import read_table

    if run_kind(run) == "image":
        from bijectory.cli.pictures import score_images

        check(nonfinite == "raise", ConfigError, "--nonfinite is for tables; leave it out.")
        score_images(run, data, samples, out, json=json, quiet=quiet)
        return
    check(samples is None, ConfigError, "--samples is for images; leave it out.")
    model = TableFlow.load(run)
    frame = read_table(data)
    frame = frame.assign(log_prob=model.score_samples(frame, nonfinite=nonfinite))  # type: ignore[arg-type]  # checked there
    mean = float(frame["log_prob"].mean())
    if out is not None or not json:
        write_frame(frame, out)
    if json:
        worst = frame["log_prob"].idxmin() if mean == mean else None
        bits = -mean / max(len(model.schema.targets), 1) / 0.6931471805599453
        summary = {"rows": len(frame), "mean_log_prob": mean, "bits_per_dimension": bits, "lowest_row": worst}
        write_json(summary)
    say(f"{rows(len(frame))}, mean log-likelihood {mean:.4f} nats", quiet=quiet or json)

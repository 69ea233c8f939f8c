"""``bijectory score``: the log-likelihood of every row, or the bits per dimension of every image."""

import dataclasses
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.output import check_place, rows, say, write_json
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
    samples: Annotated[
        int | None, Option(min=1, help="Images, autoencoders: samples; more give a tighter bound.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score rows by log-likelihoods in nats, in the units of the data; images by bits per dimension."""
    from bijectory.apps import TableFlow, run_kind, score_file

    if run_kind(run) == "image":
        from bijectory.cli.pictures import score_images

        check(nonfinite == "raise", ConfigError, "--nonfinite is for tables; leave it out.")
        score_images(run, data, samples, out, json=json, quiet=quiet)
        return
    if run_kind(run) == "vae":
        from bijectory.cli.autoencoding import score_events

        check(nonfinite == "raise", ConfigError, "--nonfinite is for tables of a flow; leave it out.")
        score_events(run, data, samples, out, json=json, quiet=quiet)
        return
    check(samples is None, ConfigError, "--samples is for images; leave it out.")
    check_place(out)
    found = score_file(TableFlow.load(run), data, out, write=out is not None or not json, nonfinite=nonfinite)  # type: ignore[arg-type]  # checked there
    if json:
        write_json(dataclasses.asdict(found))
    say(f"{rows(found.rows)}, mean log-likelihood {found.mean_log_prob:.4f} nats", quiet=quiet or json)

"""``bijectory score``: the log-likelihood of every row of a file."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.output import say, write_frame, write_json
from bijectory.cli.words import Json, Quiet, Run


def score(
    run: Run,
    data: Annotated[Path, Argument(help="Rows to score.")],
    *,
    out: Annotated[Path | None, Option("--out", "-o", help="File for rows and log_prob; else stdout.")] = None,
    nonfinite: Annotated[
        str, Option(metavar="raise|propagate", help="Rows with NaN: refuse, or score as NaN.")
    ] = "raise",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score rows: log-likelihoods in nats, in the units of the data."""
    from bijectory.apps import TableFlow
    from bijectory.tables import read_table

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
    say(f"{len(frame)} rows, mean log-likelihood {mean:.4f} nats", quiet=quiet or json)

"""``bijectory predict``: what a conditional run says of its targets in new rows."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.output import rows, say, write_frame
from bijectory.cli.words import Quiet, Run
from bijectory.errors import ConfigError, check


def predict(
    run: Run,
    data: Annotated[Path, Argument(help="Rows with the given columns.")],
    *,
    quantiles: Annotated[str, Option(metavar="Q,Q,...", help="Probabilities.")] = "0.05,0.5,0.95",
    hpd: Annotated[
        float | None, Option(metavar="LEVEL", help="Add the shortest interval of this level, as 0.9.")
    ] = None,
    draws: Annotated[
        int, Option(min=2, help="Draws for each row, where answers are not exact (several targets).")
    ] = 1000,
    seed: Annotated[int, Option(help="Of the draws.")] = 0,
    out: Annotated[Path | None, Option("--out", "-o", help="CSV or Parquet (stdout if absent).")] = None,
    quiet: Quiet = False,
) -> None:
    """Predict the targets of a run that was fitted with --given: mean and quantiles."""
    q = [options.number(word, "--quantiles", "0.05,0.5,0.95") for word in options.names([quantiles])]
    check(bool(q), ConfigError, "--quantiles is empty; write it as --quantiles 0.05,0.5,0.95.")
    from bijectory.apps import Predictive, TableFlow
    from bijectory.tables import read_table

    model = TableFlow.load(run)
    check(
        bool(model.schema.givens),
        ConfigError,
        f"{run} was fitted without --given, there is nothing to predict from; fit with --given, or use query or sample.",
    )
    known = Predictive(model, draws=draws, seed=seed)
    frame = read_table(data)
    means, found = known.mean(frame), known.quantiles(frame, q)
    ends = None if hpd is None else known.interval(frame, hpd, "hpd")
    for k, name in enumerate(known.outputs):
        columns = {f"{name}_mean": means[:, k], **{f"{name}_q{p:g}": found[:, k, i] for i, p in enumerate(q)}}
        if ends is not None:
            columns |= {f"{name}_hpd_low": ends[:, k, 0], f"{name}_hpd_high": ends[:, k, 1]}
        frame = frame.assign(**columns)
    write_frame(frame, out)
    how = "exact" if known.exact else f"from {draws} draws a row"
    say(f"{rows(len(frame))}, {', '.join(known.outputs)}: {how}", quiet=quiet)

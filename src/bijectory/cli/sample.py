"""``bijectory sample``: new rows from a run."""

from pathlib import Path
from typing import Annotated

from typer import Option

from bijectory.cli import options
from bijectory.cli.output import say, write_frame
from bijectory.cli.words import Quiet, Run, Words
from bijectory.errors import ConfigError, check


def sample(
    run: Run,
    *,
    n: Annotated[int, Option("-n", min=0, help="Number of rows (for each row of --given-from).")] = 1000,
    out: Annotated[Path | None, Option("--out", "-o", help="CSV or Parquet file; stdout if absent.")] = None,
    given: Annotated[Words, Option(metavar="COLUMN=VALUE", help="Condition: --given a=1.5.")] = None,
    given_from: Annotated[Path | None, Option(help="Table of conditions, one a row.")] = None,
    seed: Annotated[int | None, Option(help="Seed; a fresh one if absent.")] = None,
    quiet: Quiet = False,
) -> None:
    """Draw new rows."""
    conditions = options.values(given)
    check(not (conditions and given_from), ConfigError, "--given and --given-from exclude each other; choose one.")
    from bijectory.apps import TableFlow
    from bijectory.tables import read_table

    model = TableFlow.load(run)
    known = [c.name for c in model.schema.columns if c.role == "given"]
    strange = sorted(set(conditions) - set(known))
    listing = ", ".join(known) or "none"
    check(not strange, ConfigError, f"--given {strange}: the given columns of this run are: {listing}.")
    table = read_table(given_from) if given_from else {k: [v] for k, v in conditions.items()} or None
    frame = model.sample(n, given=table, seed=seed)
    write_frame(frame, out)
    say(f"{len(frame)} rows drawn{f', written to {out}' if out else ''}", quiet=quiet)

"""``bijectory ratio``: how two tables differ."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.output import print_table, say, write_json
from bijectory.cli.words import Json, Quiet, Words


def ratio(
    a: Annotated[Path, Argument(help="A table.")],
    b: Annotated[Path, Argument(help="Another one, of the same columns; its rows get weights.")],
    *,
    out: Annotated[
        Path | None, Option("--out", "-o", help="Folder for rows, weights and report; else a summary.")
    ] = None,
    drop: Annotated[Words, Option("--drop", metavar="COLUMN,...", help="Columns to leave out.")] = None,
    classifier: Annotated[
        str, Option(metavar="NAME", help="auto, linear, discriminant, quadratic or boosting.")
    ] = "auto",
    permutations: Annotated[int, Option(min=19, help="Of the two-sample test.")] = 999,
    seed: Annotated[int, Option(min=0, help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the comparison in the folder.")] = False,
    no_report: Annotated[bool, Option("--no-report", help="Do not write report.html.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell two tables apart: a test, the columns that differ, log-ratios log A/B of rows, weights that turn B into A."""
    if out is not None:
        options.claim_ratio(out, overwrite=overwrite)
    from bijectory.apps import compare_tables
    from bijectory.report import write_ratio
    from bijectory.tables import read_table

    first, second = read_table(a), read_table(b)
    words = {"drop": options.names(drop), "classifier": classifier, "permutations": permutations, "seed": seed}
    found = compare_tables(first, second, **words)  # type: ignore[arg-type]  # checked there
    if json:
        write_json(found.to_dict())
    else:
        print(found.summary())
        print_table(*found.table())
    for note in found.notes:
        say(f"note: {note}", quiet=quiet)
    if out is not None:
        written = write_ratio(found, first, second, out, names=(a.name, b.name), report=not no_report)
        say(f"written: {written}", quiet=quiet)

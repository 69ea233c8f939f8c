"""``bijectory compare``: which of two runs explains held-out rows better."""

import dataclasses
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.output import say, write_json
from bijectory.cli.words import Json, Quiet


def compare(
    run_a: Annotated[Path, Argument(help="A run folder.")],
    run_b: Annotated[Path, Argument(help="Another one, of the same columns.")],
    data: Annotated[Path, Argument(help="Rows that neither was fitted to.")],
    *,
    seen: Annotated[
        str, Option(metavar="raise|drop|keep", help="Rows that one of the runs was fitted to: refuse, leave out, keep.")
    ] = "raise",
    seed: Annotated[int, Option(help="Seed of the bootstrap.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two densities by their log-likelihoods of held-out rows: paired bootstrap and Vuong's test."""
    from bijectory.apps import compare as compare_runs
    from bijectory.tables import read_table

    found = compare_runs(run_a, run_b, read_table(data), seen=seen, seed=seed)  # type: ignore[arg-type]  # checked there
    if json:
        write_json({**dataclasses.asdict(found), "preferred": found.preferred, "verdict": found.verdict})
        return
    print(dataclasses.replace(found, notes=()))
    for note in found.notes:
        say(f"note: {note}", quiet=quiet)

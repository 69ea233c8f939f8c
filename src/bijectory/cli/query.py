"""``bijectory query``: rows of a joint density in which some columns are known."""

from pathlib import Path
from typing import Annotated

from typer import Option

from bijectory.cli import options
from bijectory.cli.output import say, write_frame, write_json
from bijectory.cli.words import Json, Quiet, Run
from bijectory.errors import ConfigError, check


def query(
    run: Run,
    *,
    where: Annotated[list[str], Option(metavar="COLUMN=VALUE,...", help="Known columns; may be repeated.")],
    n: Annotated[int, Option("-n", min=1, help="Number of rows.")] = 1000,
    min_ess: Annotated[float | None, Option(min=1, help="Smallest effective sample size; min(n, 100).")] = None,
    method: Annotated[
        str, Option(metavar="auto|importance|chains", help="Weights, Markov chains, or as needed.")
    ] = "auto",
    seed: Annotated[int, Option(min=0, help="Seed.")] = 0,
    out: Annotated[Path | None, Option("--out", "-o", help="CSV or Parquet (stdout if absent).")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw rows from p(other columns | known columns), by importance sampling or Markov chains, whichever holds."""
    known: dict[str, float] = {}
    for name, text in (options.pair(word, "--where", "COLUMN=VALUE") for word in options.assignments(where)):
        check(name not in known, ConfigError, f"--where names {name!r} twice; give each column one value.")
        known[name] = options.number(text, "--where", "COLUMN=VALUE")
    check(bool(known), ConfigError, "--where is empty; write it as --where COLUMN=VALUE.")
    from bijectory.apps import TableFlow, conditional

    found = conditional(TableFlow.load(run), known, n, min_ess=min_ess, method=method, seed=seed)  # type: ignore[arg-type]
    if out is not None or not json:
        write_frame(found.rows, out)
    if json:
        facts = ("log_density", "error", "ess", "draws", "distinct", "method", "khat", "rhat", "reliable")
        write_json({"rows": n, "known": known, **{name: getattr(found, name) for name in facts}})
    say(found.summary(), quiet=quiet or json)

"""``bijectory infer``: the posterior of a model file."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.cli.words import Json, Quiet, Words
from bijectory.errors import ConfigError, check


def infer(
    model: Annotated[Path, Argument(help="Python file with log_density(x) and parameters = {name: support}.")],
    *,
    out: Annotated[Path | None, Option("--out", "-o", help="Run folder to write; else only the summary.")] = None,
    recipe: Annotated[str, Option(help="Architecture, see `bijectory list`.")] = "nsf",
    set_: Annotated[Words, Option("--set", metavar="NAME=VALUE", help="Argument of the recipe: layers=8.")] = None,
    objective: Annotated[str, Option(metavar="reverse|forward|alpha", help="Divergence to minimise.")] = "reverse",
    anneal: Annotated[float, Option(help="Share of the training with a tempered density.")] = 0.0,
    epochs: Annotated[int | None, Option(min=1, help="Epochs of 25 steps.")] = None,
    polish: Annotated[str, Option(metavar="auto|always|never", help="Markov chains, where needed.")] = "auto",
    draws: Annotated[int, Option("-n", min=1, help="Corrected draws to write.")] = 4000,
    parquet: Annotated[bool, Option("--parquet", help="Write draws.parquet, not draws.csv.")] = False,
    seed: Annotated[int, Option(min=0, help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    no_report: Annotated[bool, Option("--no-report", help="Do not write report.html.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit the posterior of a model file by a flow, check it, correct it, and write draws."""
    check(polish in ("auto", "always", "never"), ConfigError, f"--polish {polish!r} is none of auto, always, never.")
    if out is not None:
        options.claim(out, resume=False, overwrite=overwrite)
    from bijectory import apps

    config = apps.variational_config(seed=seed, progress=not quiet, **({} if epochs is None else {"epochs": epochs}))
    words = {"recipe": recipe, "recipe_args": options.settings(set_), "objective": objective, "anneal": anneal}
    posterior = apps.infer(model, polish=polish, seed=seed, config=config, **words)  # type: ignore[arg-type]  # checked
    if json:
        chains = posterior.chains.to_dict() if posterior.chains else None
        table = posterior.table().to_dict("index")
        write_json({**posterior.diagnostics.to_dict(), "chains": chains, "table": table, **posterior.training})
    else:
        print(posterior.summary())
    if out is None:
        return
    if overwrite:
        options.remove_run(out)
    apps.write_run(posterior, out, draws=draws, parquet=parquet)
    from bijectory.report import write_report

    say(f"written to {out}" if no_report else f"report: {write_report(out)}", quiet=quiet)

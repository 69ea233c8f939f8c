"""``bijectory distill``: a fast flow that draws like a slow one."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.cli.words import Json, Quiet, Words
from bijectory.errors import ConfigError, check


def distill(
    run: Annotated[Path, Argument(help="Run folder of the teacher, e.g. of a continuous flow.")],
    *,
    out: Annotated[Path, Option("--out", "-o", help="Run folder to write.")],
    recipe: Annotated[str, Option(help="Architecture of the student, see `bijectory list`.")] = "nsf",
    set_: Annotated[Words, Option("--set", metavar="NAME=VALUE", help="Argument of the recipe: layers=8.")] = None,
    draws: Annotated[int, Option(min=2, help="Number of draws to learn from.")] = 50_000,
    epochs: Annotated[int | None, Option(min=1, help="Passes over the draws.")] = None,
    time_budget: Annotated[str | None, Option(metavar="TIME", help="Stop after 90s, 10m or 1.5h of training.")] = None,
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a fast flow on draws of a slow one; say how far apart they are and how much faster it is."""
    options.claim(out, resume=False, overwrite=overwrite)
    budget = None if time_budget is None else options.seconds(time_budget)
    from bijectory.apps import TableFlow, distill_table, run_kind, table_config

    config = table_config(draws, epochs=epochs, time_budget=budget, seed=seed, progress=not quiet)
    kind = {"image": "the run of images", "posterior": "a posterior"}.get(run_kind(run))
    check(kind is None, ConfigError, f"{run} is {kind}; distill is for runs of tables.")
    check(out.resolve() != run.resolve(), ConfigError, f"--out {out} is the teacher itself; choose another folder.")
    TableFlow.load(run)  # a teacher that cannot be read removes nothing
    options.remove_run(out)
    _, found = distill_table(
        run, out=out, recipe=recipe, recipe_args=options.settings(set_), draws=draws, config=config
    )
    if json:
        names = ("divergence", "standard_error", "sampling_speedup", "density_speedup")
        write_json({"run": str(out), **{name: getattr(found, name) for name in names}})
    else:
        print(found)
    say(f"next: bijectory sample {out} -n 1000 · bijectory report {out}", quiet=quiet)

"""``bijectory evidence``: the evidence of model files, and which model the data prefer."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.cli.words import Json, Quiet, Words

METHODS = "importance,bridge,harmonic,annealed"


def evidence(
    models: Annotated[list[Path], Argument(help="Python files with log_density(x) and parameters, as for `infer`.")],
    *,
    out: Annotated[Path | None, Option("--out", "-o", help="Run folder to write; else only the summary.")] = None,
    odds: Annotated[Words, Option("--odds", metavar="MODEL=ODDS", help="Prior odds of a model, 1 by default.")] = None,
    samples: Annotated[Path | None, Option(help="Posterior draws of one model: CSV, Parquet; column chain.")] = None,
    method: Annotated[Words, Option(metavar=METHODS, help="Estimators; all by default.")] = None,
    draws: Annotated[int, Option("-n", min=100, help="Draws of the flow.")] = 10_000,
    particles: Annotated[int, Option(min=100, help="Particles of annealed importance sampling.")] = 1024,
    temperature: Annotated[float | None, Option(help="Of the learned harmonic mean, in (0, 1].")] = None,
    recipe: Annotated[str, Option(help="Architecture, see `bijectory list`.")] = "nsf",
    set_: Annotated[Words, Option("--set", metavar="NAME=VALUE", help="Argument of the recipe: layers=8.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Epochs of 25 steps.")] = None,
    seed: Annotated[int, Option(min=0, help="Seed of everything random.")] = 0,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    no_report: Annotated[bool, Option("--no-report", help="Do not write report.html.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate the evidence of models four ways, say whether the estimates agree and which model is preferred."""
    if out is not None:
        options.claim_results(out, "evidence", overwrite=overwrite)
    from bijectory import apps
    from bijectory.report import write_evidence_report
    from bijectory.tables import read_table

    config = apps.variational_config(seed=seed, progress=not quiet, **({} if epochs is None else {"epochs": epochs}))
    study = apps.study_evidence(
        models,
        odds=options.values(odds, "--odds", "MODEL=ODDS"),
        samples=None if samples is None else read_table(samples),
        methods=options.names(method) or METHODS.split(","),
        draws=draws,
        particles=particles,
        temperature=temperature,
        seed=seed,
        fitting={"recipe": recipe, "recipe_args": options.settings(set_), "config": config},
    )
    write_json(study.to_dict()) if json else print(study)
    if out is not None:
        apps.write_evidence(study, out)
        say(f"written to {out}" if no_report else f"report: {write_evidence_report(out, study)}", quiet=quiet)
    study.require_trusted()

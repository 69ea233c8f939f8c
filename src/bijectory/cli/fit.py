"""``bijectory fit``: learn the density of a table, or of images."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.plan import plan
from bijectory.cli.words import Json, Quiet, Words


def fit(
    data: Annotated[
        Path, Argument(help="Table: CSV (also .gz), Parquet, .npy, .npz. Images: .npy, .npz, idx, folder of PNG.")
    ],
    *,
    out: Annotated[Path, Option("--out", "-o", help="Run folder to write.")],
    recipe: Annotated[str | None, Option(help="Architecture, see `bijectory list`.")] = None,
    set_: Annotated[Words, Option("--set", metavar="NAME=VALUE", help="Argument of the recipe: layers=8.")] = None,
    given: Annotated[Words, Option(metavar="COLUMNS", help="Columns to condition on: a,b; of images: label.")] = None,
    drop: Annotated[Words, Option(metavar="COLUMNS", help="Columns to leave out.")] = None,
    bounded: Annotated[Words, Option(metavar="COLUMN=LOW:HIGH", help="Hard bounds: --bounded a=0:1.")] = None,
    positive: Annotated[Words, Option(metavar="COLUMNS", help="Columns with values above 0 only.")] = None,
    dequantize: Annotated[Words, Option(metavar="COLUMNS", help="Discrete columns.")] = None,
    missing: Annotated[str | None, Option(metavar="raise|drop", help="Rows with missing values.")] = None,
    weight: Annotated[str | None, Option(metavar="COLUMN", help="Column with the weights of the rows.")] = None,
    objective: Annotated[str | None, Option(help="Tables: what to train with; else what the recipe asks for.")] = None,
    start: Annotated[Path | None, Option(metavar="RUN", help="Tables: go on from the weights of another run.")] = None,
    levels: Annotated[int | None, Option(help="Images: number of levels of a pixel.")] = None,
    noise: Annotated[str | None, Option(metavar="uniform|learned", help="Images: noise between the levels.")] = None,
    epochs: Annotated[int | None, Option(help="Passes over the training rows.")] = None,
    batch_size: Annotated[int | None, Option(help="Rows of a step.")] = None,
    lr: Annotated[float | None, Option(help="Peak learning rate.")] = None,
    time_budget: Annotated[str | None, Option(metavar="TIME", help="Stop after 90s, 10m or 1.5h of training.")] = None,
    compile_: Annotated[str | None, Option("--compile", metavar="auto|always|never", help="Compile the steps.")] = None,
    precision: Annotated[str | None, Option(metavar="full|bf16", help="Of the networks while training.")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything random.")] = None,
    config: Annotated[Path | None, Option(help="Options from a TOML or JSON file; those given here win.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    no_report: Annotated[bool, Option("--no-report", help="Do not write report.html.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn the density of a table or of images and write a run folder."""
    words: dict[str, Any] = {"recipe": recipe, "recipe_args": options.settings(set_), "given": given, "drop": drop}
    words |= {"bounded": options.bounds(bounded), "positive": positive, "dequantize": dequantize, "missing": missing}
    words |= {"objective": objective, "start": start, "levels": levels, "noise": noise, "weight": weight}
    words |= {"epochs": epochs, "batch_size": batch_size, "lr": lr, "time_budget": time_budget, "compile": compile_}
    wanted = plan(config, words | {"precision": precision, "seed": seed})
    options.claim(out, resume=resume, overwrite=overwrite)
    from bijectory.cli.fitting import run_fit

    run_fit(data, wanted, out, resume=resume, report=not no_report, json=json, quiet=quiet)

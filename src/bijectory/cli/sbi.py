"""``bijectory sbi``: the posterior of a simulator's parameters given an observation."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from bijectory.cli import options
from bijectory.cli.words import Json, Quiet


def sbi(
    simulator: Annotated[Path, Argument(help="Python file that defines `prior` and `simulator(theta) -> x`.")],
    *,
    observation: Annotated[Path, Option("--observation", "-x", help="The observed data: CSV, Parquet, .npy.")],
    out: Annotated[Path, Option("--out", "-o", help="Run folder to write.")],
    simulations: Annotated[int, Option(min=10, help="Simulations for training (in each round).")] = 1000,
    method: Annotated[str, Option(metavar="npe|fmpe|nle|nre", help="What is learned.")] = "npe",
    rounds: Annotated[int, Option(min=1, help="More than 1: sequential, for this observation only.")] = 1,
    checks: Annotated[int, Option(min=0, help="Further simulations for checks and repair.")] = 1000,
    draws: Annotated[int, Option(min=1, help="Draws of the posterior to write.")] = 4000,
    ensemble: Annotated[int, Option(min=1, help="Number of members.")] = 5,
    missing: Annotated[str, Option(metavar="drop|indicate|raise", help="Simulations with NaN.")] = "drop",
    no_repair: Annotated[bool, Option("--no-repair", help="Do not recalibrate a posterior that fails.")] = False,
    local: Annotated[bool, Option("--local", help="Test the posterior at the observation too (C2ST).")] = False,
    epochs: Annotated[int | None, Option(min=1, help="Passes over the simulations.")] = None,
    time_budget: Annotated[str | None, Option(metavar="TIME", help="Stop training after 90s, 10m or 1.5h.")] = None,
    seed: Annotated[int, Option(min=0, help="Seed of everything random.")] = 0,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the run in the folder.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn the parameters of a simulator from an observation, check the result, and write a report."""
    seconds = options.seconds(time_budget)
    options.claim_study(out, resume=resume, overwrite=overwrite)
    from bijectory.cli.studying import run_study

    training: dict[str, Any] = {k: v for k, v in {"epochs": epochs, "time_budget": seconds}.items() if v is not None}
    training["progress"] = not quiet
    run_study(
        simulator,
        observation,
        out,
        json=json,
        quiet=quiet,
        method=method,
        simulations=simulations,
        rounds=rounds,
        checks=checks,
        draws=draws,
        ensemble=ensemble,
        missing=missing,
        repair=not no_repair,
        local=local,
        training=training,
        resume=resume,
        seed=seed,
    )

"""``bijectory demo``: from real data to likelihoods, samples, scores and a report."""

from pathlib import Path
from typing import Annotated

from typer import Option

from bijectory.cli import options
from bijectory.cli.words import Quiet


def demo(
    *,
    out: Annotated[Path, Option("--out", "-o", help="Run folder.")] = Path("demo-run"),
    time_budget: Annotated[str, Option(metavar="TIME", help="Time for training.")] = "90s",
    quiet: Quiet = False,
) -> None:
    """Learn a photograph as a density: every pixel a row (x, y, red, green, blue)."""
    seconds = options.seconds(time_budget)
    options.claim_demo(out)
    from bijectory.cli.showing import run_demo

    run_demo(out, seconds, quiet=quiet)

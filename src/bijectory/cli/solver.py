"""``bijectory solver``: accuracy against cost of the solver of a continuous flow."""

from typing import Annotated

from typer import Option

from bijectory.cli.output import print_table, say, write_json
from bijectory.cli.words import Json, Quiet, Run


def solver(
    run: Run,
    *,
    tolerance: Annotated[float, Option(help="Largest mean error of a row's log-likelihood, nats.")] = 0.001,
    rows: Annotated[int, Option(min=2, help="Number of held-out rows to measure on.")] = 256,
    save: Annotated[bool, Option("--save", help="Give the run the solver that is chosen.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the cheapest solver of a continuous flow that is accurate enough."""
    from bijectory.apps import tune_run

    found, table = tune_run(run, tolerance=tolerance, rows=rows, save=save)
    if json:
        write_json({"chosen": vars(found), "tried": table.to_dict("records"), "saved": save})
        return
    cells = [[m, str(s), f"{n:.0f}", f"{e:.2g}", f"{w:.2g}"] for m, s, n, e, w in table.itertuples(index=False)]
    print_table(["method", "steps", "evaluations", "mean error", "largest"], cells)
    print(f"\ncheapest within {tolerance:g} nats: {found}")
    say(
        "saved in the run" if save else f"keep it: bijectory solver {run} --tolerance {tolerance:g} --save", quiet=quiet
    )

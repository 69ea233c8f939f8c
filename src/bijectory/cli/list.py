"""``bijectory list``: the recipes."""

import dataclasses
from typing import Annotated, Literal

from typer import Argument

from bijectory.cli.output import print_table, write_json
from bijectory.cli.words import Json

FOR = {"features": "tables", "image": "images"}


def list_recipes(
    what: Annotated[Literal["flows", "recipes"], Argument(help="Both name the same list.")] = "flows",
    *,
    json: Json = False,
) -> None:
    """List the flows that can be fitted by name: paper, year, what each direction costs."""
    from bijectory.recipes import RECIPES

    recipes = sorted(RECIPES.values(), key=lambda r: (r.year, r.name))
    if json:
        fields = ("name", "year", "summary", "event", "density", "sampling", "ladj", "exact", "paper")
        write_json([{k: v for k, v in dataclasses.asdict(r).items() if k in fields} for r in recipes])
        return
    print_table(
        ["recipe", "year", "for", "what it is", "density", "sampling", "paper"],
        [[r.name, str(r.year), FOR[r.event], r.summary, r.density, r.sampling, r.paper] for r in recipes],
    )

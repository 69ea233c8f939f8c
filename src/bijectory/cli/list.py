"""``bijectory list``: the recipes."""

import dataclasses

from bijectory.cli.output import print_table, write_json
from bijectory.cli.words import Json


def list_recipes(*, json: Json = False) -> None:
    """List the recipes with their papers."""
    from bijectory.recipes import RECIPES

    recipes = sorted(RECIPES.values(), key=lambda r: (r.year, r.name))
    if json:
        fields = ("name", "year", "summary", "event", "density", "sampling", "ladj", "exact", "paper")
        write_json([{k: v for k, v in dataclasses.asdict(r).items() if k in fields} for r in recipes])
        return
    print_table(
        ["recipe", "year", "what it is", "density", "sampling", "paper"],
        [[r.name, str(r.year), r.summary, r.density, r.sampling, r.paper] for r in recipes],
    )

"""The registry of named architectures: a recipe is a plain function that returns a ``Flow``."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Literal, ParamSpec

from bijectory.densities import Flow
from bijectory.errors import ConfigError
from bijectory.recipes.arguments import Signature

P = ParamSpec("P")

Cost = Literal["one pass", "by features", "root", "root by features", "fixed point", "integral"]
"""What a direction costs beside arithmetic that any flow needs.

``one pass``: every network once. ``by features``: one feature (or patch) after another, about the arithmetic of one pass in
as many steps. ``root``: one pass and a bracketed scalar root. ``root by features``: a root in each of those steps.
``fixed point``: the networks once in each iteration. ``integral``: the network once in each step of a solver.
"""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named architecture of the literature.

    Attributes:
        name: The literature's lower-case name, also the name on the command line.
        build: The function that returns the flow.
        paper: Title, authors, arXiv number.
        year: Year of publication.
        density: What data -> latent costs.
        sampling: What latent -> data costs.
        ladj: What the log-determinant costs beside the map, in the number of features ``d``.
        exact: False where the log-determinant is an estimate or a bound.
        objective: Name in ``objectives.OBJECTIVES`` of what the architecture is trained with unless asked otherwise.
        event: ``features`` for rows of a table, ``image`` for ``(channels, height, width)``.
        summary: First line of the function's docstring.
    """

    name: str
    build: Callable[..., Flow]
    paper: str
    year: int
    density: Cost
    sampling: Cost
    ladj: str
    exact: bool
    objective: str
    event: Literal["features", "image"]
    summary: str


RECIPES: dict[str, Recipe] = {}


def recipe(
    *,
    paper: str,
    year: int,
    density: Cost = "one pass",
    sampling: Cost = "one pass",
    ladj: str = "O(d)",
    exact: bool = True,
    objective: str = "nll",
) -> Callable[[Callable[P, Flow]], Callable[P, Flow]]:
    """Register a function that returns a ``Flow`` under its own name; its arguments are checked.

    Its signature is ``(features, context=0, *, ...)``, or ``(shape, context=0, *, ...)`` for images of shape
    ``(channels, height, width)``.

    Args:
        paper: Title, authors, arXiv number.
        year: Year of publication.
        density: What data -> latent costs.
        sampling: What latent -> data costs.
        ladj: What the log-determinant costs beside the map.
        exact: False where the log-determinant is an estimate or a bound.
        objective: Name of what it is trained with unless asked otherwise.
    """

    def register(build: Callable[P, Flow]) -> Callable[P, Flow]:
        accepted = Signature(build)

        @functools.wraps(build)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Flow:
            call = accepted.checked(args, kwargs)
            return build(*call.args, **call.kwargs)

        summary = (inspect.getdoc(build) or "").split("\n", 1)[0]
        event: Literal["features", "image"] = "image" if "shape" in inspect.signature(build).parameters else "features"
        RECIPES[build.__name__] = Recipe(
            build.__name__, checked, paper, year, density, sampling, ladj, exact, objective, event, summary
        )
        return checked

    return register


def find_recipe(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        ConfigError: If the name is unknown; the message offers the nearest names.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known recipes: {', '.join(sorted(RECIPES))}."
        raise ConfigError(f"there is no recipe {name!r}; {hint}")
    return RECIPES[name]

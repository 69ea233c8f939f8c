"""The registry of named architectures: a recipe is a plain function that returns a ``Flow``."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

from bijectory.densities import Flow
from bijectory.errors import ConfigError
from bijectory.recipes.arguments import Signature

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named architecture of the literature.

    Attributes:
        name: The literature's lower-case name, also the name on the command line.
        build: The function that returns the flow.
        paper: Title, authors, arXiv number.
        year: Year of publication.
        summary: First line of the function's docstring.
    """

    name: str
    build: Callable[..., Flow]
    paper: str
    year: int
    summary: str


RECIPES: dict[str, Recipe] = {}


def recipe(*, paper: str, year: int) -> Callable[[Callable[P, Flow]], Callable[P, Flow]]:
    """Register a function ``(features, context=0, *, ...) -> Flow`` under its own name; its arguments are checked."""

    def register(build: Callable[P, Flow]) -> Callable[P, Flow]:
        accepted = Signature(build)

        @functools.wraps(build)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Flow:
            call = accepted.checked(args, kwargs)
            return build(*call.args, **call.kwargs)

        summary = (inspect.getdoc(build) or "").split("\n", 1)[0]
        RECIPES[build.__name__] = Recipe(build.__name__, checked, paper, year, summary)
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

"""Objectives by name, as recipes and the command line ask for them."""

import difflib
from collections.abc import Callable

from bijectory.errors import ConfigError
from bijectory.objectives.batch import Objective
from bijectory.objectives.likelihood import nll
from bijectory.objectives.score_matching import ScoreMatching

OBJECTIVES: dict[str, Callable[[], Objective]] = {"nll": lambda: nll, "score_matching": ScoreMatching}
"""What makes an objective with its default settings, by name."""


def find_objective(name: str) -> Objective:
    """The objective of a name, with its default settings.

    Raises:
        ConfigError: If there is none; the message offers the nearest names.

    Example:
        >>> find_objective("nll") is nll
        True
    """
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known objectives: {', '.join(sorted(OBJECTIVES))}."
        raise ConfigError(f"there is no objective {name!r}; {hint}")
    return OBJECTIVES[name]()

"""Arguments of a recipe, checked at its door: they come from people, command lines and files."""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bijectory.errors import ConfigError, check

MAY_BE_ZERO = {"context", "frequencies"}


class Signature:
    """What a recipe accepts, read from its annotations.

    Args:
        build: The function.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self.name = build.__name__
        self.signature = inspect.signature(build)
        self.hints = get_type_hints(build)

    def checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Arguments of a call, integers of any library made plain.

        Raises:
            ConfigError: On an unknown or missing argument, a wrong type, or a value out of range.
        """
        known = list(self.signature.parameters)
        for name in kwargs.keys() - set(known):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
            raise ConfigError(f"{self.name} has no argument {name!r}; {hint}")
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"{self.name}: {error}; it takes {', '.join(known)}.") from None
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._one(name, value, self.hints.get(name))
        return bound

    def _one(self, name: str, value: Any, hint: Any) -> Any:
        least = 0 if name in MAY_BE_ZERO else 1
        if type(None) in get_args(hint):  # an optional argument; None leaves the choice to the recipe
            rest = [h for h in get_args(hint) if h is not type(None)]
            return value if value is None or len(rest) > 1 else self._one(name, value, rest[0])
        if hint is int:
            fits, expected = _whole(value, least), f"an integer of at least {least}"
        elif hint is float:
            fits, expected = _number(value), "a finite number"
        elif hint is bool:
            fits, expected = isinstance(value, bool), "True or False"
        elif get_origin(hint) is Literal:
            fits, expected = value in get_args(hint), f"one of {', '.join(map(repr, get_args(hint)))}"
        elif hint == Sequence[int]:
            listed = isinstance(value, Sequence) and not isinstance(value, str)
            fits, expected = listed and all(_whole(v, 1) for v in value), "a list of integers of at least 1"
        else:
            return value
        check(fits, ConfigError, f"{self.name}: {name} must be {expected}, got {value!r}.")
        return int(value) if hint is int else tuple(map(int, value)) if hint == Sequence[int] else value


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)

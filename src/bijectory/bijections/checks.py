"""Checks that the hyper-parameters of several families share."""

import math

from bijectory.errors import ConfigError, check


def check_integer(name: str, value: object, least: int) -> None:
    """Require a whole number of at least ``least``."""
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= least
    check(ok, ConfigError, f"{name} must be an integer of at least {least}, got {value!r}.")


def check_bound(name: str, value: float) -> None:
    """Require a positive finite number."""
    check(math.isfinite(value) and value > 0, ConfigError, f"{name} must be a positive finite number, got {value!r}.")


def check_min_slope(value: float, *, positive: bool = False) -> None:
    """Require a number in ``[0, 1)``, or in ``(0, 1)``."""
    ok = 0 < value < 1 if positive else 0 <= value < 1
    check(ok, ConfigError, f"min_slope must be in {'(0, 1)' if positive else '[0, 1)'}, got {value!r}.")

"""Hyper-parameters of splines, declared and checked in one place."""

import dataclasses
import math

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check
from bijectory.ops.spline_bins import SplineGrid, Tails


@dataclasses.dataclass(frozen=True)
class GridSpline(Bijection):
    """A spline whose bins and slopes have a floor; subclasses name the curve between two knots."""

    bins: int = 8
    bound: float = 5.0
    tails: Tails = "identity"
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_spline(self.bins, self.bound, self.tails, self.min_bin, self.min_slope)

    @property
    def _grid(self) -> SplineGrid:
        return SplineGrid(self.bins, self.bound, self.tails, self.min_bin, self.min_slope)


def check_spline(bins: object, bound: object, tails: object, min_bin: object, min_slope: object = 0.5) -> None:
    """Raise ``ConfigError`` on a hyper-parameter out of range."""
    whole = isinstance(bins, int) and not isinstance(bins, bool) and bins >= 2
    check(whole, ConfigError, f"bins must be an integer of at least 2, got {bins!r}.")
    check(_number("bound", bound) > 0, ConfigError, f"bound must be positive, got {bound!r}.")
    check(
        tails in ("identity", "linear", "circular"),
        ConfigError,
        f"tails must be 'identity', 'linear' or 'circular', got {tails!r}.",
    )
    widest = 1 / bins  # type: ignore[operator]
    check(
        0 < _number("min_bin", min_bin) < widest,
        ConfigError,
        f"min_bin must be above 0 and below 1 / bins = {widest:.4g}, got {min_bin!r}; lower min_bin or use fewer bins.",
    )
    slope = _number("min_slope", min_slope)
    check(0 < slope < 1, ConfigError, f"min_slope must lie between 0 and 1, got {min_slope!r}.")


def _number(name: str, value: object) -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    check(ok, ConfigError, f"{name} must be a finite number, got {value!r}.")
    return float(value)  # type: ignore[arg-type]

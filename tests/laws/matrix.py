"""Cases x laws x {c, no c} x dtype, as pytest parameters."""

from collections.abc import Iterable

import pytest
import torch

from bijectory.testing.violation import Law
from laws.cases import Case


def matrix(cases: Iterable[Case], laws: Iterable[Law], costly: Iterable[Law]) -> list:
    """Every law in float32 and float64; the costly ones in float64 only."""
    runs = [(f, d) for d in (torch.float32, torch.float64) for f in laws] + [(f, torch.float64) for f in costly]
    return [
        pytest.param(
            case, context, dtype, law, id=_name(case, context, dtype, law), marks=_marks(case, context, dtype, law)
        )
        for case in cases
        for context in case.contexts
        for law, dtype in runs
    ]


# With a context a map holds all that it holds without: of these laws the quick run takes the case with one, if there is one.
REPEATED = {
    *("captures", "density_captures", "density_exports", "to_data_exports"),  # graphs, seconds each
    *("integrates_to_one", "draws_follow_the_density"),  # tens of thousands of rows
    *("double_backward", "density_double_backward"),
}
# What is about places and shapes, not numbers, is the same in every dtype; float64 has the narrower tolerance.
SHAPES = {"devices", "batch_shapes", "context_broadcasts", "vmaps", "shapes", "density_context_broadcasts"}


def _marks(case: Case, context: int, dtype: torch.dtype, law: Law) -> tuple[pytest.MarkDecorator, ...]:
    name = law.__name__
    seen = (name in REPEATED and context < max(case.contexts)) or (name in SHAPES and dtype == torch.float32)
    return (pytest.mark.slow,) if seen or name in case.slow else ()


def _name(case: Case, context: int, dtype: torch.dtype, law: Law) -> str:
    return f"{case}-{'c' if context else 'no_c'}-{'f32' if dtype == torch.float32 else 'f64'}-{law.__name__}"

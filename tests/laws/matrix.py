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
        pytest.param(case, context, dtype, law, id=_name(case, context, dtype, law), marks=_marks(case, context, law))
        for case in cases
        for context in case.contexts
        for law, dtype in runs
    ]


# Seconds each. With a context a graph holds all that it holds without, so the quick run takes that one where there are both.
GRAPHS = ("captures", "density_captures", "density_exports", "to_data_exports")


def _marks(case: Case, context: int, law: Law) -> tuple[pytest.MarkDecorator, ...]:
    repeated = law.__name__ in GRAPHS and context < max(case.contexts)
    return (pytest.mark.slow,) if repeated or law.__name__ in case.slow else ()


def _name(case: Case, context: int, dtype: torch.dtype, law: Law) -> str:
    return f"{case}-{'c' if context else 'no_c'}-{'f32' if dtype == torch.float32 else 'f64'}-{law.__name__}"

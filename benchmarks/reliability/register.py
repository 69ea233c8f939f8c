"""The rows of the table, by number, and the tests as a measurement."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.reliability import ROOT

Answer = tuple[str, bool | None, str]  # figure, whether the target is met (None: not fully measured), remark


class Row(NamedTuple):
    """What is measured, what was promised, what the best peer has, and the measurement."""

    what: str
    target: str
    peer: str
    measure: Callable[..., Answer]


ROWS: dict[int, Row] = {}


def row(number: int, what: str, target: str, peer: str) -> Callable:
    """Register the function below as the measurement of a row."""

    def add(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROWS[number] = Row(what, target, peer, function)
        return function

    return add


def run_tests(*words: str) -> tuple[int, int]:
    """Passed and failed tests of a selection, slow ones included."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow", *words]
    said = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    ).stdout
    return counts(said.strip().splitlines()[-1])


def verdict(*words: str, least: int = 1) -> tuple[str, bool]:
    """How a selection of tests went, in words, and whether at least so many ran and none failed."""
    passed, failed = run_tests(*words)
    return f"{passed} tests, {failed} failed", passed >= least and not failed


def counts(line: str) -> tuple[int, int]:
    """Passed and failed tests by the last line that pytest printed; errors count as failures."""
    found = {word.rstrip(",s"): int(n) for n, word in itertools.pairwise(line.split()) if n.isdigit()}
    return found.get("passed", 0), found.get("failed", 0) + found.get("error", 0)

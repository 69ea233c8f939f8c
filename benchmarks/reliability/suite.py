"""Row 28: how long the quick tier takes and whether it ever fails, read from what runs of it printed."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.register import Answer, counts, row

RUNS, SECONDS = 50, 120  # the target


class Run(NamedTuple):
    """One run of the tests."""

    passed: int
    failed: int
    seconds: float
    names: tuple[str, ...]  # of tests that failed


def read(log: str) -> Run:
    """What pytest printed, ``make test > LOG 2>&1``, as a run: its last summary line, and the failures it names.

    A log without a summary is of a run that broke off: that is a failure too.
    """
    lines = log.splitlines()
    ends = [line for line in lines if re.search(r"\d+ (passed|failed|errors?)\b.* in [\d.]+s", line)]
    names = tuple(line.split()[1] for line in lines if re.match(r"(FAILED|ERROR) \S", line))
    if not ends:
        return Run(0, 1, 0.0, (*names, "no summary"))
    passed, failed = counts(ends[-1])
    return Run(passed, failed, float(re.findall(r" in ([\d.]+)s", ends[-1])[-1]), names)


@row(
    28,
    "speed and flakiness of the suite",
    "quick tier < 120 s on two cores; 0 failures in 50 runs",
    "zuko 162 tests in 66 s",
)
def suite(logs: Sequence[Path]) -> Answer:
    """The runs whose logs are given (``--suite``)."""
    runs = [read(path.read_text(errors="replace")) for path in logs]
    bad = [r for r in runs if r.failed]
    times = [r.seconds for r in runs if r.seconds]
    time = f"{statistics.median(times):.0f} s (median, {min(times):.0f} to {max(times):.0f})" if times else "no time"
    text = f"{len(bad)} of {len(runs)} runs with a failure; {max(r.passed for r in runs):,} tests in {time}"
    names = sorted({name for r in bad for name in r.names})
    remark = "wall time of runs in the state the page is of; the seeds of tests are fixed, so that runs differ by "
    remark += "worker, order of events and load alone"
    remark += f"; failed: {', '.join(names)[:300]}" if names else ""
    return text, not bad and len(runs) >= RUNS and bool(times) and max(times) < SECONDS, remark

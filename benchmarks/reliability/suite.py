"""Row 28: how long the tests take and whether any ever fails, read from what runs of them printed."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.register import Answer, counts, row

RUNS, SECONDS = 50, 120  # the target
QUICK, SLOW = 600, 3600  # seconds within which the two tiers are to stay on two cores until it is met


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
def suite(logs: Sequence[Path], slow: Sequence[Path] = ()) -> Answer:
    """The runs whose logs are given: of the quick tier (``--suite``), and of the slow one (``--slow``) for the record."""
    runs, long = ([read(path.read_text(errors="replace")) for path in paths] for paths in (logs, slow))
    bad = [r for r in (*runs, *long) if r.failed]
    times = [r.seconds for r in runs if r.seconds]
    text = said("", runs) + (f"; slow tier: {said(' of it', long)}" if long else "")
    names = sorted({name for r in bad for name in r.names})
    remark = "wall time of runs in the state the page is of; the seeds of tests are fixed, so that runs differ by "
    remark += f"worker, order of events and load alone; over {QUICK} s: {sum(t > QUICK for t in times)} of {len(runs)}"
    remark += f", over {SLOW} s of the slow tier: {sum(r.seconds > SLOW for r in long)} of {len(long)}" if long else ""
    remark += f"; failed: {', '.join(names)[:300]}" if names else ""
    return text, not bad and len(runs) >= RUNS and len(times) == len(runs) and max(times) < SECONDS, remark


def said(which: str, runs: Sequence[Run]) -> str:
    """Failures, number and time of runs, in words."""
    times = [r.seconds for r in runs if r.seconds]
    time = f"{statistics.median(times):.0f} s (median, {min(times):.0f} to {max(times):.0f})" if times else "no time"
    failed = sum(r.failed > 0 for r in runs)
    return f"{failed} of {len(runs)} runs{which} with a failure; {max(r.passed for r in runs):,} tests in {time}"

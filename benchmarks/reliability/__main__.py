"""Measure the figures of `docs/reliability.md` and write them there, dated, beside their targets and the best peer's.

    python -m benchmarks.reliability [--rows 1 2 13] [--list]
    python -m benchmarks.reliability --suite LOG...     # row 28, from logs of runs of the quick tier (make test > LOG 2>&1)
    python -m benchmarks.reliability --suite LOG... --slow LOG...   # the same, and of the slow tier (make test-slow)
    python -m benchmarks.reliability --write            # the page again from what is stored, after a change of words
    python -m benchmarks.reliability --seeds 20         # repeat the statistics of rows 13 to 15, and write nothing

Without `--rows` all of them but 28, about forty CPU minutes of one thread, and a quarter of an hour more for the planted
faults of row 20 unless `mutants.jsonl` holds them already. A row that is not measured keeps what it had, with its date.
Peers were measured once, on another day, by programs of their own; their figures are quoted.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from benchmarks.reliability import conformance, depth, faults, layers, suite, truth  # noqa: F401  # they register their rows
from benchmarks.reliability.page import record, write
from benchmarks.reliability.register import ROWS, Answer

SUITE = 28


def measured(number: int, *arguments: object) -> Answer:
    """The answer of a row; an exception is an answer too, for the others are still worth their time."""
    try:
        return ROWS[number].measure(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}", False, "the measurement failed"


def repeat(seeds: int) -> None:
    """Print what fails of the statistics with other seeds."""
    failed = 0
    for seed in range(1, seeds + 1):
        lines = truth.statistics(seed)
        failed += bool(lines)
        print(f"seed {seed}: {'; '.join(lines) or 'no failure'}", flush=True)
    print(f"{failed} of {seeds} runs with a failure")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", choices=sorted(set(ROWS) - {SUITE}), metavar="N")
    parser.add_argument(
        "--suite", type=Path, nargs="+", metavar="LOG", help="measure row 28 by these logs, and no other"
    )
    parser.add_argument(
        "--slow", type=Path, nargs="+", default=[], metavar="LOG", help="of the slow tier, with --suite"
    )
    parser.add_argument("--seeds", type=int, help="repeat the statistical rows with so many seeds, and write nothing")
    parser.add_argument("--write", action="store_true", help="write the page again from what is stored")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.slow and not options.suite:
        parser.error("--slow goes with --suite, the logs of the quick tier")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.list:
        for number, row in sorted(ROWS.items()):
            print(number, row.what)
        return
    if options.write:
        write()
        return
    if options.seeds:
        repeat(options.seeds)
        return
    todo = [SUITE] if options.suite else options.rows or sorted(set(ROWS) - {SUITE})
    for number in todo:
        start = time.process_time()
        answer = measured(number, *([options.suite, options.slow] if options.suite else []))
        record(number, answer)
        figure, ok, remark = answer
        seconds = time.process_time() - start
        print(f"{number:2d} {ROWS[number].what}: {figure} [{ok}] {seconds:.0f} s {remark}", flush=True)


if __name__ == "__main__":
    main()

"""Put the contestants side by side: same architecture, one interleaved run, medians of CPU time on one core.

    python -m benchmarks.speed --peers PEERS/bin/python --out speed.json            # every cell
    python -m benchmarks.speed --peers … --family nsf_coupling --features 6,63 --batch 64,512 --budget 600
    python -m benchmarks.speed --table speed.json                                   # Markdown for docs/benchmarks.md
    python -m benchmarks.speed --compare old.json speed.json                        # what became faster or slower

Bijectory runs in this interpreter's environment, the peers in that of ``--peers`` (``make peers``). Every contestant is
first held against its own weights in float64. Then in every round each is timed once, in turn, so that a slow moment of the
machine hits all of them; ``--budget`` seconds of wall time end the run after the cell that is under way, and what was
measured until then is in the file.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.speed.contestants import FAMILIES, OPERATIONS, applies
from benchmarks.speed.tables import comparison, table

ROOT = Path(__file__).resolve().parents[2]
OURS = ("bijectory:compiled", "bijectory")  # the first is what the others are compared with
PEERS = ("zuko", "nflows", "normflows", "pyro", "flowjax", "distrax", "torchdiffeq")
SAMPLE_SECONDS = 0.15  # of each timed round, at least one call


class Worker:
    """A contestant's process."""

    def __init__(self, python: str, library: str) -> None:
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        command = [python, "-m", "benchmarks.speed.worker", "--library", library]
        self.name = library
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        self.alive = bool(line)
        return json.loads(line) if line else {"failed": "the process ended"}

    def ask(self, do: str, **values) -> dict:
        if not self.alive:
            return {"failed": "the library could not be imported, or its process ended"}
        self.process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self.process.stdin.flush()
        return self._read()


def cell(workers: list[Worker], key: dict, rounds: int, slowest: float) -> list[dict]:
    """One cell of the table: a row for every contestant."""
    rows, racing = [], []
    for w in workers:
        reply = w.ask("setup", **key)
        row = {"library": w.name, **key}
        rows.append(
            row | {k: v for k, v in reply.items() if k in ("parameters", "error", "first", "missing", "failed")}
        )
        if "parameters" in reply:
            once = w.ask("time", repeats=1).get("seconds", 1.0)
            if once > slowest:
                rows[-1]["skipped"] = f"one call takes {once:.0f} s"
                continue
            racing.append((w, rows[-1], max(1, min(200, int(SAMPLE_SECONDS / max(once, 1e-5)))), []))
    for _ in range(rounds):
        for w, row, repeats, times in racing:
            reply = w.ask("time", repeats=repeats)
            if "seconds" in reply:
                times.append(reply["seconds"])
            else:
                row["failed"] = reply.get("failed", "no answer")
    for w, row, _repeats, times in racing:
        if not times or "failed" in row:
            continue
        low, high = statistics.quantiles(times, n=4)[::2] if len(times) > 1 else (times[0], times[0])
        row |= {"seconds": statistics.median(times), "spread": (high - low) / statistics.median(times)}
        row["peak"] = w.ask("memory").get("peak")
    return rows


def machine() -> dict:
    """What the numbers hang on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    facts = {"date": str(datetime.date.today()), "machine": model, "cores": os.cpu_count()}
    return facts | {"load": os.getloadavg()[0], "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--peers", help="Python of the environment with the peers; none: Bijectory alone")
    parser.add_argument("--ours", default=",".join(OURS), help="bijectory, bijectory:frozen, bijectory:compiled")
    parser.add_argument("--libraries", default=",".join(PEERS))
    parser.add_argument("--family", default=",".join(FAMILIES))
    parser.add_argument("--features", default="2,6,43,63,3072", help="3072: images of 3 x 32 x 32")
    parser.add_argument("--batch", default="1,64,512,8192")
    parser.add_argument("--operation", default=",".join(OPERATIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of wall time")
    parser.add_argument(
        "--slowest", type=float, default=20.0, help="leave out whoever takes longer for one call, seconds"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of an earlier run")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="print what changed")
    o = parser.parse_args()
    if o.table or o.compare:
        runs = [json.loads(path.read_text()) for path in ([o.table] if o.table else o.compare)]
        print(table(runs[0]) if o.table else comparison(*runs))
        return
    start = time.monotonic()
    workers = [Worker(sys.executable, name) for name in o.ours.split(",")]
    if o.peers:
        workers += [Worker(o.peers, name) for name in o.libraries.split(",")]
    run = {**machine(), "rows": []}
    cells = [
        {"family": family, "features": features, "batch": batch, "operation": operation}
        for family in o.family.split(",")
        for features in map(int, o.features.split(","))
        for batch in map(int, o.batch.split(","))
        for operation in o.operation.split(",")
        if applies(family, features, batch)
    ]
    for done, key in enumerate(cells):
        if time.monotonic() - start > o.budget:
            print(f"out of time: {len(cells) - done} of {len(cells)} cells are not measured", file=sys.stderr)
            break
        new = cell(workers, key, o.rounds, o.slowest)
        run["rows"] += new
        print(table({"rows": new}, title=False).splitlines()[-1], flush=True)
        for r in new:
            if "failed" in r:
                print(f"  {r['library']}: {r['failed']}", file=sys.stderr)
        if o.out:
            o.out.write_text(json.dumps(run, indent=1))


if __name__ == "__main__":
    main()

"""Put the contestants side by side: same architecture, one interleaved run, medians of CPU time on one core.

    python -m benchmarks.speed --peers PEERS/bin/python --out speed.json            # every cell
    python -m benchmarks.speed --peers … --family nsf_coupling --features 6,63 --batch 64,512
    python -m benchmarks.speed --table speed.json                                   # Markdown

Bijectory runs in this interpreter's environment, the peers in that of ``--peers`` (``requirements.txt``). In every round
each contestant is timed once, in turn, so that a slow moment of the machine hits all of them.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.contestants import FAMILIES, OPERATIONS

ROOT = Path(__file__).resolve().parents[2]
OURS = ("bijectory",)
PEERS = ("zuko", "nflows", "normflows", "flowjax", "torchdiffeq")


class Worker:
    """A contestant's process."""

    def __init__(self, python: str, library: str) -> None:
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        command = [python, "-m", "benchmarks.speed.worker", "--library", library]
        self.name = library
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        self.alive = "ready" in self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": "the process ended"}

    def ask(self, do: str, **values) -> dict:
        if not self.alive:
            return {"failed": "the library could not be imported"}
        self.process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self.process.stdin.flush()
        return self._read()


def cell(workers: list[Worker], family: str, features: int, batch: int, operation: str, rounds: int) -> list[dict]:
    rows, racing = [], []
    for w in workers:
        reply = w.ask("setup", family=family, features=features, batch=batch, operation=operation)
        row = {"library": w.name, "family": family, "features": features, "batch": batch, "operation": operation}
        rows.append(row | {k: reply[k] for k in ("parameters", "error", "missing", "failed") if k in reply})
        if "parameters" in reply:
            once = w.ask("time", repeats=1).get("seconds", 1.0)
            racing.append((w, rows[-1], max(1, min(200, int(0.15 / max(once, 1e-5)))), []))
    for _ in range(rounds):
        for w, _row, repeats, times in racing:
            times.append(w.ask("time", repeats=repeats)["seconds"])
    for _w, row, _repeats, times in racing:
        low, high = statistics.quantiles(times, n=4)[::2] if len(times) > 1 else (times[0], times[0])
        row |= {"seconds": statistics.median(times), "spread": (high - low) / statistics.median(times)}
    return rows


def table(rows: list[dict]) -> str:
    """One line a cell: our milliseconds and, for each peer, its time as a multiple of ours."""
    peers = [n for n in dict.fromkeys(r["library"] for r in rows) if n != "bijectory"]
    out = [f"| cell | bijectory, ms | {' | '.join(peers)} |", f"|---|---|{'---|' * len(peers)}"]
    cells: dict[tuple, dict] = {}
    for r in rows:
        cells.setdefault((r["family"], r["features"], r["batch"], r["operation"]), {})[r["library"]] = r
    for (family, features, batch, operation), by in cells.items():
        ours = by["bijectory"].get("seconds")
        if ours is None:
            continue
        ratios = [f"{by[p]['seconds'] / ours:.2f}" if "seconds" in by.get(p, {}) else "–" for p in peers]
        name = f"{family} d={features} B={batch} {operation}"
        out.append(f"| {name} | {ours * 1e3:.2f} | {' | '.join(ratios)} |")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--peers", help="Python of the environment with the peers; none: Bijectory alone")
    parser.add_argument("--ours", default=",".join(OURS), help="bijectory, bijectory:frozen, bijectory:compiled")
    parser.add_argument("--libraries", default=",".join(PEERS))
    parser.add_argument("--family", default=",".join(FAMILIES))
    parser.add_argument("--features", default="2,6,43,63")
    parser.add_argument("--batch", default="1,64,512,8192")
    parser.add_argument("--operation", default=",".join(OPERATIONS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="print the table of an earlier run")
    o = parser.parse_args()
    if o.table:
        print(table(json.loads(o.table.read_text())["rows"]))
        return
    workers = [Worker(sys.executable, name) for name in o.ours.split(",")]
    if o.peers:
        workers += [Worker(o.peers, name) for name in o.libraries.split(",")]
    rows: list[dict] = []
    for family in o.family.split(","):
        for features in map(int, o.features.split(",")):
            for batch in map(int, o.batch.split(",")):
                for operation in o.operation.split(","):
                    new = cell(workers, family, features, batch, operation, o.rounds)
                    rows += new
                    print(table(new).splitlines()[-1], flush=True)
                    for r in new:
                        if "failed" in r:
                            print(f"  {r['library']}: {r['failed']}", file=sys.stderr)
    if o.out:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        o.out.write_text(json.dumps({"date": str(datetime.date.today()), **machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

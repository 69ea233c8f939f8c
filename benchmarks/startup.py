"""Start-up: seconds until `import bijectory` is done, until its first flow stands, and until `--help` is printed.

    python benchmarks/startup.py                        # ours
    python benchmarks/startup.py --peers PEERS/bin/python

Every start is a new process; the programs take turns, wall and CPU seconds are medians over the rounds. `import torch` is
what everybody on PyTorch pays.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

OURS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import bijectory": ["-c", "import bijectory"],
    "bijectory.nsf(6)": ["-c", "import bijectory; bijectory.nsf(6)"],
    "bijectory --help": ["-m", "bijectory", "--help"],
    "bijectory list": ["-m", "bijectory", "list"],
}
PEERS = {
    f"import {name}": ["-c", f"import {name}"] for name in ("zuko", "nflows.flows", "normflows", "pyro", "flowjax")
}


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="Python of the environment with the peers")
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    commands = {name: [sys.executable, *words] for name, words in OURS.items()}
    if o.peers:
        commands |= {name: [o.peers, *words] for name, words in PEERS.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for command in commands.values():
        timed(command)  # the disk's cache, and compiled modules
    for _ in range(o.rounds):
        for name, command in commands.items():
            times[name].append(timed(command))
    print("| program | wall, s | CPU, s |\n|---|---|---|")
    for name, pairs in times.items():
        wall, cpu = (statistics.median(p[k] for p in pairs) for k in (0, 1))
        print(f"| `{name}` | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()

"""Scoring a file: rows a second and peak memory of `bijectory score`, and of a plain loop over zuko's flow of the same size.

    python benchmarks/scoring.py --work FOLDER --rows 10000000 [--peers PEERS/bin/python] [--threads 2]

Ours is the whole verb: reading ``.npy`` or Parquet, the flow in float64, its preprocessing, writing rows and scores. zuko is
NSF couplings of the same sizes in float32 on batches of 8192 from a mapped ``.npy``, and the scores saved. Also drawing as
many rows with `bijectory sample`. A process each; memory is the peak of resident memory as the system counts it, mapped
pages of the file included (a child starts with the peak of its parent, which therefore imports next to nothing). Untrained
weights: time does not hang on them. Kernels come from the user's cache if they are there.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FEATURES = 6
ZUKO = """
import json, sys, numpy as np, torch, zuko
from zuko.flows import Flow, GeneralCouplingTransform, UnconditionalDistribution
torch.manual_seed(0)
half = torch.arange(6) < 3
spline = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(8,), (8,), (7,)]}
layers = [
    GeneralCouplingTransform(6, 0, mask=half if k % 2 == 0 else ~half, hidden_features=(128, 128), **spline)
    for k in range(6)
]
flow = Flow(layers, UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(6), torch.ones(6), buffer=True))
x = np.load(sys.argv[1], mmap_mode="r")
out = np.empty(len(x), np.float32)
with torch.no_grad():
    for i in range(0, len(x), 8192):
        out[i : i + 8192] = flow().log_prob(torch.from_numpy(np.array(x[i : i + 8192], np.float32))).numpy()
np.save(sys.argv[2], out)
"""


def prepare(work: Path, rows: int) -> None:
    """Write rows and a run folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import bijectory as bj
    from bijectory.tables import Column

    work.mkdir(parents=True, exist_ok=True)
    file = np.lib.format.open_memmap(work / "rows.npy", mode="w+", dtype=np.float64, shape=(rows, FEATURES))
    names = [f"x{k}" for k in range(FEATURES)]
    with pq.ParquetWriter(work / "rows.parquet", pa.schema([(name, pa.float64()) for name in names])) as writer:
        for i in range(0, rows, 10**6):
            part = np.random.default_rng(i).normal(size=(min(10**6, rows - i), FEATURES))
            file[i : i + len(part)] = part
            writer.write_table(pa.table(dict(zip(names, part.T, strict=True))))
    file.flush()
    half = [k < FEATURES // 2 for k in range(FEATURES)]
    masks = [half if k % 2 == 0 else [not m for m in half] for k in range(6)]
    spline, n = bj.RationalQuadratic(8, 5.0), FEATURES // 2
    nets = [bj.nets.MLP(n, spline.n_params * n, (128, 128), activation="relu") for _ in masks]
    core = bj.Chain(*(bj.Coupling(spline, m, net=net) for m, net in zip(masks, nets, strict=True)))
    scale = bj.Standardize(FEATURES, [0.0] * FEATURES, [1.0] * FEATURES)
    flow = bj.Flow(bj.Chain(scale, core), bj.StandardNormal(FEATURES))
    bj.testing.randomize(flow, seed=0, scale=0.1)
    schema = bj.Schema(columns=tuple(Column(name=name) for name in names), rows=rows)
    bj.apps.TableFlow(flow.double(), schema).save(work / "run")


def measure(command: list[str], threads: int) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak resident memory of a process."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:6])} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "wall": time.perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10**7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peers", help="Python of the environment with zuko")
    o = parser.parse_args()
    if not (o.work / "rows.npy").exists() or len(np.load(o.work / "rows.npy", mmap_mode="r")) != o.rows:
        child = multiprocessing.get_context("spawn").Process(target=prepare, args=(o.work, o.rows))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit("the rows could not be written")
    verb, run = [sys.executable, "-m", "bijectory"], str(o.work / "run")
    rows, scored, drawn = (str(o.work / name) for name in ("rows", "scored.parquet", "drawn.parquet"))
    programs: dict[str, list[str]] = {}
    if o.peers:  # first, for the others are compared with it
        programs["zuko, log_prob of rows.npy"] = [o.peers, "-c", ZUKO, f"{rows}.npy", str(o.work / "zuko.npy")]
    programs |= {
        "score rows.npy -o scored.parquet": [*verb, "score", run, f"{rows}.npy", "-o", scored],
        "score rows.parquet --json": [*verb, "score", run, f"{rows}.parquet", "--json"],
        "sample -o drawn.parquet": [*verb, "sample", run, "-n", str(o.rows), "--seed", "0", "-o", drawn],
    }
    found: dict[str, dict[str, float]] = {}
    print(f"{o.rows} x {FEATURES} rows, {o.threads} threads\n")
    print("| program | wall, s | CPU, s | rows a CPU second | zuko's wall, CPU over it | peak memory, GB |")
    print("|---|---|---|---|---|---|")
    for name, command in programs.items():
        m = found[name] = measure(command, o.threads)
        speed = f"{o.rows / m['cpu']:,.0f}"
        first = next(iter(found.values()))
        ratio = f"{first['wall'] / m['wall']:.2f}, {first['cpu'] / m['cpu']:.2f}" if o.peers else ""
        print(f"| {name} | {m['wall']:.0f} | {m['cpu']:.0f} | {speed} | {ratio} | {m['peak'] / 1e9:.2f} |", flush=True)
    (o.work / "scoring.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

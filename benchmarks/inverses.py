"""Inverting autoregressive flows: incremental, Jacobi, Gauss-Seidel-Jacobi, and what ``auto`` chooses.

Flows of three layers are fitted for a short while to the brightest pixels of scikit-learn's digits (dequantised), so that
their weights are trained ones. Every method must agree with the incremental one; then all are timed in turn, in one process
and one thread, and the medians of their CPU times printed, milliseconds for the whole flow. The rule of ``auto`` (see
``Autoregressive``) was read off this table:

    python benchmarks/inverses.py --features 6 16 32 63 --batch 1 16 64 128 256 512 8192
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import load_digits

import bijectory as bj

METHODS = ("incremental", "jacobi", "gauss-seidel-jacobi", "auto")


def pixels(features: int) -> torch.Tensor:
    data = load_digits().data
    data = data + np.random.default_rng(0).random(data.shape)
    data = data[:, np.argsort(-data.std(0))[:features]]
    return torch.tensor((data - data.mean(0)) / data.std(0), dtype=torch.float32)


def trained(recipe: str, features: int, epochs: int) -> bj.Flow:
    torch.manual_seed(0)
    flow = getattr(bj, recipe)(features, layers=3)
    bj.fit(flow, pixels(features), config=bj.FitConfig(epochs=epochs, batch_size=128, progress=False, seed=0))
    return flow


def choose(flow: bj.Flow, method: str) -> None:
    for layer in flow.modules():
        if isinstance(layer, bj.Autoregressive):
            layer.inverse_method = method


def sweeps(flow: bj.Flow, z: torch.Tensor) -> list[int]:
    """How many each layer takes by Jacobi iteration until nothing moves."""
    counts = []
    for layer in reversed(list(flow.transform)):
        if isinstance(layer, bj.Autoregressive):
            counts.append(layer.solve_inverse(z, method="jacobi").sweeps)
        z, _ = layer.inverse(z)
    return counts


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def row(flow: bj.Flow, n: int, repeats: int) -> tuple[dict[str, float], list[int], float]:
    z = torch.randn(n, *flow.event_shape, generator=torch.Generator().manual_seed(n))
    results, times = {}, {method: [] for method in METHODS}
    for repeat in range(repeats + 1):  # the first round warms up
        for method in METHODS:
            choose(flow, method)
            seconds = cpu_seconds(lambda: flow.to_data(z))
            if repeat:
                times[method].append(seconds)
            else:
                results[method] = flow.to_data(z)[0]
    apart = max((x - results["incremental"]).abs().max().item() for x in results.values())
    return {m: 1e3 * statistics.median(t) for m, t in times.items()}, sweeps(flow, z), apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["maf", "nsf_ar"])
    parser.add_argument("--features", type=int, nargs="*", default=[6, 63])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64, 512, 8192])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    print(f"| flow | features | rows | {' | '.join(METHODS)} | sweeps of the layers | largest difference |")
    print("|---|---|---|" + "---|" * (len(METHODS) + 2))
    for recipe in args.recipes:
        for features in args.features:
            flow = trained(recipe, features, args.epochs)
            with torch.no_grad():
                for n in args.batch:
                    times, counts, apart = row(flow, n, args.repeats)
                    cells = [f"{times[m]:.1f}" for m in METHODS] + [", ".join(map(str, counts)), f"{apart:.0e}"]
                    print(f"| {recipe} | {features} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""How far a training step of a spline flow is from its floor: its matrix products and its splines, and nothing else.

    python benchmarks/floor.py [--rounds 7]

The floor counts three products for each weight (forward, and two on the way back; of masked weights what the mask leaves),
at the rate of a large ``torch`` product in the same run, and the spline kernels on as many elements, timed alone. One
thread, medians of interleaved CPU times; the step is ``-log_prob(x).mean()``, its gradients and fused Adam, compiled.
"""

import argparse
import statistics
import time

import torch

import bijectory as bj
from bijectory.nets.masked import MaskedDense
from bijectory.nets.mlp import Dense
from bijectory.ops.native import pull, spline
from bijectory.ops.spline_bins import SplineGrid
from bijectory.transforms.chain import use_native

SIDE = 1024  # of the large product


def seconds(call, least: float = 0.1) -> float:
    """CPU seconds of one call, averaged over as many as take a tenth of a second."""
    start, count = time.process_time(), 0
    while time.process_time() - start < least:
        call()
        count += 1
    return (time.process_time() - start) / count


def flow(kind: str, features: int) -> bj.Flow:
    """The architectures of ``benchmarks.speed``."""
    torch.manual_seed(0)
    spline_, hidden = bj.RationalQuadratic(8, 5.0), (128, 128)
    if kind == "coupling":
        half = [i < features // 2 for i in range(features)]
        masks = [half if k % 2 == 0 else [not m for m in half] for k in range(6)]
        layers = [bj.Coupling(spline_, m, hidden=hidden) for m in masks]
    else:
        orders = [None if k % 2 == 0 else range(features - 1, -1, -1) for k in range(5)]
        layers = [bj.Autoregressive(spline_, features, 0, hidden, order) for order in orders]
    made = bj.Flow(bj.Chain(*layers), bj.StandardNormal(features))
    bj.testing.randomize(made, seed=0, scale=0.1)
    use_native(made)
    return made


def counts(model: bj.Flow, rows: int) -> tuple[int, int]:
    """Floating-point operations of all products of a step, and elements that pass a spline."""
    weights = sum(
        int(m._mask.sum()) if isinstance(m, MaskedDense) else m.weight.numel()
        for m in model.modules()
        if isinstance(m, (Dense, MaskedDense))
    )
    moved = sum(layer.features - getattr(layer, "n_kept", 0) for layer in model.transform)
    return 3 * 2 * rows * weights, rows * moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    a, b, grid = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), SplineGrid()
    x, phi = torch.randn(32, 2048).mT, torch.randn(grid.n_params, 32, 2048).transpose(1, 2)
    g = torch.ones_like(x)
    print("| flow | features, rows | step ms | products ms | splines ms | step / floor | GFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("coupling", "autoregressive"):
        for features, rows in ((43, 512), (63, 512), (63, 8192)):
            model, data = flow(kind, features), torch.randn(rows, features)
            optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

            def step(model=model, data=data, optimizer=optimizer) -> None:
                loss = -model.log_prob(data).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            step()
            seen = [
                (
                    seconds(step),
                    seconds(lambda: a @ b),
                    seconds(lambda: spline(x, phi, grid, inverse=False)),
                    seconds(lambda: pull(x, phi, g, g, grid, inverse=False)),
                )
                for _ in range(rounds)
            ]
            took, product, forward, back = (statistics.median(column) for column in zip(*seen, strict=True))
            operations, elements = counts(model, rows)
            rate = 2 * SIDE**3 / product
            floor = operations / rate, elements * (forward + back) / x.numel()
            figures = (took * 1e3, floor[0] * 1e3, floor[1] * 1e3, took / sum(floor), rate / 1e9)
            print(
                f"| {kind} | {features}, {rows} | {figures[0]:.1f} | {figures[1]:.1f} | {figures[2]:.1f} "
                f"| {figures[3]:.2f} | {figures[4]:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

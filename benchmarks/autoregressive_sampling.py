"""Sampling from autoregressive spline flows: the incremental inverse against zuko's NSF of the same size.

Both flows have the same number of layers, hidden widths and bins, and alternate the order of the features. Correctness
first: samples must map back to their noise. Then the contestants are timed in turn, in one process and one thread, and
the medians of their CPU times compared. Needs zuko next to bijectory:

    python benchmarks/autoregressive_sampling.py --features 63 --batch 512
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import zuko

import bijectory as bj


def build(features: int, layers: int, hidden: tuple[int, ...], bins: int) -> tuple[bj.Flow, torch.nn.Module]:
    spline, forwards, backwards = bj.RationalQuadratic(bins, 5.0), range(features), range(features - 1, -1, -1)
    steps = [bj.Autoregressive(spline, features, 0, hidden, (forwards, backwards)[k % 2]) for k in range(layers)]
    ours = bj.Flow(bj.Chain(*steps), bj.StandardNormal(features))
    theirs = zuko.flows.NSF(features, transforms=layers, hidden_features=hidden, bins=bins, randperm=False)
    return ours, theirs


def round_trip(flow: bj.Flow, batch: int) -> float:
    z = torch.randn(batch, *flow.event_shape)
    x, ladj = flow.to_data(z)
    back, inverse_ladj = flow.to_latent(x)
    return max((back - z).abs().max().item(), (ladj + inverse_ladj).abs().max().item())


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=63)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--hidden", type=int, nargs="*", default=[128, 128])
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)

    ours, theirs = build(args.features, args.layers, tuple(args.hidden), args.bins)
    frozen, d, n = ours.frozen(), args.features, args.batch
    error = round_trip(ours, n)
    if error > 1e-4:
        raise SystemExit(f"round trip error {error:.1e}: nothing to time")
    print(f"d={d} batch={n} layers={args.layers} hidden={args.hidden} bins={args.bins}: round trip error {error:.1e}")

    x = torch.randn(n, d)
    calls = {
        "zuko sample": lambda: theirs().sample((n,)),
        "bijectory sample": lambda: ours.sample(n),
        "bijectory frozen sample": lambda: frozen.sample(n),
        "bijectory sample + log_prob": lambda: ours.rsample_and_log_prob(n),
        "bijectory log_prob": lambda: ours.log_prob(x),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, call in calls.items():
            seconds = cpu_seconds(call)
            if repeat:
                times[name].append(seconds)
    reference = statistics.median(times["zuko sample"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:30s} {1e3 * median:9.1f} ms   {reference / median:6.1f} x zuko sample")


if __name__ == "__main__":
    main()

"""The inverse of a causal transformer layer: cached keys and values against full passes and against Jacobi sweeps.

Correctness first: the three must agree. Then they are timed in turn, in one process and one thread, and the medians of
their CPU times compared. The weights are random and of trained size; how soon Jacobi sweeps converge depends on them.

    python benchmarks/causal_sampling.py --tokens 64 --batch 64
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import bijectory as bj
from bijectory.testing import randomize


def by_full_passes(layer: bj.Causal, z: Tensor) -> Tensor:
    """One full pass of the network for every token."""
    x = torch.zeros_like(z)
    for t in range(layer.tokens):
        phi = layer.net(x).unflatten(-1, (layer.bijection.n_params, layer.features)).movedim(-2, 0)
        x[..., t, :] = layer.bijection.inverse(z, phi)[0][..., t, :]
    return x


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 64), ("features", 4), ("batch", 64), ("width", 64), ("depth", 2), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)

    layer = bj.Causal(bj.Inverted(bj.Affine()), args.tokens, args.features, 0, args.width, args.depth)
    randomize(layer, scale=0.15)
    z = torch.randn(args.batch, args.tokens, args.features)
    calls: dict[str, Callable[[], Tensor]] = {
        "cached": lambda: layer.inverse(z)[0],
        "full passes": lambda: by_full_passes(layer, z),
        "Jacobi": lambda: layer.jacobi(z, tolerance=args.tolerance).x,
        "one forward pass": lambda: layer.forward(z)[0],
    }
    exact = calls["cached"]()
    errors = {name: (calls[name]() - exact).abs().max().item() for name in ("full passes", "Jacobi")}
    if errors["full passes"] > 1e-3 or errors["Jacobi"] > 1e-2:
        raise SystemExit(f"the inverses disagree: {errors}")
    print(f"{vars(args)}: differences {errors}, Jacobi sweeps {layer.jacobi(z, tolerance=args.tolerance).sweeps}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(args.repeats):
        for name, call in calls.items():
            times[name].append(cpu_seconds(call))
    base = statistics.median(times["cached"])
    for name, seconds in times.items():
        print(
            f"{name:>16}: {statistics.median(seconds) * 1e3:8.1f} ms, {statistics.median(seconds) / base:6.2f} of cached"
        )


if __name__ == "__main__":
    main()

"""Memory and time of one training step with and without recomputed activations, at 8, 16, 32 and 64 layers.

Memory is counted twice: bytes that the autograd graph keeps for the backward pass (weights not counted; exact and the
same everywhere), and the growth of the peak resident size of a process that makes the step. Time is processor time, the
median of several steps, both kinds in turn.

    python benchmarks/reversible_memory.py [--kind glow|vectors] [--batch 16]
"""

import argparse
import statistics
import subprocess
import sys
import time

import torch

import bijectory as bj

DEPTHS = (8, 16, 32, 64)


def build(kind, layers, *, reversible):
    """A flow of ``layers`` steps on one scale, and the shape of an event."""
    if kind == "glow":
        shape = (3, 32, 32)
        return bj.glow(shape, scales=1, steps=layers, hidden=64, reversible=reversible), shape
    masks = [tuple((i < 32) == (k % 2 == 0) for i in range(64)) for k in range(layers)]
    chain = bj.Chain(*(t for mask in masks for t in (bj.LU(64), bj.Coupling(bj.Affine(), mask))))
    return bj.Flow(bj.Reversible(chain) if reversible else chain, bj.StandardNormal(64)), (64,)


def step(flow, x):
    """One training step without the optimiser."""
    flow.zero_grad()
    (-flow.log_prob(x).mean()).backward()


def kept(flow, x):
    """Bytes that the graph keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in flow.parameters()}
    seen = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address comes twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        flow.log_prob(x)
    return sum(size for size, _ in seen.values())


def high_water():
    """Peak resident size of this process in MB since it was last reset (Linux)."""
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def peak(kind, layers, batch, *, reversible):
    """Growth of this process's peak resident size in MB during one step, after a step of two rows."""
    flow, shape = build(kind, layers, reversible=reversible)
    step(flow, 128 + torch.randn(2, *shape))
    x = 128 + torch.randn(batch, *shape)
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")  # resets the peak to the present size
    before = high_water()
    step(flow, x)
    return high_water() - before


def seconds(kind, layers, batch, repeats=5):
    """Median processor time of a step, plain and reversible, measured in turn."""
    runs = {False: [], True: []}
    flows = {r: build(kind, layers, reversible=r) for r in runs}
    for k in range(repeats + 1):
        for r, (flow, shape) in flows.items():
            x = 128 + torch.randn(batch, *shape)
            start = time.process_time()
            step(flow, x)
            if k:  # the first is a warm-up
                runs[r].append(time.process_time() - start)
    return [statistics.median(runs[r]) for r in (False, True)]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("glow", "vectors"), default="glow")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--peak", nargs=2, type=int, metavar=("LAYERS", "REVERSIBLE"), help="measure one peak and print it"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        print(peak(options.kind, options.peak[0], options.batch, reversible=bool(options.peak[1])))
        return
    print("layers | kept MB plain, reversible | peak MB plain, reversible | s plain, reversible | ratio of time")
    for layers in DEPTHS:
        memory, peaks = [], []
        for reversible in (False, True):
            flow, shape = build(options.kind, layers, reversible=reversible)
            memory.append(kept(flow, 128 + torch.randn(options.batch, *shape)) / 2**20)
            command = [sys.executable, __file__, "--kind", options.kind, "--batch", str(options.batch)]
            command += ["--peak", str(layers), str(int(reversible))]
            peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        plain, flat = seconds(options.kind, layers, options.batch)
        row = [*memory, *peaks]
        print(
            f"{layers} | " + " | ".join(f"{v:.1f}" for v in row) + f" | {plain:.3f} | {flat:.3f} | {flat / plain:.2f}"
        )


if __name__ == "__main__":
    main()

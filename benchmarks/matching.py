"""Flow matching on two-dimensional densities: nats lost, straightness, and evaluations of the velocity at equal error.

The same network is trained by likelihood (as FFJORD, with the exact trace), by flow matching with independent and with
optimal-transport pairs, and by one round of reflow from either of these. Each field is then solved with fewer and fewer
steps of the midpoint method: how many evaluations until the log-likelihoods of held-out rows, and draws from fixed noise,
are within a tolerance of the exact solution of *that* field?

    python benchmarks/matching.py [--targets "two moons,eight modes"] [--steps 3000]
"""

import argparse
import copy
import math
import time

import torch

import bijectory as bj
from bijectory.nets import TimeMLP

TARGETS = {
    "two moons": lambda: bj.TwoMoons(),
    "eight modes": lambda: bj.GaussianRing(),
    "checkerboard": lambda: bj.Checkerboard(),
}
ROWS, HELD_OUT, BATCH = 20_000, 2_000, 512
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
NATS, UNITS = (
    0.02,
    0.02,
)  # mean absolute error of log-likelihoods; root mean square error of draws, in standard deviations


def build(x, hidden):
    scale = bj.Standardize(2)
    scale.initialize(x)
    field = TimeMLP(2, 0, (hidden, hidden), "silu")
    return bj.Flow(bj.Chain(scale, bj.Continuous(field)), bj.StandardNormal(2))


def solved(flow, **solver):
    """The same flow with another solver."""
    prefix, layer = flow.transform
    return bj.Flow(bj.Chain(prefix, bj.Continuous(layer.field, **solver)), flow.base).eval()


def train(flow, data, objective, epochs, lr):
    config = bj.FitConfig(
        epochs=epochs, batch_size=BATCH, lr=lr, ema_decay=0.999, patience=None, progress=False, seed=0
    )
    start = time.process_time()
    bj.fit(flow, data, objective=objective, config=config)
    return time.process_time() - start


@torch.no_grad()
def measure(flow, target, test, noise):
    tight = solved(flow, steps=None, rtol=1e-6, atol=1e-6)
    log_q, x = tight.log_prob(test), tight.to_data(noise)[0]
    scale = flow.transform[0].forward(x)[0].std()
    gap = target.log_prob(test) - log_q
    row = {
        "gap": float(gap.mean()),
        "se": float(gap.std() / math.sqrt(len(gap))),
        "straightness": bj.straightness(flow),
    }
    row["nfe density"] = row["nfe draws"] = None
    for steps in GRID:
        rough = solved(flow, method="midpoint", steps=steps)
        if row["nfe density"] is None and float((rough.log_prob(test) - log_q).abs().mean()) < NATS:
            row["nfe density"] = 2 * steps
        error = flow.transform[0].forward(rough.to_data(noise)[0])[0] - flow.transform[0].forward(x)[0]
        if row["nfe draws"] is None and float(error.square().mean().sqrt() / scale) < UNITS:
            row["nfe draws"] = 2 * steps
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--targets", default="two moons,eight modes")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--likelihood", action="store_true", help="train by likelihood too, ten times as long")
    args = parser.parse_args()
    torch.set_num_threads(1)
    epochs = max(1, args.steps * BATCH // (ROWS * 9 // 10))
    print("| target | training | CPU s | nats lost | straightness | evaluations, density | evaluations, draws |")
    print("|---|---|---|---|---|---|---|")
    for label in args.targets.split(","):
        target = TARGETS[label]()
        g = torch.Generator().manual_seed(0)
        x, test = target.sample(ROWS, generator=g), target.sample(HELD_OUT, generator=g)
        noise = torch.randn(HELD_OUT, 2, generator=g)
        rows = {"independent": bj.FlowMatching(), "optimal transport": bj.FlowMatching(coupling=bj.OptimalTransport())}
        if args.likelihood:
            rows["likelihood"] = bj.nll
        for name, objective in rows.items():
            torch.manual_seed(0)
            flow = build(x, args.hidden)
            seconds = train(flow, x, objective, epochs, args.lr if objective is not bj.nll else args.lr / 2)
            show(label, name, seconds, measure(flow, target, test, noise))
            if objective is bj.nll:
                continue
            torch.manual_seed(0)
            again, pairs = copy.deepcopy(flow), bj.reflow(flow, ROWS)
            seconds = train(again, tuple(pairs), bj.FlowMatching(coupling=bj.Paired()), epochs, args.lr)
            show(label, f"{name}, reflow", seconds, measure(again, target, test, noise))


def show(label, name, seconds, row):
    density, draws = (row[k] or f"> {2 * GRID[-1]}" for k in ("nfe density", "nfe draws"))
    print(
        f"| {label} | {name} | {seconds:.0f} | {row['gap']:.3f} ± {row['se']:.3f} | {row['straightness']:.3f} "
        f"| {density} | {draws} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

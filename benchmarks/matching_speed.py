"""A step of flow matching against torchcfm: the same network, batch and optimiser, in turns in one process.

    python benchmarks/matching_speed.py      # in an environment with bijectory, torchcfm and pot

Both sides draw noise and times, pair (or not), evaluate a perceptron of the same widths and take a step of Adam. Optimal
transport is exact in both: over the whole batch, and over blocks of 128 rows, the default here. The losses agree in
expectation; their means over many batches at the same weights are printed as a check.
"""

import itertools
import statistics
import time

import torch
from torchcfm import ConditionalFlowMatcher, ExactOptimalTransportConditionalFlowMatcher

import bijectory as bj
from bijectory.objectives import FlowMatching, Independent, OptimalTransport

HIDDEN, REPEATS = (128, 128), 40
CELLS = [(2, 128), (2, 512), (6, 512), (64, 512)]


class Theirs:
    """The training loop of the examples of torchcfm; noise at 0 and data at 1."""

    def __init__(self, features: int, matcher: ConditionalFlowMatcher) -> None:
        layers: list[torch.nn.Module] = []
        widths = (features + 1, *HIDDEN)
        for a, b in itertools.pairwise(widths):
            layers += [torch.nn.Linear(a, b), torch.nn.SiLU()]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(HIDDEN[-1], features))
        self.matcher = matcher
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        t, xt, ut = self.matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)
        return (self.net(torch.cat([xt, t[:, None]], -1)) - ut).square().mean()

    def step(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(x).backward()
        self.optimizer.step()


class Ours:
    """``FlowMatching`` and the optimiser of ``fit``."""

    def __init__(self, features: int, coupling: object) -> None:
        field = bj.nets.TimeMLP(features, hidden=HIDDEN, activation="silu", frequencies=0)
        self.flow = bj.Flow(bj.Continuous(field), bj.StandardNormal(features)).train()
        self.objective = FlowMatching(coupling=coupling)
        self.optimizer = torch.optim.AdamW(self.flow.parameters(), 1e-3, weight_decay=0.0, fused=True)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return self.objective(self.flow, bj.Batch(x))

    def step(self, x: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(x).backward()
        self.optimizer.step()


def silence(net: torch.nn.Module) -> torch.nn.Module:
    """A network that answers 0: then the loss is the mean square of the target, whatever the architecture."""
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    return net


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("features  rows  pairs              torchcfm ms  ours ms  ratio   mean square of the targets (theirs, ours)")
    for features, rows in CELLS:
        x = torch.randn(rows, features) * 0.3 + torch.randint(0, 2, (rows, 1)) * 4 - 2
        for name, theirs, coupling in (
            ("independent", ConditionalFlowMatcher(sigma=0.0), Independent()),
            ("transport", ExactOptimalTransportConditionalFlowMatcher(sigma=0.0), OptimalTransport(rows)),
            ("transport, 128", ExactOptimalTransportConditionalFlowMatcher(sigma=0.0), OptimalTransport(128)),
        ):
            sides = [Theirs(features, theirs), Ours(features, coupling)]
            times: list[list[float]] = [[], []]
            for _ in range(REPEATS + 3):
                for side, seconds in zip(sides, times, strict=True):
                    began = time.process_time()
                    side.step(x)
                    seconds.append(time.process_time() - began)
            a, b = (1e3 * statistics.median(seconds[3:]) for seconds in times)
            silence(sides[0].net), silence(sides[1].flow.transform)
            with torch.no_grad():
                c, d = (statistics.fmean(float(side.loss(x)) for _ in range(30)) for side in sides)
            print(f"{features:8}  {rows:4}  {name:17} {a:12.2f} {b:8.2f} {a / b:6.2f}   {c:.3f}, {d:.3f}", flush=True)


if __name__ == "__main__":
    main()

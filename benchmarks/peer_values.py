"""Weights and log-densities of zuko and nflows, frozen for the tests of the importers (tests/data/peers).

Runs in the environment of the peers (`make bench` makes it): ``python benchmarks/peer_values.py``. Every flow gets random
weights that bend it well, a fixed seed, and 64 points, some of them outside the box of the splines.
"""

import json
import pathlib

import nflows.distributions
import nflows.flows
import torch
import zuko
from nflows import transforms as t
from nflows.nn.nets import ResidualNet
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "peers"
FEATURES, CONTEXT, WIDTH, BINS, BOUND, ROWS = 4, 2, 12, 5, 3.0, 64
MASKS = (torch.tensor([1, 0, 1, 0]), torch.tensor([0, 1, 0, 1]))


def zuko_flows():
    small = {"transforms": 2, "hidden_features": (WIDTH, WIDTH)}
    yield "zuko_maf", zuko.flows.MAF(FEATURES, **small), 0
    yield "zuko_maf_context", zuko.flows.MAF(FEATURES, CONTEXT, randperm=True, **small), CONTEXT
    yield "zuko_nsf", zuko.flows.NSF(FEATURES, bins=BINS, **small), 0
    yield "zuko_nsf_context", zuko.flows.NSF(FEATURES, CONTEXT, bins=BINS, **small), CONTEXT
    yield "zuko_nsf_coupling", zuko.flows.NSF(FEATURES, CONTEXT, bins=BINS, passes=2, **small), CONTEXT


def nflows_layer(kind, k, context):
    def net(inputs, outputs):
        return ResidualNet(inputs, outputs, WIDTH, context_features=context)

    spline = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
    if kind == "affine_coupling":
        return t.AffineCouplingTransform(MASKS[k % 2], net)
    if kind == "additive_coupling":
        return t.AdditiveCouplingTransform(MASKS[k % 2], net)
    if kind == "spline_coupling":
        return t.PiecewiseRationalQuadraticCouplingTransform(MASKS[k % 2], net, **spline)
    if kind == "masked_affine":
        return t.MaskedAffineAutoregressiveTransform(FEATURES, WIDTH, context_features=context)
    return t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        FEATURES, WIDTH, context_features=context, **spline
    )


def nflows_flows():
    for kind in ("affine_coupling", "additive_coupling", "spline_coupling", "masked_affine", "masked_spline"):
        context = None if kind in ("additive_coupling", "masked_affine") else CONTEXT
        layers = [t.PointwiseAffineTransform(torch.full((FEATURES,), 0.25), torch.full((FEATURES,), 0.5))]
        for k in range(2):
            layers += [t.RandomPermutation(FEATURES), nflows_layer(kind, k, context)]
        base = nflows.distributions.StandardNormal([FEATURES])
        yield f"nflows_{kind}", nflows.flows.Flow(t.CompositeTransform(layers), base), context or 0


def freeze(name, flow, context):
    generator = torch.Generator().manual_seed(1)
    flow.eval()
    x = 1.5 * torch.randn(ROWS, FEATURES, generator=generator)
    c = torch.randn(ROWS, context, generator=generator)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=generator))
        if name.startswith("zuko"):
            there = flow(c) if context else flow()
            z, log_prob = there.transform(x), there.log_prob(x)
        else:
            given = c if context else None
            z, log_prob = flow.transform_to_noise(x, given), flow.log_prob(x, given)
    tensors = {f"state.{k}": v.contiguous() for k, v in flow.state_dict().items()}
    tensors |= {"x": x, "c": c, "z": z.contiguous(), "log_prob": log_prob.contiguous()}
    versions = {"zuko": zuko.__version__, "nflows": "0.14", "torch": torch.__version__, "bound": BOUND}
    save_file(tensors, OUT / f"{name}.safetensors", metadata={"versions": json.dumps(versions)})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for make in (zuko_flows, nflows_flows):
        torch.manual_seed(0)
        for name, flow, context in make():
            freeze(name, flow, context)
            print(name)

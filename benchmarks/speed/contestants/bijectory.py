"""Bijectory, eager, and variants: ``frozen`` for evaluation; ``compiled``, frozen too for evaluation; ``regions``."""

import functools

import torch

import bijectory as bj
from bijectory.training.update import Update
from bijectory.transforms.chain import compile_regions, sink_of, use_native

from . import (
    AUTOREGRESSIVE,
    BINS,
    BOUND,
    CHANNELS,
    CONTRACTION,
    COUPLINGS,
    FREQUENCIES,
    HIDDEN,
    IMAGE,
    PLANAR,
    RESIDUAL,
    SCALES,
    STEPS,
    VELOCITY,
)
from .torch_operations import TorchContestant, spread


def chain(family: str, features: int) -> bj.Transform:
    spline, affine = bj.RationalQuadratic(BINS, BOUND), bj.Affine()
    if family in ("real_nvp", "nsf_coupling"):
        scalar = affine if family == "real_nvp" else spline
        half = [i < features // 2 for i in range(features)]
        masks = [half if k % 2 == 0 else [not m for m in half] for k in range(COUPLINGS)]
        nets = [bj.nets.MLP(sum(m), scalar.n_params * (features - sum(m)), HIDDEN, activation="relu") for m in masks]
        return bj.Chain(*(bj.Coupling(scalar, m, net=net) for m, net in zip(masks, nets, strict=True)))
    if family == "planar":
        return bj.planar(features, layers=PLANAR, acts_on="noise").transform
    if family == "residual":
        return bj.residual(features, layers=RESIDUAL, hidden=CONTRACTION, ladj="roulette").transform
    if family == "glow":
        return images()
    if family == "glow_recipe":
        return bj.glow(IMAGE, scales=SCALES, steps=STEPS, hidden=CHANNELS).transform[1]  # without the logit of pixels
    if family == "cnf":
        field = bj.nets.TimeMLP(features, hidden=VELOCITY, frequencies=FREQUENCIES)
        return bj.Continuous(field, method="rk4", steps=17)  # as accurate as zuko at its tolerance
    scalar, orders = (affine if family == "maf" else spline), (None, range(features - 1, -1, -1))
    masked = functools.partial(bj.nets.MaskedMLP, features, scalar.n_params, HIDDEN, activation="relu")
    nets = [masked(order=orders[k % 2]) for k in range(AUTOREGRESSIVE)]
    return bj.Chain(*(bj.Autoregressive(scalar, features, net=net) for net in nets))


def images() -> bj.Transform:
    """Glow as the peers have it: what leaves a scale has no prior of its own."""
    channels, levels = IMAGE[0], []
    for scale in range(SCALES):
        channels = channels * 4 // (2 if scale else 1)
        steps: list[bj.Transform] = [bj.Squeeze()]
        for k in range(STEPS):
            coupling = bj.ImageCoupling(bj.Affine(), channels, hidden=CHANNELS)
            steps += [bj.ActNorm(channels, event_dim=3), bj.Conv1x1(channels, seed=scale * STEPS + k), coupling]
        levels.append(bj.Chain(*steps))
    return bj.Multiscale(*levels, shape=IMAGE)


class Contestant(TorchContestant):
    def __init__(self, family: str, features: int, variant: str) -> None:
        flow = bj.Flow(chain(family, features), bj.StandardNormal(features))
        # Identity layers would be too kind to root searches and splines alike: small random weights.
        if family == "cnf":
            spread(flow)
        elif family not in ("residual", "glow", "glow_recipe"):  # these start with weights that do something
            bj.testing.randomize(flow, seed=0, scale=0.1)
        super().__init__(flow)
        self.family, self.variant = family, variant
        if family == "residual":
            pass  # evaluation mode takes 16 probes; here the estimate is that of training, as the peer's
        elif variant == "frozen":
            self.evaluation = flow.frozen()
        elif variant in ("compiled", "regions"):
            backend = "native" if variant == "compiled" else "inductor"
            self.evaluation = flow.frozen().compiled(backend=backend)

    def training(self, model):
        self.sink = None
        if self.variant == "compiled":
            use_native(model)
            self.sink = sink_of(model.transform)
        elif self.variant == "regions":
            compile_regions(model)
        return model

    def optimizer(self, params):
        """As ``fit`` moves weights."""
        adam = torch.optim.AdamW(params, 1e-4, weight_decay=0.0, fused=True)
        update = Update(adam, params)
        update.lend(self.sink)
        return update.forget, functools.partial(update.step, 1e-4)

    def error(self, features):
        return float("nan") if self.family == "residual" else super().error(features)

    def fine(self, model):
        if isinstance(model.transform, bj.Continuous):
            model.transform.steps *= 8
        return model

    def log_prob(self, model, x):
        return model.log_prob(x)

    def sample(self, model, n):
        return model.sample(n)

    def sample_log_prob(self, model, n):
        return model.rsample_and_log_prob(n)


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features, variant)

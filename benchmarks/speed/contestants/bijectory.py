"""Bijectory, eager, and two ways to make it faster for evaluation: ``frozen`` and ``compiled``."""

import bijectory as bj

from . import AUTOREGRESSIVE, BINS, BOUND, COUPLINGS, FREQUENCIES, HIDDEN, PLANAR, VELOCITY
from .torch_operations import TorchContestant, spread


def chain(family: str, features: int) -> bj.Transform:
    spline, affine = bj.RationalQuadratic(BINS, BOUND), bj.Affine()
    if family in ("real_nvp", "nsf_coupling"):
        scalar = affine if family == "real_nvp" else spline
        half = [i < features // 2 for i in range(features)]
        masks = [half if k % 2 == 0 else [not m for m in half] for k in range(COUPLINGS)]
        return bj.Chain(*(bj.Coupling(scalar, m, hidden=HIDDEN) for m in masks))
    if family == "planar":
        return bj.planar(features, layers=PLANAR).transform
    if family == "cnf":
        field = bj.nets.TimeMLP(features, hidden=VELOCITY, frequencies=FREQUENCIES)
        return bj.Continuous(
            field, steps=12
        )  # as accurate as zuko at its tolerance; the default 8 are ten times less so
    scalar, orders = (affine if family == "maf" else spline), (None, range(features - 1, -1, -1))
    return bj.Chain(*(bj.Autoregressive(scalar, features, 0, HIDDEN, orders[k % 2]) for k in range(AUTOREGRESSIVE)))


class Contestant(TorchContestant):
    fused = True

    def __init__(self, family: str, features: int, variant: str) -> None:
        flow = bj.Flow(chain(family, features), bj.StandardNormal(features))
        # Identity layers would be too kind to root searches and splines alike: small random weights.
        if family == "cnf":
            spread(flow)
        else:
            bj.testing.randomize(flow, seed=0, scale=0.1)
        super().__init__(flow)
        self.variant = variant
        if variant == "frozen":
            self.evaluation = flow.frozen()
        elif variant == "compiled":
            self.evaluation = flow.compiled()

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

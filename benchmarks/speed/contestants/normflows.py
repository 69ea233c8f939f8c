"""normflows: its coupling blocks, spline wrappers (with residual networks: one block is two hidden layers), MAF, planar."""

import normflows as nf
import torch

from . import (
    AUTOREGRESSIVE,
    BINS,
    BOUND,
    CHANNELS,
    CONTRACTION,
    COUPLINGS,
    HIDDEN,
    IMAGE,
    PLANAR,
    RESIDUAL,
    SCALES,
    STEPS,
)
from .torch_operations import TorchContestant


def glow() -> torch.nn.Module:
    bases, flows, merges, (channels, side, _) = [], [], [], IMAGE
    for i in range(SCALES):  # from the deepest scale up, as its own examples build it
        up = SCALES - i
        blocks = [nf.flows.GlowBlock(channels * 2 ** (up + 1), CHANNELS, scale_map="exp") for _ in range(STEPS)]
        flows.append([*blocks, nf.flows.Squeeze()])
        merges += [nf.flows.Merge()] if i else []
        shape = (
            (channels * 2**up, side // 2**up, side // 2**up)
            if i
            else (channels * 2 ** (up + 1), side // 2**up, side // 2**up)
        )
        bases.append(nf.distributions.DiagGaussian(shape, trainable=False))
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)


def model(family: str, features: int) -> torch.nn.Module:
    width, layers = HIDDEN[0], []
    if family == "glow":
        return glow()
    if family == "real_nvp":
        for k in range(COUPLINGS):
            kept = features // 2 if k % 2 == 0 else features - features // 2
            net = nf.nets.MLP([kept, *HIDDEN, 2 * (features - kept)])
            if k % 2:
                layers += [nf.flows.Permute(features, mode="swap")]
            layers.append(nf.flows.AffineCouplingBlock(net))
    elif family == "nsf_coupling":
        layers = [
            nf.flows.CoupledRationalQuadraticSpline(
                features, len(HIDDEN) - 1, width, num_bins=BINS, tail_bound=BOUND, reverse_mask=bool(k % 2)
            )
            for k in range(COUPLINGS)
        ]
    elif family == "maf":
        layers = [
            nf.flows.MaskedAffineAutoregressive(features, width, num_blocks=len(HIDDEN), use_residual_blocks=False)
            for _ in range(AUTOREGRESSIVE)
        ]
    elif family == "nsf_ar":
        layers = [
            nf.flows.AutoregressiveRationalQuadraticSpline(
                features, len(HIDDEN) - 1, width, num_bins=BINS, tail_bound=BOUND
            )
            for _ in range(AUTOREGRESSIVE)
        ]
    elif family == "residual":
        for _ in range(RESIDUAL):
            net = nf.nets.LipschitzMLP([features, *CONTRACTION, features], init_zeros=False, lipschitz_const=0.9)
            layers += [nf.flows.Residual(net, reverse=True), nf.flows.ActNorm((features,))]
    elif family == "planar":
        layers = [nf.flows.Planar((features,)) for _ in range(PLANAR)]
    else:
        raise LookupError(family)
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), layers)


class Contestant(TorchContestant):
    def __init__(self, family: str, features: int) -> None:
        super().__init__(model(family, features))
        self.family = family

    def log_prob(self, model, x):
        if self.family == "planar":
            raise LookupError("planar layers of normflows have no inverse")
        return model.log_prob(x, None) if self.family == "glow" else model.log_prob(x)

    def sample(self, model, n):
        return model.sample(n)[0]

    def sample_log_prob(self, model, n):
        return model.sample(n)

    def error(self, features: int) -> float:
        return float("nan") if self.family in ("planar", "residual") else super().error(features)


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features)

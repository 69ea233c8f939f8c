"""normflows: its coupling blocks, spline wrappers, MAF and planar layers."""

import normflows as nf
import torch

from . import AUTOREGRESSIVE, BINS, BOUND, COUPLINGS, HIDDEN, PLANAR
from .torch_operations import TorchContestant


def model(family: str, features: int) -> torch.nn.Module:
    width, layers = HIDDEN[0], []
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
                features, len(HIDDEN), width, num_bins=BINS, tail_bound=BOUND, reverse_mask=bool(k % 2)
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
                features, len(HIDDEN), width, num_bins=BINS, tail_bound=BOUND
            )
            for _ in range(AUTOREGRESSIVE)
        ]
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
        return model.log_prob(x)

    def sample(self, model, n):
        return model.sample(n)[0]

    def sample_log_prob(self, model, n):
        return model.sample(n)

    def error(self, features: int) -> float:
        return float("nan") if self.family == "planar" else super().error(features)


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features)

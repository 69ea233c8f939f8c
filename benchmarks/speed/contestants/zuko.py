"""zuko: couplings are its masked transforms with two passes."""

import torch
import zuko
from zuko.flows import CNF, MAF, NSF, Flow, GeneralCouplingTransform, UnconditionalDistribution

from . import AUTOREGRESSIVE, BINS, COUPLINGS, FREQUENCIES, HIDDEN, TOLERANCE, VELOCITY
from .torch_operations import TorchContestant, spread


def model(family: str, features: int) -> torch.nn.Module:
    if family in ("real_nvp", "nsf_coupling"):
        half = torch.arange(features) < features // 2
        spline = {
            "univariate": zuko.transforms.MonotonicRQSTransform,
            "shapes": [(BINS,), (BINS,), (BINS - 1,)],
        }
        kind = spline if family == "nsf_coupling" else {}
        layers = [
            GeneralCouplingTransform(features, 0, mask=half if k % 2 == 0 else ~half, hidden_features=HIDDEN, **kind)
            for k in range(COUPLINGS)
        ]
        normal = zuko.distributions.DiagNormal
        return Flow(layers, UnconditionalDistribution(normal, torch.zeros(features), torch.ones(features), buffer=True))
    if family == "maf":
        return MAF(features, transforms=AUTOREGRESSIVE, hidden_features=HIDDEN)
    if family == "nsf_ar":
        return NSF(features, bins=BINS, transforms=AUTOREGRESSIVE, hidden_features=HIDDEN)
    if family == "cnf":
        net = {"hidden_features": VELOCITY, "activation": torch.nn.Tanh, "freqs": FREQUENCIES}
        return spread(CNF(features, **net, atol=TOLERANCE, rtol=TOLERANCE))
    raise LookupError(family)


class Contestant(TorchContestant):
    def fine(self, model):
        if isinstance(model, CNF):
            model.transform.atol = model.transform.rtol = 1e-10
        return model

    def log_prob(self, model, x):
        return model().log_prob(x)

    def sample(self, model, n):
        return model().sample((n,))

    def sample_log_prob(self, model, n):
        return model().rsample_and_log_prob((n,))


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(model(family, features))

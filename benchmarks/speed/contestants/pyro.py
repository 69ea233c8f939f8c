"""Pyro: its transforms over a ``TransformedDistribution``; conditioned networks are modules of their own."""

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.nn import AutoRegressiveNN, DenseNN

from . import AUTOREGRESSIVE, BINS, BOUND, COUPLINGS, HIDDEN, PLANAR
from .torch_operations import TorchContestant


class Flow(torch.nn.Module):
    """Transforms in the order latent -> data, as Pyro composes them."""

    def __init__(self, features: int, steps: list) -> None:
        super().__init__()
        self.steps = steps
        # The inverse of a module is no module; what it inverts is.
        owners = [s if isinstance(s, torch.nn.Module) else getattr(s, "_inv", None) for s in steps]
        self.owners = torch.nn.ModuleList(m for m in owners if isinstance(m, torch.nn.Module))
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def distribution(self):
        # Pyro remembers the last pair of points; a benchmark that asks again for the same rows must not be answered by it.
        for step in self.steps:
            getattr(step, "clear_cache", lambda: None)()
        return dist.TransformedDistribution(dist.Normal(self.loc, self.scale).to_event(1), list(self.steps))


def model(family: str, features: int) -> torch.nn.Module:
    steps: list = []
    flip = torch.arange(features - 1, -1, -1)
    half = features // 2
    for k in range({"planar": PLANAR, "real_nvp": COUPLINGS, "nsf_coupling": COUPLINGS}.get(family, AUTOREGRESSIVE)):
        if family == "planar":
            steps.append(T.Planar(features))
            continue
        if k:
            steps.append(T.Permute(flip))
        if family == "real_nvp":
            steps.append(T.AffineCoupling(half, DenseNN(half, list(HIDDEN), [features - half] * 2)))
        elif family == "nsf_coupling":
            sizes = [(features - half) * n for n in (BINS, BINS, BINS - 1)]
            net = DenseNN(half, list(HIDDEN), sizes)
            steps.append(T.SplineCoupling(features, half, net, BINS, BOUND, order="quadratic", identity=True))
        elif family == "maf":
            steps.append(T.AffineAutoregressive(AutoRegressiveNN(features, list(HIDDEN))).inv)
        elif family == "nsf_ar":
            net = AutoRegressiveNN(features, list(HIDDEN), param_dims=[BINS, BINS, BINS - 1])
            steps.append(T.SplineAutoregressive(features, net, BINS, BOUND, order="quadratic").inv)
        else:
            raise LookupError(family)
    return Flow(features, steps)


class Contestant(TorchContestant):
    def __init__(self, family: str, features: int) -> None:
        super().__init__(model(family, features))
        self.family, self.features = family, features

    def clone(self, model_):
        # A deep copy of a transform still refers to the inverse of the first one.
        copied = model(self.family, self.features)
        copied.load_state_dict(model_.state_dict())
        return copied

    def log_prob(self, model, x):
        if self.family == "planar":
            raise LookupError("planar layers of Pyro have no inverse")
        return model.distribution().log_prob(x)

    def sample(self, model, n):
        return model.distribution().sample((n,))

    def sample_log_prob(self, model, n):
        d = model.distribution()
        x = d.rsample((n,))
        return x, d.log_prob(x)

    def error(self, features: int) -> float:
        return float("nan") if self.family == "planar" else super().error(features)


def build(family: str, features: int, variant: str = "") -> Contestant:
    return Contestant(family, features)

"""FFJORD on torchdiffeq: Dormand-Prince with adaptive steps, one probe, gradients by the adjoint."""

import itertools
import math

import torch
from torchdiffeq import odeint, odeint_adjoint

from . import FREQUENCIES, TOLERANCE, VELOCITY
from .torch_operations import TorchContestant, spread


class Velocity(torch.nn.Module):
    """``(t, (z, log-determinant)) -> slopes``; without a probe that of ``z`` alone."""

    def __init__(self, features: int) -> None:
        super().__init__()
        widths = (features + 2 * FREQUENCIES, *VELOCITY, features)
        layers = [torch.nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
        self.net = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
        self.tolerance, self.probe = TOLERANCE, None
        self.register_buffer("frequencies", math.pi * torch.arange(1, FREQUENCIES + 1))

    def velocity(self, t, z):
        angles = (self.frequencies * t).to(z)
        clock = torch.cat((angles.cos(), angles.sin())).expand(len(z), -1)
        return self.net(torch.cat((clock, z), -1))

    def forward(self, t, state):
        if self.probe is None:
            return (self.velocity(t, state[0]),)
        with torch.enable_grad():
            z = state[0].requires_grad_()
            v = self.velocity(t, z)
            (pulled,) = torch.autograd.grad(v, z, self.probe, create_graph=True)
            return v, (pulled * self.probe).sum(-1)


class Contestant(TorchContestant):
    def fine(self, model):
        model.tolerance = 1e-10
        return model

    def solve(self, model, state, times):
        solve = odeint_adjoint if torch.is_grad_enabled() else odeint
        ends = torch.tensor(times, dtype=state[0].dtype)
        return [u[-1] for u in solve(model, state, ends, rtol=model.tolerance, atol=model.tolerance, method="dopri5")]

    def log_prob(self, model, x):
        g = torch.Generator().manual_seed(3)
        model.probe = (torch.randint(0, 2, x.shape, generator=g) * 2 - 1).to(x)
        z, ladj = self.solve(model, (x, torch.zeros_like(x[:, 0])), (0.0, 1.0))
        return ladj - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    def sample(self, model, n):
        model.probe = None
        return self.solve(model, (torch.randn(n, model.net[-1].out_features),), (1.0, 0.0))[0]

    def sample_log_prob(self, model, n):
        z = torch.randn(n, model.net[-1].out_features)
        model.probe = torch.randn_like(z).sign()
        x, ladj = self.solve(model, (z, torch.zeros(n)), (1.0, 0.0))
        return x, -ladj - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def build(family: str, features: int, variant: str = "") -> Contestant:
    if family != "cnf":
        raise LookupError(family)
    return Contestant(spread(Velocity(features)))

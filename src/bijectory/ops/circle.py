r"""Angles on a circle of circumference :math:`2B`, written as numbers in :math:`[-B, B]`."""

import math

import numpy as np
import torch
from torch import Tensor

_NODES = 48


def wrap(x: Tensor, bound: float) -> Tensor:
    """The representative of ``x`` in ``[-bound, bound]``; slope 1 everywhere."""
    turns = torch.floor((x.detach() + bound) / (2 * bound)) * (2 * bound)
    return (x - turns).clamp(-bound, bound)


def log_bessel(concentration: Tensor) -> Tensor:
    r""":math:`\log I_0(\kappa) - \kappa`, which neither overflows nor cancels."""
    return torch.special.i0e(concentration).log()


def von_mises_cdf(angle: Tensor, concentration: Tensor) -> Tensor:
    r"""Mass of the von Mises law between 0 and ``angle`` (radians), odd in ``angle``, by Gauss-Legendre quadrature.

    The integrand is Gaussian-like of width :math:`1/\sqrt\kappa`; nodes are spent on the first twelve widths at most.
    """
    x, w = (torch.tensor(v, dtype=angle.dtype, device=angle.device) for v in np.polynomial.legendre.leggauss(_NODES))
    reach = 12 / (concentration.detach() + 1e-9).sqrt()
    end = torch.minimum(torch.maximum(angle, -reach), reach).unsqueeze(-1)
    t = end * (x + 1) / 2
    kappa = concentration.unsqueeze(-1)
    density = (-2 * kappa * (t / 2).sin().square() - log_bessel(kappa)).exp() / (2 * math.pi)
    return (w * density).sum(-1) * end.squeeze(-1) / 2


def von_mises(size: torch.Size, concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    """Exact draws around 0 in radians (Best and Fisher 1979): rejection from a wrapped Cauchy, at least 0.66 accepted.

    Args:
        size: Shape of the draws.
        concentration: Broadcastable against ``size``.
        generator: Source of randomness.
    """
    dtype, device = concentration.dtype, concentration.device
    kappa = concentration.double().clamp(min=1e-6)  # below, uniform to double precision of any count of draws
    tau = 1 + (1 + 4 * kappa.square()).sqrt()
    rho = (tau - (2 * tau).sqrt()) / (2 * kappa)
    r = ((1 + rho.square()) / (2 * rho)).expand(size)
    kappa = kappa.expand(size)
    angle, open_ = (
        torch.zeros(size, dtype=torch.float64, device=device),
        torch.ones(size, dtype=torch.bool, device=device),
    )
    while bool(open_.any()):
        u = torch.rand((3, *size), generator=generator, dtype=torch.float64, device=device)
        z = (math.pi * u[0]).cos()
        f = (1 + r * z) / (r + z)
        c = kappa * (r - f)
        accepted = open_ & ((c / u[1].clamp(min=1e-300)).log() + 1 - c >= 0)
        angle = torch.where(accepted, torch.where(u[2] > 0.5, 1.0, -1.0) * f.clamp(-1, 1).acos(), angle)
        open_ = open_ & ~accepted
    return angle.to(dtype)

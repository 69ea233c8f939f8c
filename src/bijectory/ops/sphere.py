r"""The von Mises-Fisher law of the sphere in :math:`\mathbb R^n`: normaliser, mass of a cap, exact draws.

The angle :math:`\theta` to the mean has density
:math:`e^{-2\kappa\sin^2(\theta/2)} \sin^{n-2}\theta` up to a constant, smooth for every whole :math:`n \ge 2`, so that
Gauss-Legendre nodes over the part that matters give all digits. Everything is float64 inside.

References:
    Simulation of the von Mises Fisher distribution, Wood 1994, Communications in Statistics 23(1).
"""

import math

import torch
from torch import Tensor

from bijectory.ops.quadrature import quadrature

_NODES, _WEIGHTS = quadrature("gauss-legendre", 96)


def log_area(features: int) -> float:
    r"""Logarithm of the area :math:`2\pi^{n/2}/\Gamma(n/2)` of the unit sphere in :math:`\mathbb R^n`.

    Example:
        >>> round(math.exp(log_area(3)), 4)  # 4 pi
        12.5664
    """
    return math.log(2) + features / 2 * math.log(math.pi) - math.lgamma(features / 2)


def _log_density(angle: Tensor, kappa: Tensor, features: int) -> Tensor:
    """Logarithm of the unnormalised density of the angle."""
    power = (features - 2) * angle.sin().clamp(min=1e-300).log() if features > 2 else 0.0
    return -2 * kappa * (angle / 2).sin().square() + power


def _integral(end: Tensor, kappa: Tensor, features: int) -> Tensor:
    """Logarithm of the integral of the density of the angle from 0 to ``end``."""
    x, w = (torch.tensor(v, dtype=torch.float64, device=kappa.device) for v in (_NODES, _WEIGHTS))
    reach = (12 + features**0.5) / kappa.detach().sqrt()  # beyond, less than exp(-72) of the mass is left
    end = torch.minimum(end, reach).unsqueeze(-1)
    log_f = _log_density(end * x, kappa.unsqueeze(-1), features)
    return torch.logsumexp(log_f + w.log(), -1) + end.squeeze(-1).clamp(min=1e-300).log()


def log_normalizer(kappa: Tensor, features: int) -> Tensor:
    r""":math:`\log \int e^{-\kappa |x - \mu|^2 / 2} dA(x)` over the unit sphere, float64.

    Example:
        >>> z = log_normalizer(torch.tensor(2.0), 3).item()
        >>> round(z - math.log(math.pi * (1 - math.exp(-4.0))), 12)  # 2 pi (1 - exp(-2 kappa)) / kappa
        0.0
    """
    kappa = kappa.double()
    return log_area(features - 1) + _integral(torch.full_like(kappa, math.pi), kappa, features)


def cap_mass(angle: Tensor, kappa: Tensor, features: int) -> Tensor:
    """Share of the law within ``angle`` of the mean, float64."""
    angle, kappa = angle.double(), kappa.double()
    whole = _integral(torch.full_like(kappa, math.pi), kappa, features)
    return (_integral(angle, kappa.expand_as(angle), features) - whole).exp()


def angle_density(angle: Tensor, kappa: Tensor, features: int) -> Tensor:
    """Density of the angle to the mean, float64."""
    angle, kappa = angle.double(), kappa.double()
    whole = _integral(torch.full_like(kappa, math.pi), kappa, features)
    return (_log_density(angle, kappa, features) - whole).exp()


def von_mises_fisher_angle(size: torch.Size, kappa: Tensor, features: int, generator: torch.Generator | None) -> Tensor:
    """Exact draws of the angle to the mean in float64 (Wood 1994): rejection from a transformed symmetric beta law.

    Args:
        size: Shape of the draws.
        kappa: Concentration, broadcastable against ``size``.
        features: Dimension ``n`` of the space around the sphere.
        generator: Source of randomness.
    """
    m, device = features - 1, kappa.device
    kappa = kappa.double().expand(size)
    b = m / (2 * kappa + (4 * kappa.square() + m**2).sqrt())
    x0 = (1 - b) / (1 + b)
    top = kappa * x0 + m * (1 - x0.square()).log()
    angle = torch.zeros(size, dtype=torch.float64, device=device)
    open_ = torch.ones(size, dtype=torch.bool, device=device)
    while bool(open_.any()):
        e = torch.randn((*size, features), generator=generator, dtype=torch.float64, device=device)
        z = (1 + e[..., 0] / e.norm(dim=-1)) / 2  # the height of a uniform point has this beta law
        u = torch.rand(size, generator=generator, dtype=torch.float64, device=device)
        fall = 2 * b * z / (1 - (1 - b) * z)  # 1 - cos(angle), without cancellation
        w = 1 - fall
        accepted = open_ & (kappa * w + m * (1 - x0 * w).log() - top >= u.clamp(min=1e-300).log())
        angle = torch.where(accepted, 2 * (fall / 2).clamp(0, 1).sqrt().asin(), angle)
        open_ = open_ & ~accepted
    return angle

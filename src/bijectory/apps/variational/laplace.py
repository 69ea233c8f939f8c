r"""Where to start: modes of the density, and normal approximations along the way to them.

From several starts L-BFGS climbs the log-density in unconstrained coordinates. At a few points of each path the density is
approximated by a normal with the covariance :math:`(-\nabla^2 \log p)^{-1}`; the one with the largest ELBO is kept, and not
simply the last: in a funnel the path ends in a spike without mass. Paths that end in places with a dip of the density
between them have found different modes.

References:
    Pathfinder: Parallel quasi-Newton variational inference, Zhang, Carpenter, Gelman, Vehtari 2022, arXiv:2108.03782.
    Advances in Black-Box VI: Normalizing Flows, Importance Weighting, and Optimization, Agrawal, Sheldon, Domke 2020,
    arXiv:2006.10343 (Laplace initialisation).
"""

import dataclasses
import math

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.errors import FlowError, NonFiniteError, check

CANDIDATES, STEPS, DRAWS, POINTS = 512, 500, 128, 6
RADIUS = 2.0  # starts are uniform in (-2, 2) in every unconstrained coordinate
WALL = 1e100  # stands for -log 0 in a line search
MAX_SPREAD = 1e3  # largest standard deviation of an approximation, where the density is flat
NEGLIGIBLE = 1e-4  # share of the mass below which an approximation is no reason to reach out for it
DIP = 0.5  # nats between two places that make them two modes


@dataclasses.dataclass(frozen=True)
class Approximation:
    """A normal approximation ``N(loc, root root^T)`` in unconstrained coordinates.

    Attributes:
        loc: ``(width,)``.
        root: Lower triangle, ``(width, width)``.
        elbo: Its evidence lower bound, from draws; of a Laplace approximation nearly the log of the mass around it.
        peak: Log-density at the end of its path.
        point: The end of its path, a local maximum if ``converged``.
        converged: Whether the gradient vanished there.
    """

    loc: Tensor
    root: Tensor
    elbo: float
    peak: float
    point: Tensor
    converged: bool


def explore(density: UnnormalizedDensity, starts: int, generator: torch.Generator) -> list[Approximation]:
    """Approximations at the distinct modes, the one with the largest ELBO first.

    Raises:
        NonFiniteError: If the density is zero everywhere that was tried.
    """
    climbs = [_climb(density, u, generator) for u in _starts(density, starts, generator)]
    found = sorted((a for a in climbs if a is not None), key=lambda a: -a.elbo)
    message = 'no normal approximation of log_density has a finite ELBO; check its supports, or use start="broad".'
    check(bool(found), NonFiniteError, message)
    distinct = found[:1]
    for a in found[1:]:
        if a.converged and all(_apart(density, a, b) for b in distinct):
            distinct.append(a)
    return distinct


def weighty(approximations: list[Approximation]) -> list[Approximation]:
    """Those that hold some of the mass."""
    if not approximations:
        return []
    w = mixture_weights(approximations)
    return [a for a, share in zip(approximations, w.tolist(), strict=True) if share >= NEGLIGIBLE]


def moment_match(approximations: list[Approximation]) -> tuple[Tensor, Tensor]:
    """Mean and Cholesky factor of the covariance of the mixture with weights ``exp(elbo)``."""
    if len(approximations) == 1:
        return approximations[0].loc, approximations[0].root
    w = mixture_weights(approximations)
    locs = torch.stack([a.loc for a in approximations])
    mean = w @ locs
    covs = torch.stack([a.root @ a.root.mT for a in approximations])
    centred = locs - mean
    cov = (w[:, None, None] * (covs + centred[:, :, None] * centred[:, None, :])).sum(0)
    return mean, torch.linalg.cholesky(cov)


def mixture_weights(approximations: list[Approximation]) -> Tensor:
    """Share of each approximation in the mass, ``(k,)``."""
    return torch.tensor([a.elbo for a in approximations], dtype=torch.float64).softmax(0)


def _starts(density: UnnormalizedDensity, starts: int, generator: torch.Generator) -> Tensor:
    """Finite places to start from: half the likeliest of many, half any."""
    width = density.parameters.width
    u = RADIUS * (2 * torch.rand(CANDIDATES, width, generator=generator, dtype=torch.float64) - 1)
    u[0] = 0.0
    with torch.no_grad():
        value = density.free(u)
    u, value = u[value > -math.inf], value[value > -math.inf]
    message = (
        f"log_density is -inf at all {CANDIDATES} places that were tried, such as "
        f"{density.describe(density.map.inverse(torch.zeros(width, dtype=torch.float64))[0])}. Declare the support "
        "(bounded=, positive=), or scale and shift the parameters so that plausible values lie within a few units of 0."
    )
    check(len(u) > 0, NonFiniteError, message)
    best = value.argsort(descending=True)[: (starts + 1) // 2]
    rest = torch.randperm(len(u), generator=generator)[: starts // 2]
    return u[torch.cat([best, rest])]


def _climb(density: UnnormalizedDensity, start: Tensor, generator: torch.Generator) -> Approximation | None:
    path = [start]

    def loss(u: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            value, g = density.gradient(torch.from_numpy(u)[None])
        except NonFiniteError:  # far out, where the user's formula overflows: a wall
            return WALL, np.zeros_like(u)
        if not bool(value.isfinite()) or not bool(g.isfinite().all()):
            return WALL, np.zeros_like(u)
        return -float(value), -g[0].numpy()

    result = optimize.minimize(
        loss,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=density.parameters.limits(),
        callback=lambda u: path.append(torch.from_numpy(u.copy())),
        options={"maxiter": STEPS, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-6},
    )
    end = torch.from_numpy(np.asarray(result.x, dtype=np.float64))
    chosen = sorted({round(k) for k in np.linspace(len(path) - 1, 0, POINTS)})
    best: tuple[float, Tensor, Tensor] | None = None
    for u in [path[k] for k in chosen] + [end]:
        normal = _normal_at(density, u)
        if normal is not None:
            elbo = _elbo(density, *normal, generator)
            if elbo > -math.inf and (best is None or elbo > best[0]):
                best = (elbo, *normal)
    if best is None:
        return None
    value, g = density.gradient(end[None])
    at_end = _normal_at(density, end, newton=False)
    converged = at_end is not None and float((at_end[1].mT @ g[0]).norm()) < 0.1
    return Approximation(best[1], best[2], best[0], float(value), end, converged)


def _normal_at(density: UnnormalizedDensity, u: Tensor, *, newton: bool = True) -> tuple[Tensor, Tensor] | None:
    """Mean (after a Newton step) and root of the covariance of the normal approximation at a point."""
    try:
        _, g = density.gradient(u[None])
        precision = -hessian(density, u)
    except FlowError:
        return None
    if not bool(precision.isfinite().all()) or not bool(g.isfinite().all()):
        return None
    values, vectors = torch.linalg.eigh(precision)
    convex = bool((values > 0).all())
    values = values.abs().clamp(min=max(MAX_SPREAD**-2, 1e-12 * float(values.abs().max())))
    cov = (vectors / values) @ vectors.mT
    root, info = torch.linalg.cholesky_ex((cov + cov.mT) / 2)
    if int(info):
        return None
    step = cov @ g[0]
    limited = newton and convex and float(torch.linalg.solve_triangular(root, step[:, None], upper=False).norm()) < 5
    return (u + step if limited else u), root


def hessian(density: UnnormalizedDensity, u: Tensor) -> Tensor:
    """Hessian of the unconstrained log-density at one point: one row for each line, all in one pass.

    By differences of gradients where the density cannot be differentiated twice.
    """
    width = len(u)
    try:
        with torch.enable_grad():
            rows = u.detach().expand(width, width).clone().requires_grad_()
            (g,) = torch.autograd.grad(density.free(rows).sum(), rows, create_graph=True)
            (h,) = torch.autograd.grad(g.diagonal().sum(), rows)
        if bool(h.isfinite().all()):
            return (h + h.mT) / 2
    except RuntimeError:  # also where an operation has no second derivative
        pass
    step = 1e-5 * (1 + u.abs())
    shifts = torch.diag(step)
    _, g = density.gradient(torch.cat([u + shifts, u - shifts]))
    h = (g[:width] - g[width:]) / (2 * step.unsqueeze(-1))
    return (h + h.mT) / 2


@torch.no_grad()
def _elbo(density: UnnormalizedDensity, loc: Tensor, root: Tensor, generator: torch.Generator) -> float:
    e = torch.randn(DRAWS, len(loc), generator=generator, dtype=torch.float64)
    log_q = -0.5 * e.square().sum(-1) - 0.5 * len(loc) * math.log(2 * math.pi) - root.diagonal().log().sum()
    try:
        gap = density.free(loc + e @ root.mT) - log_q
    except NonFiniteError:
        return -math.inf
    inside = gap[gap > -math.inf]
    # Of the normal cut off where the density is zero, whose log-density is larger by -log of the share that is left.
    return float(inside.mean()) + math.log(len(inside) / len(gap)) if len(inside) else -math.inf


@torch.no_grad()
def _apart(density: UnnormalizedDensity, a: Approximation, b: Approximation) -> bool:
    """Whether the density has a dip on the line between two maxima."""
    t = torch.linspace(0, 1, 33, dtype=torch.float64).unsqueeze(-1)
    value = density.free(a.point + t * (b.point - a.point))
    return float(value.min()) < min(float(value[0]), float(value[-1])) - DIP

"""Markov chains on the rest, and the density of the known values by bridge sampling."""

import dataclasses
import math

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.mixture import GaussianMixture
from torch import Tensor

from bijectory.apps.query.joint import Joint
from bijectory.apps.query.kernels import KERNELS, Kernels, Weighted, resample
from bijectory.apps.variational.convergence import ess, rhat
from bijectory.apps.variational.mcmc import DualAveraging, hamiltonian

CHAINS, WARMUPS, WARMUP, BLOCK, BLOCKS = 32, 3, 60, 100, 8
MOST = CHAINS * BLOCK * BLOCKS  # draws
COMPONENTS = 4  # of the bridge's normal mixture at most
ITERATIONS = 200
HOPELESS = 2.0  # R-hat after a block from which more draws do not help


@dataclasses.dataclass(frozen=True)
class Walk:
    """What the chains found.

    Attributes:
        draws: ``(chains, n, rest)``.
        rhat: The largest split R-hat of a column.
        ess: The smallest effective sample size (bulk, tail) of a column.
        log_density: Of the known values, by bridge sampling.
        error: Its standard error.
    """

    draws: np.ndarray
    rhat: float
    ess: float
    log_density: float
    error: float


class _White:
    """The joint in coordinates in which some draws have mean 0 and nearly unit covariance."""

    def __init__(self, joint: Joint, draws: np.ndarray, known: np.ndarray) -> None:
        self.joint, self.known = joint, known
        cov = np.atleast_2d(np.cov(draws.T))
        # Few draws do not know every correlation: a metric need not, but it must not be singular.
        strength = draws.shape[1] / (draws.shape[1] + len(draws))
        cov = (1 - strength) * cov + (strength + 1e-6) * np.diag(np.diag(cov) + 1e-12)
        self.mean, self.root = torch.from_numpy(draws.mean(0)), torch.from_numpy(np.linalg.cholesky(cov))

    def rest(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.root.T

    def white(self, r: np.ndarray) -> Tensor:
        return torch.linalg.solve_triangular(self.root, (torch.from_numpy(r) - self.mean).T, upper=False).T

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = self.joint.value(self.rest(leaf), self.known)
            (g,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), torch.where(g.isfinite(), g, 0.0)


def walk(joint: Joint, start: Weighted, wanted: float) -> Walk:
    """Run chains until their draws are worth ``wanted``, or for 800 moves after the warm-up.

    Args:
        joint: The joint density with the known values.
        start: Weighted draws, where the chains start.
        wanted: Effective sample size.
    """
    rng = joint.rng
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    alive = np.isfinite(start.log_w).any()
    # Half from where the weights point, half from the first guess: R-hat sees whether both lead to the same place.
    first = start.r[resample(start.log_w, CHAINS // 2, rng)] if alive else start.guess[: CHAINS // 2]
    r = np.concatenate([first, start.guess[rng.integers(len(start.guess), size=CHAINS - len(first))]])
    kernels, metric, known = start.kernels, start.guess, joint.place(CHAINS)
    kept: list[np.ndarray] = []
    for block in range(-WARMUPS, BLOCKS):
        if block < 0:  # the coordinates and the proposal learn from the moves of the warm-up
            target = _White(joint, metric, known)
            z = target.white(r)
            log_p, g = target.gradient(z)
        if block < 0:
            rate = DualAveraging(0.5 * z.shape[1] ** -0.25)
        moves = []
        for _ in range(WARMUP if block < 0 else BLOCK):
            step = (rate.step if block < 0 else rate.final) * float(rng.uniform(0.8, 1.2))
            z, log_p, g, accepted, _ = hamiltonian(target, z, log_p, g, step, generator)
            z, log_p, g = _jump(target, kernels, z, log_p, g, rng)
            if joint.cells:
                log_p, g = _move_known(target, z, log_p, g, rng)
            if block < 0:
                rate.update(float(accepted.mean()))
            moves.append(target.rest(z).numpy())
        r, known = moves[-1], target.known
        if block < -1:
            metric = np.concatenate(moves[WARMUP // 3 :])
            kernels = Kernels(metric[rng.integers(len(metric), size=KERNELS)])
        elif block >= 0:
            kept += moves
            draws = np.stack(kept, 1)
            worth = float(np.nanmin([ess(draws), ess(draws, "tail")]))
            mixed = float(np.nanmax(rhat(draws)))
            if (worth >= wanted and mixed <= 1.01) or mixed > HOPELESS:
                break
    return Walk(draws, mixed, worth, *_bridge(joint, draws, rng))


def _jump(
    target: _White, kernels: Kernels, z: Tensor, log_p: Tensor, g: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Independence Metropolis: a draw of the mixture for every chain."""
    new = kernels.sample(len(z), rng)
    fresh = target.white(new)
    value, slope = target.gradient(fresh)
    log_q = [torch.from_numpy(kernels.log_prob(r)) for r in (target.rest(z).numpy(), new)]
    accept = torch.from_numpy(np.log(rng.random(len(z)))) < (value - log_q[1]) - (log_p - log_q[0])
    row = accept[:, None]
    return torch.where(row, fresh, z), torch.where(accept, value, log_p), torch.where(row, slope, g)


def _move_known(target: _White, z: Tensor, log_p: Tensor, g: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Metropolis on the places of known values within their cells, uniform a priori."""
    old, new = target.known, target.joint.place(len(z))
    target.known = new
    value, slope = target.gradient(z)
    accept = torch.from_numpy(np.log(rng.random(len(z)))) < value - log_p
    target.known = np.where(accept[:, None].numpy(), new, old)
    return torch.where(accept, value, log_p), torch.where(accept[:, None], slope, g)


def _bridge(joint: Joint, draws: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Log-density of the known values and its standard error: the optimal bridge, by iteration."""
    half = draws.shape[1] // 2
    train, held = draws[:, :half].reshape(-1, draws.shape[2]), draws[:, half:]
    fits = [
        GaussianMixture(k, reg_covar=1e-8, random_state=int(rng.integers(2**31))).fit(train)
        for k in range(1, COMPONENTS + 1)
    ]
    q = min(fits, key=lambda fit: fit.bic(train))
    x = held.reshape(-1, draws.shape[2])
    y = q.sample(len(x))[0]
    # log of p / q at draws of p, and at draws of q
    a = (joint.log_prob(x) - q.score_samples(x)).reshape(held.shape[:2])
    b = joint.log_prob(y) - q.score_samples(y)
    worth = _worth(a)
    share = worth / (worth + len(b))
    log_z = float(np.median(a[np.isfinite(a)]))
    for _ in range(ITERATIONS):
        top = b - np.logaddexp(np.log(share) + b, np.log1p(-share) + log_z)
        low = -np.logaddexp(np.log(share) + a, np.log1p(-share) + log_z)
        new = float(logsumexp(top) - np.log(len(b)) - logsumexp(low) + np.log(a.size))
        done, log_z = abs(new - log_z) < 1e-10, new
        if done:
            break
    f = np.exp(b - np.logaddexp(np.log(share) + b, np.log1p(-share) + log_z))
    h = np.exp(log_z - np.logaddexp(np.log(share) + a, np.log1p(-share) + log_z))
    independent = f.var() / f.mean() ** 2 / len(b)
    correlated = h.var() / h.mean() ** 2 / max(_worth(h), 1.0)
    return log_z, math.sqrt(independent + correlated)


def _worth(values: np.ndarray) -> float:
    """Effective number of draws for a mean."""
    found = float(ess(np.where(np.isfinite(values), values, values[np.isfinite(values)].min()), "mean"))
    return min(found, values.size) if math.isfinite(found) else float(values.size)

"""Importance sampling of the rest by mixtures of Student-t kernels that adapt to it."""

import dataclasses

import numpy as np
from scipy.special import gammaln, logsumexp

from bijectory.apps.query.joint import Joint

POOL = 10_000  # draws of the joint that the first guess is looked for in
NEAR = 500  # of which so many, the nearest, are used
KERNELS = 150  # of each of the two kinds
ROUNDS = 4
PILOT = 2000  # draws of a round
DEGREES = 5.0  # of freedom of the kernels
LIMIT = 100_000  # weighted draws at most


class Kernels:
    """A mixture of Student-t kernels around draws, half of them at centres shrunken to their mean.

    Args:
        centres: ``(m, d)``.
    """

    def __init__(self, centres: np.ndarray) -> None:
        m, d = centres.shape
        self.mean = centres.mean(0)
        cov = np.atleast_2d(np.cov(centres.T)) + 1e-12 * np.eye(d)
        cov += 1e-6 * np.diag(np.diag(cov))
        self.root = np.linalg.cholesky(cov)
        self.width = (4 / (m * (d + 2))) ** (1 / (d + 4))
        # The other half keeps its centres where they are: shrinking would move separate modes together.
        shrunk = self.mean + (1 - min(self.width, 0.99) ** 2) ** 0.5 * (centres - self.mean)
        self.centres = np.concatenate([shrunk, centres])
        constant = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - 0.5 * d * np.log(DEGREES * np.pi)
        constant -= np.log(np.diag(self.root)).sum() + d * np.log(self.width) + np.log(len(self.centres))
        self.constant = float(constant)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draws, ``(n, d)``."""
        d = len(self.mean)
        t = rng.standard_normal((n, d)) / np.sqrt(rng.chisquare(DEGREES, (n, 1)) / DEGREES)
        return self.centres[rng.integers(len(self.centres), size=n)] + self.width * t @ self.root.T

    def log_prob(self, r: np.ndarray) -> np.ndarray:
        """Log-density, ``(n,)``."""
        d = len(self.mean)
        white = np.linalg.solve(self.root, self.centres.T).T / self.width
        out = np.empty(len(r))
        for start in range(0, len(r), 1024):
            points = np.linalg.solve(self.root, r[start : start + 1024].T).T / self.width
            square = np.maximum((points**2).sum(1)[:, None] + (white**2).sum(1) - 2 * points @ white.T, 0)
            out[start : start + 1024] = logsumexp(-0.5 * (DEGREES + d) * np.log1p(square / DEGREES), axis=1)
        return out + self.constant


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Weighted draws of the rest.

    Attributes:
        r: ``(n, rest)``.
        log_w: Their log-weights, ``(n,)``.
        kernels: What they were drawn from.
        guess: Draws of the first guess.
    """

    r: np.ndarray
    log_w: np.ndarray
    kernels: Kernels
    guess: np.ndarray

    @property
    def ess(self) -> float:
        """Effective sample size."""
        return effective(self.log_w)


def weighted(joint: Joint, n: int, least: float) -> Weighted:
    """Weighted draws of the rest: more of them until they are worth ``n``, up to a limit, unless that is out of reach."""
    rng = joint.rng
    guess = _first_guess(joint)
    kernels = Kernels(guess)
    for _ in range(ROUNDS):
        r = kernels.sample(PILOT, rng)
        log_w = joint.log_prob(r) - kernels.log_prob(r)
        if not np.isfinite(log_w).any():
            break
        kernels = Kernels(r[resample(log_w, KERNELS, rng)])
    total = int(np.clip(4 * n, PILOT, LIMIT))
    r, log_w = np.empty((0, len(joint.rest))), np.empty(0)
    while True:
        new = kernels.sample(total - len(r), rng)
        r, log_w = np.concatenate([r, new]), np.concatenate([log_w, joint.log_prob(new) - kernels.log_prob(new)])
        # Weights that are worth a hundredth of what is wanted will not get there: chains are cheaper.
        if effective(log_w) >= max(n, least) or total == LIMIT or effective(log_w) * LIMIT / len(r) < least:
            return Weighted(r, log_w, kernels, guess)
        total = min(LIMIT, 2 * total)


def _first_guess(joint: Joint) -> np.ndarray:
    """Draws of the joint near the known values, moved onto them by a local linear regression."""
    known, rest = joint.pool(POOL)
    goal = joint.centre()
    scale = np.maximum(known.std(0), 1e-12)
    near = np.argsort((((known - goal) / scale) ** 2).sum(1))[:NEAR]
    design = np.column_stack([np.ones(len(near)), (known[near] - goal) / scale])
    slope = np.linalg.lstsq(design, rest[near], rcond=None)[0]
    moved = rest[near] - design[:, 1:] @ slope[1:]
    return moved[joint.rng.permutation(len(moved))[:KERNELS]]


def effective(log_w: np.ndarray) -> float:
    r"""Effective sample size of weights, :math:`(\sum w)^2 / \sum w^2`; 0 if all are 0."""
    if not np.isfinite(log_w).any():
        return 0.0
    return float(np.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)))


def mean_weight(log_w: np.ndarray) -> tuple[float, float]:
    """Logarithm of the mean weight, and its standard error by the delta method."""
    n = len(log_w)
    value = float(logsumexp(log_w) - np.log(n))
    return value, float(np.exp(log_w - value).std() / n**0.5)


def resample(log_w: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of ``n`` draws, by weight: systematic resampling in random order."""
    w = np.exp(log_w - log_w.max()).cumsum()
    places = (np.arange(n) + rng.random()) / n * w[-1]
    return rng.permutation(np.searchsorted(w, places).clip(0, len(w) - 1))

r"""Log-ratios that are quadratic functions, with posterior draws of them: discriminant analysis and logistic regression.

Both learn from the rows how far to trust them, so that they stay sober where there are more products of columns than rows,
and the spread of posterior draws counts the shrinkage as well as the noise: averaged over points it matches the error
(Nychka 1988), where bootstrap members of a penalised fit leave the bias out.

*Discriminant*: p and q are normal with covariances :math:`\Sigma \sim \mathrm{IW}((\nu - d - 1)\,\mathrm{diag}\,S, \nu)`
a priori; :math:`\nu` maximises the marginal likelihood. *Logistic*: log-odds :math:`w^T \phi(x)` with
:math:`w_g \sim N(0, 1/\lambda_g)` for the groups of columns, squares and products, each :math:`\lambda_g` by the evidence,
:math:`\lambda_g \leftarrow \gamma_g / |w_g|^2` with :math:`\gamma_g = k_g - \lambda_g\,\mathrm{tr}\,\Sigma_g`; draws of the
normal approximation at the mode.

References:
    Bayesian Confidence Intervals for Smoothing Splines, Nychka 1988, JASA 83(404).
    Regularized Gaussian Discriminant Analysis Through Eigenvalue Decomposition, Bensmail, Celeux 1996, JASA 91(436).
    The evidence framework applied to classification networks, MacKay 1992, Neural Computation 4(5), sec. 2-3.
    Bayesian Data Analysis, Gelman+ 2013, 3rd ed., sec. 3.6 (normal - inverse-Wishart) and 16.3.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import expit, multigammaln, psi

Array = NDArray[np.float64]
STEPS, ROUNDS = 30, 12  # Newton steps of a fit, updates of the precisions
LOW, HIGH = 1e-4, 1e8  # precisions stay in between
FEW = 6_000  # rows that decide on the prior
FACTORS = (1.0, 0.1, 0.01, 0.001)
CHUNK = 8192


@dataclasses.dataclass(frozen=True)
class Quadratic:
    r"""The function :math:`x^T A x + b^T x + c` of rows.

    Attributes:
        a: ``(d, d)``.
        b: ``(d,)``.
        c: A number.

    Example:
        >>> Quadratic(np.eye(2), np.zeros(2), -1.0)(np.array([[1.0, 2.0]]))
        array([4.])
    """

    a: Array
    b: Array
    c: float

    def __call__(self, x: Array) -> Array:
        return ((x @ self.a + self.b) * x).sum(1) + self.c

    def __sub__(self, other: "Quadratic") -> "Quadratic":
        return Quadratic(self.a - other.a, self.b - other.b, self.c - other.c)


def discriminant(x: Array, y: NDArray[np.bool_], draws: int, rng: np.random.Generator) -> list[Quadratic]:
    """Log-ratio of two normal densities: the posterior mean, then posterior draws.

    Args:
        x: ``(n, d)`` standardised rows.
        y: ``(n,)``, True for rows of p.
        draws: Number of draws.
        rng: Of the draws.
    """
    p, q = (_normal(rows, draws, rng) for rows in (x[y], x[~y]))
    return [a - b for a, b in zip(p, q, strict=True)]


def _normal(x: Array, draws: int, rng: np.random.Generator) -> list[Quadratic]:
    """Log-density of a normal with unknown mean (flat prior) and covariance: its posterior mean, then draws."""
    n, d = x.shape
    mean = x.mean(0)
    scatter = (x - mean).T @ (x - mean)
    target = np.diag(np.maximum(np.diag(scatter) / max(n - 1, 1), 1e-10))
    # correlations can be learned from few rows only if the prior is strong; the evidence decides
    grid = d + 1 + np.geomspace(1, 1e6, 61)
    nu = max(grid, key=lambda v: _evidence(v, (v - d - 1) * target, scatter, n, d))
    root = linalg.cholesky(linalg.inv((nu - d - 1) * target + scatter), lower=True)
    df = nu + n - 1
    # precision ~ Wishart(root root^T, df): its mean is df root root^T, and E log det = sum psi + d log 2 + log det
    log_det = psi((df - np.arange(d)) / 2).sum() + d * np.log(2) + 2 * np.log(np.diag(root)).sum()
    found = [_log_density(df * root @ root.T, log_det - d / n, mean)]
    for _ in range(draws):
        bartlett = np.tril(rng.standard_normal((d, d)), -1) + np.diag(np.sqrt(rng.chisquare(df - np.arange(d))))
        half = root @ bartlett
        shift = linalg.solve_triangular(half, rng.standard_normal(d), lower=True, trans="T") / np.sqrt(n)
        found.append(_log_density(half @ half.T, 2 * np.log(np.diag(half)).sum(), mean + shift))
    return found


def _evidence(nu: float, prior: Array, scatter: Array, n: int, d: int) -> float:
    """Logarithm of the marginal likelihood, up to a constant."""
    after = np.linalg.slogdet(prior + scatter)[1]
    before = np.log(np.diag(prior)).sum()
    gammas = multigammaln((nu + n - 1) / 2, d) - multigammaln(nu / 2, d)
    return float(gammas + 0.5 * nu * before - 0.5 * (nu + n - 1) * after)


def _log_density(precision: Array, log_det: float, mean: Array) -> Quadratic:
    linear = precision @ mean
    return Quadratic(-0.5 * precision, linear, float(0.5 * log_det - 0.5 * mean @ linear))


def logistic(x: Array, y: NDArray[np.bool_], degree: int, draws: int, rng: np.random.Generator) -> list[Quadratic]:
    """Log-odds of p against q less that of their sizes: the posterior mode, then draws around it.

    Args:
        x: ``(n, d)`` standardised rows.
        y: ``(n,)``, True for rows of p.
        degree: 1 for the columns, 2 for their squares and products too.
        draws: Number of draws.
        rng: Of the draws.
    """
    n, d = x.shape
    i, j = np.triu_indices(d, 1)
    features = [x] if degree == 1 else [x, x**2, x[:, i] * x[:, j]]
    sizes = [f.shape[1] for f in features]
    phi = np.concatenate([np.ones((n, 1)), *features], axis=1)
    loc, scale = phi.mean(0), phi.std(0)
    loc[0], scale[0] = 0.0, 1.0
    scale[scale < 1e-12] = 1.0
    phi = (phi - loc) / scale
    group = np.repeat(np.arange(len(sizes) + 1), [1, *sizes])
    offset = float(np.log(y.sum()) - np.log((~y).sum()))
    w, root = _evidence_fit(phi, y.astype(float), group, rng)
    found = []
    for k in range(draws + 1):
        v = w if k == 0 else w + linalg.solve_triangular(root, rng.standard_normal(len(w)), trans="T", lower=True)
        v = v / scale
        constant = float(v[0] - v[1:] @ loc[1:] - offset)
        a = np.zeros((d, d))
        if degree == 2:
            a[np.arange(d), np.arange(d)] = v[1 + d : 1 + 2 * d]
            a[i, j] = v[1 + 2 * d :]
        found.append(Quadratic(a, v[1 : 1 + d], constant))
    return found


def _evidence_fit(phi: Array, y: Array, group: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Array]:
    """Coefficients at the mode, and the Cholesky factor of their precision.

    The precisions of the prior are those of the evidence, times a factor chosen by rows that are left out: where p and q
    hardly overlap the normal approximation of the evidence shrinks far too much.
    """
    few = rng.permutation(len(phi))[:FEW]
    train, held = few[len(few) // 5 :], few[: len(few) // 5]
    part = phi[train], y[train]
    precision = np.where(group == 0, LOW, 1.0)
    w = np.zeros(phi.shape[1])
    for _ in range(ROUNDS):
        w, root = _newton(*part, precision, w)
        variance = (linalg.solve_triangular(root, np.eye(len(w)), lower=True) ** 2).sum(0)
        old = precision.copy()
        for g in range(1, group.max() + 1):
            inside = group == g
            known = inside.sum() - precision[inside][0] * variance[inside].sum()
            precision[inside] = np.clip(known / max(w[inside] @ w[inside], 1e-12), LOW, HIGH)
        if np.abs(np.log(precision / old)[precision < 1e3]).max(initial=0) < 0.2:
            break
    best, best_loss, v = precision, np.inf, w
    for factor in FACTORS:
        trial = np.where(group == 0, LOW, np.maximum(factor * precision, LOW))
        v, _ = _newton(*part, trial, v)
        z = phi[held] @ v
        loss = float((np.logaddexp(0, z) - y[held] * z).sum())
        if loss > best_loss:
            break
        best, best_loss, w = trial, loss, v
    return _newton(phi, y, best, w)


def _newton(phi: Array, y: Array, precision: Array, w: Array) -> tuple[Array, Array]:
    """Minimum of the penalised loss and the Cholesky factor of the Hessian there, by damped Newton steps."""

    def loss(v: Array) -> float:
        z = phi @ v
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * precision @ v**2)

    def hessian(p: Array) -> Array:
        total = np.diag(precision)
        for start in range(0, len(phi), CHUNK):
            rows = slice(start, start + CHUNK)
            half = phi[rows] * np.sqrt(p[rows] * (1 - p[rows]))[:, None]
            total = total + half.T @ half
        return linalg.cholesky(total, lower=True)

    now = loss(w)
    for _ in range(STEPS):
        p = expit(phi @ w)
        root = hessian(p)
        step = linalg.cho_solve((root, True), phi.T @ (p - y) + precision * w)
        size = 1.0
        while (new := loss(w - size * step)) > now + 1e-9 * abs(now) and size > 1e-6:
            size /= 2
        w, gain, now = w - size * step, now - new, new
        if gain < 1e-5 * (1 + abs(now)):
            break
    return w, root

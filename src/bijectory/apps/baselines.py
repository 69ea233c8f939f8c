"""Classical densities on the same rows: what a flow has to beat before its likelihood means anything.

Four references, each fitted to the training rows and scored on the held-out rows: a diagonal Gaussian, a full Gaussian, a
Gaussian mixture whose size is chosen by BIC, and a kernel density estimate whose bandwidth is chosen by cross-validation.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from bijectory.errors import DataError, check

MIXTURE_SIZES = (1, 2, 4, 8, 16, 32)
KDE_ROWS = 5_000  # scoring costs rows x held-out rows; more rows change the figure little and the time much
MIXTURE_ROWS = 50_000


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A classical density and its log-likelihood of each held-out row.

    Attributes:
        name: What was fitted, with the chosen hyper-parameter.
        log_prob: ``(rows,)``, nats.
        note: What was left out for time, empty if nothing.
    """

    name: str
    log_prob: NDArray[np.float64]
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean held-out log-likelihood, nats a row."""
        return float(self.log_prob.mean())


def fit_baselines(train: NDArray[np.float64], test: NDArray[np.float64], *, seed: int = 0) -> list[Baseline]:
    """Fit the four reference densities.

    Args:
        train: ``(n, d)`` training rows, standardised (the kernel width is shared by all columns).
        test: ``(m, d)`` held-out rows in the same units.
        seed: Seed of subsampling and of the mixture.

    Returns:
        Diagonal Gaussian, full Gaussian, mixture, kernel density, in this order.

    Raises:
        DataError: If there are fewer than 2 training rows or no held-out row.
    """
    check(len(train) >= 2 and len(test) >= 1, DataError, f"baselines need 2 + 1 rows, got {len(train)} + {len(test)}.")
    rng = np.random.default_rng(seed)
    return [
        _diagonal(train, test),
        _gaussian(train, test),
        _mixture(_subsample(train, MIXTURE_ROWS, rng), test, seed, len(train)),
        _kernel(_subsample(train, KDE_ROWS, rng), test, len(train)),
    ]


def independent_pixels(
    train: NDArray[np.integer], test: NDArray[np.integer], levels: int, *, weight: float = 10.0
) -> Baseline:
    """Histograms of every pixel by itself: the exact log-probability of whole-number images whose pixels are independent.

    Each histogram is drawn towards that of all pixels together, which counts as much as ``weight`` images.

    Args:
        train: ``(n, ...)`` levels ``0 ... levels - 1``.
        test: ``(m, ...)`` held-out images of the same shape.
        levels: Number of levels.
        weight: See above.

    Raises:
        DataError: If there is no training image.
    """
    check(len(train) >= 1, DataError, "independent pixels need at least one training image.")
    x, y = (images.reshape(len(images), -1).astype(np.int64) for images in (train, test))
    everywhere = (np.bincount(x.ravel(), minlength=levels) + 1) / (x.size + levels)
    log_prob = np.zeros(len(y))
    for a, b in zip(x.T, y.T, strict=True):
        counts = np.bincount(a, minlength=levels)
        log_prob += np.log((counts + weight * everywhere) / (len(x) + weight))[b]
    return Baseline("independent pixels", log_prob)


def _diagonal(train: NDArray[np.float64], test: NDArray[np.float64]) -> Baseline:
    scale = np.maximum(train.std(0), 1e-12)
    return Baseline("diagonal Gaussian", stats.norm.logpdf(test, train.mean(0), scale).sum(1))


def _gaussian(train: NDArray[np.float64], test: NDArray[np.float64]) -> Baseline:
    cov = np.atleast_2d(np.cov(train.T)) + 1e-9 * np.eye(train.shape[1])
    return Baseline("full Gaussian", np.atleast_1d(stats.multivariate_normal(train.mean(0), cov).logpdf(test)))


def _mixture(train: NDArray[np.float64], test: NDArray[np.float64], seed: int, total: int) -> Baseline:
    sizes: Sequence[int] = [k for k in MIXTURE_SIZES if k == 1 or 10 * k <= len(train)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unconverged size simply has a worse BIC
        models = [GaussianMixture(k, random_state=seed, reg_covar=1e-6).fit(train) for k in sizes]
    best = min(models, key=lambda m: m.bic(train))
    name = f"Gaussian mixture, {best.n_components} components (BIC)"
    return Baseline(name, best.score_samples(test), _left_out(len(train), total))


def _kernel(train: NDArray[np.float64], test: NDArray[np.float64], total: int) -> Baseline:
    scott = len(train) ** (-1.0 / (train.shape[1] + 4))
    grid = {"bandwidth": scott * np.geomspace(0.2, 2.0, 7)}
    search = GridSearchCV(KernelDensity(), grid, cv=min(5, len(train))).fit(train)
    width = search.best_params_["bandwidth"]
    log_prob = search.best_estimator_.score_samples(test)
    return Baseline(f"kernel density, bandwidth {width:.2g} (CV)", log_prob, _left_out(len(train), total))


def _subsample(x: NDArray[np.float64], rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return x if len(x) <= rows else x[rng.choice(len(x), rows, replace=False)]


def _left_out(used: int, total: int) -> str:
    return "" if used == total else f"fitted to {used:,} of {total:,} training rows"

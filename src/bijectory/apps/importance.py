r"""Importance sampling: expectations under :math:`p` from draws of :math:`q`, with Pareto-smoothed weights.

With draws :math:`x_s \sim q` and ratios :math:`r_s = \tilde p(x_s) / q(x_s)` of an unnormalised density,

.. math::
    E_p[f] \approx \sum_s w_s f(x_s), \quad w_s = \frac{r_s}{\sum_t r_t}, \qquad Z \approx \frac1S \sum_s r_s.

A few huge ratios spoil both. The largest :math:`M = \min(S/5, 3\sqrt S)` ratios are close to draws of a generalised Pareto
distribution; its shape :math:`\hat k` tells how many moments the ratios have. Replacing them by the expected order
statistics of the fitted distribution (*smoothing*) stabilises the sums. Up to :math:`\hat k = 0.7` the estimates and
their standard errors can be trusted; above, no reasonable number of draws is enough and :math:`q` must get closer to
:math:`p`, or a Markov chain has to correct it. Everything is computed from logarithms.

References:
    Pareto Smoothed Importance Sampling, Vehtari, Simpson, Gelman, Yao, Gabry 2015/2024, arXiv:1507.02646.
    A New and Efficient Estimation Method for the Generalized Pareto Distribution, Zhang, Stephens 2009, Technometrics 51.
"""

import dataclasses
import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from bijectory.errors import ConfigError, NonFiniteError, ShapeError, check

KHAT_LIMIT = 0.7
MIN_TAIL = 5  # fewer largest ratios say nothing about a tail
PRIOR_DRAWS, PRIOR_KHAT = 10, 0.5  # weak prior on the shape, worth ten draws at one half


class ImportanceWarning(UserWarning):
    """The importance weights cannot be trusted."""


class Estimate(NamedTuple):
    """An estimate with its Monte-Carlo standard error.

    Attributes:
        value: The estimate, ``(*shape)``.
        se: Its standard error, ``(*shape)``.

    Example:
        >>> Estimate(torch.tensor(1.0), torch.tensor(0.1)).se
        tensor(0.1000)
    """

    value: Tensor
    se: Tensor


@dataclasses.dataclass(frozen=True)
class ImportanceWeights:
    r"""Weights of draws from a proposal, and how far they can be trusted; ``psis`` makes them.

    Attributes:
        log_ratios: :math:`\log r_s = \log\tilde p(x_s) - \log q(x_s)`, ``(n,)``, as they were given, in float64.
        smoothed: The same with their largest values smoothed, ``(n,)``; ``-inf`` where ``p`` is zero.
        khat: Shape of the tail of the ratios; ``-inf`` where the largest ratios are all equal, ``inf`` where there are too
            few of them to tell.

    Example:
        >>> weights = psis(torch.zeros(1000))
        >>> round(weights.ess), weights.reliable
        (1000, True)
    """

    log_ratios: Tensor
    smoothed: Tensor
    khat: float

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the normalised weights, ``(n,)``."""
        return self.smoothed - self.smoothed.logsumexp(0)

    @property
    def weights(self) -> Tensor:
        """Normalised weights, ``(n,)``, with sum 1."""
        return self.log_weights.exp()

    @property
    def ess(self) -> float:
        r"""Effective sample size :math:`1 / \sum_s w_s^2`, between 1 and the number of draws."""
        return float((-(2 * self.log_weights).logsumexp(0)).exp())

    @property
    def limit(self) -> float:
        r"""Largest trusted shape, :math:`\min(1 - 1/\log_{10} S, 0.7)` (arXiv:1507.02646, sec. 3.2.4)."""
        n = len(self.log_ratios)
        return min(1 - 1 / math.log10(n), KHAT_LIMIT) if n > 10 else 0.0

    @property
    def reliable(self) -> bool:
        """Whether the shape is at most ``limit``."""
        return self.khat <= self.limit

    def expectation(self, values: Tensor) -> Estimate:
        r"""Self-normalised estimate of :math:`E_p[f]` with its Monte-Carlo standard error.

        .. math:: \hat f = \sum_s w_s f_s, \qquad \mathrm{se}^2 = \sum_s w_s^2 (f_s - \hat f)^2.

        Args:
            values: :math:`f(x_s)` of each draw, ``(n, *shape)``.

        Raises:
            ShapeError: If there is not one row for each weight.

        Example:
            >>> psis(torch.zeros(4)).expectation(torch.tensor([1.0, 2.0, 3.0, 4.0])).value
            tensor(2.5000, dtype=torch.float64)
        """
        n = len(self.log_weights)
        ok = values.dim() >= 1 and len(values) == n
        check(ok, ShapeError, f"values has shape {tuple(values.shape)}, expected one row for each of {n} draws.")
        w = self.weights.to(values.device).reshape(-1, *(1,) * (values.dim() - 1))
        # A draw of weight zero counts for nothing, whatever the function is there (0 * inf would be NaN).
        f = torch.where(w > 0, values.double(), 0.0)
        mean = (w * f).sum(0)
        return Estimate(mean, (w * (f - mean)).square().sum(0).sqrt())

    def log_evidence(self) -> Estimate:
        r"""Estimate of :math:`\log Z = \log \frac1S \sum_s r_s`, with a standard error by the delta method.

        The mean of the raw ratios is unbiased for :math:`Z`; smoothing trades a little bias for less variance.

        Example:
            >>> psis(torch.full((100,), 3.0)).log_evidence().value
            tensor(3., dtype=torch.float64)
        """
        n = len(self.smoothed)
        log_z = self.smoothed.logsumexp(0) - math.log(n)
        relative = (self.smoothed - log_z).exp()  # r_s / Z, with mean 1
        return Estimate(log_z, (relative - 1).square().mean().div(n).sqrt())

    def resample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Indices ``(n,)`` of draws chosen in proportion to their weights, with replacement.

        Systematic resampling: a draw is chosen ``n w`` times, rounded up or down at random. In random order.

        Raises:
            ConfigError: If ``n`` is negative.

        Example:
            >>> psis(torch.zeros(5)).resample(5).sort().values
            tensor([0, 1, 2, 3, 4])
        """
        check(n >= 0, ConfigError, f"n must be at least 0, got {n}.")
        device = self.log_weights.device
        u = torch.rand((), generator=generator, dtype=torch.float64, device=device)
        points = (torch.arange(n, dtype=torch.float64, device=device) + u) / max(n, 1)
        edges = self.weights.cumsum(0)
        index = torch.searchsorted(edges / edges[-1], points, right=True).clamp(max=len(edges) - 1)
        return index[torch.randperm(n, generator=generator, device=device)]


def psis(log_ratios: Tensor, *, smooth: bool = True, warn: bool = True) -> ImportanceWeights:
    r"""Pareto-smoothed, normalised importance weights.

    Args:
        log_ratios: :math:`\log\tilde p(x_s) - \log q(x_s)` of draws from ``q``, ``(n,)``; ``-inf`` where ``p`` is zero.
        smooth: Replace the largest ratios by their expected values; False keeps them (the shape is measured all the same).
        warn: Warn where the shape exceeds its limit.

    Raises:
        ShapeError: If ``log_ratios`` is not a vector, or empty.
        NonFiniteError: If a ratio is NaN or infinite, or all are zero.

    Warns:
        ImportanceWarning: If :math:`\hat k` is above ``limit``: the estimates cannot be trusted.

    References:
        Pareto Smoothed Importance Sampling, Vehtari+ 2015/2024, arXiv:1507.02646, alg. 1.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(4000, generator=generator, dtype=torch.float64)  # q = N(0, 1), p = N(0.5, 1)
        >>> weights = psis(-0.5 * (x - 0.5) ** 2 + 0.5 * x**2)
        >>> weights.reliable, round(weights.expectation(x).value.item(), 1)
        (True, 0.5)
    """
    check(log_ratios.dim() == 1, ShapeError, f"log_ratios must be a vector, got shape {tuple(log_ratios.shape)}.")
    check(len(log_ratios) > 0, ShapeError, "log_ratios is empty; draw from the proposal first.")
    ratios = log_ratios.detach().double()
    nan, high = int(ratios.isnan().sum()), int((ratios == math.inf).sum())
    check(nan == 0, NonFiniteError, f"{nan} of {len(ratios)} log-ratios are NaN; repair the log-density there.")
    check(high == 0, NonFiniteError, f"{high} of {len(ratios)} log-ratios are +inf: the proposal is zero there.")
    some = bool((ratios > -math.inf).any())
    check(some, NonFiniteError, "every log-ratio is -inf: no draw lies where the target has any density.")
    khat, smoothed = _smooth(ratios)
    found = ImportanceWeights(ratios, smoothed if smooth else ratios, khat)
    if warn and not found.reliable:
        warnings.warn(
            f"Pareto shape {khat:.2f} of the importance weights is above {found.limit:.2f} (effective sample size "
            f"{found.ess:.0f} of {len(ratios)}): estimates from them cannot be trusted. Improve the proposal (train longer, "
            "a richer recipe) or correct it by a Markov chain.",
            ImportanceWarning,
            stacklevel=2,
        )
    return found


def pareto_fit(excess: Tensor) -> tuple[float, float]:
    r"""Shape and scale of a generalised Pareto distribution, :math:`P(X > x) = (1 + k x/\sigma)^{-1/k}`.

    The posterior mean of Zhang and Stephens under their data-dependent prior, on a grid: no iterations, no failures.

    Args:
        excess: Positive values, ``(n,)``, sorted or not.

    Returns:
        ``(k, sigma)``, without the weak prior on ``k`` that ``psis`` adds.

    Raises:
        ShapeError: If there are fewer than two values.
        NonFiniteError: If a value is not positive and finite.

    References:
        A New and Efficient Estimation Method for the Generalized Pareto Distribution, Zhang, Stephens 2009,
        Technometrics 51(3), sec. 3 (there ``k`` has the opposite sign).

    Example:
        >>> p = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        >>> k, sigma = pareto_fit(2 * ((1 - p) ** -0.5 - 1) / 0.5)  # quantiles of k = 0.5, sigma = 2
        >>> round(k, 2), round(sigma, 2)
        (0.5, 2.0)
    """
    check(excess.dim() == 1 and len(excess) >= 2, ShapeError, "give a vector of at least two values.")
    ok = bool((excess.isfinite() & (excess > 0)).all())
    check(ok, NonFiniteError, "every value must be positive and finite; subtract the threshold first.")
    x = excess.detach().double().sort().values
    n = len(x)
    m = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1] if n >= 4 else x[0]
    j = torch.arange(1, m + 1, dtype=x.dtype, device=x.device)
    theta = 1 / x[-1] + (1 - (m / (j - 0.5)).sqrt()) / (3 * quartile)
    k = torch.log1p(-theta.unsqueeze(-1) * x).mean(-1)  # (m,): shape that is likeliest given theta = -k / sigma
    # The profile log-likelihood; theta = 0 is the exponential distribution, where -theta / k tends to 1 / mean.
    rate = torch.where(k == 0, 1 / x.mean(), -theta / torch.where(k == 0, 1.0, k))
    loglik = n * (rate.log() - k - 1)
    weight = loglik.softmax(0)
    best = (weight * theta).sum()
    shape = torch.log1p(-best * x).mean()
    scale = torch.where(best == 0, x.mean(), -shape / torch.where(best == 0, 1.0, best))
    return float(shape), float(scale)


def _smooth(ratios: Tensor) -> tuple[float, Tensor]:
    """Shape of the tail, and the log-ratios with their tail smoothed."""
    n = len(ratios)
    tail = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    if bool((ratios == ratios[0]).all()):
        return -math.inf, ratios
    if tail < MIN_TAIL:
        return math.inf, ratios
    order = ratios.argsort()
    largest, cut = order[-tail:], ratios[order[-tail - 1]]
    top = ratios[largest[-1]]
    log_tail = ratios[largest] - top
    if bool(log_tail[-1] - log_tail[0] <= 1e-12 * (1 + top.abs())):
        return -math.inf, ratios
    threshold = (cut - top).exp()  # in units of the largest ratio, so nothing can overflow
    excess = log_tail.exp() - threshold
    k, sigma = pareto_fit(excess.clamp(min=torch.finfo(excess.dtype).tiny))
    k = (tail * k + PRIOR_DRAWS * PRIOR_KHAT) / (tail + PRIOR_DRAWS)
    if not math.isfinite(k):
        return math.inf, ratios
    p = (torch.arange(tail, dtype=ratios.dtype, device=ratios.device) + 0.5) / tail
    log_survival = torch.log1p(-p)
    quantile = -sigma * log_survival if k == 0 else sigma * torch.expm1(-k * log_survival) / k
    smoothed = ratios.clone()
    smoothed[largest] = (threshold + quantile).log().clamp(max=0.0) + top  # never above the largest raw ratio
    return k, smoothed

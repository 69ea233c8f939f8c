r"""Is the posterior right? Checks against pairs :math:`(\theta, x)` that it was not trained on.

If :math:`\theta \sim p(\theta), x \sim p(x|\theta)` and draws :math:`\theta_l \sim p(\theta|x)`, then :math:`\theta` is one
more draw: its rank among them is uniform, by any statistic. SBC takes each parameter as the statistic, expected coverage
the posterior density, TARP the distance to a random point. Each is necessary; none is sufficient.
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bijectory.apps.posterior.bands import Uniformity, uniformity
from bijectory.apps.posterior.base import Posterior
from bijectory.apps.posterior.simulations import Simulations
from bijectory.errors import ConfigError, DataError, check

Array = NDArray[np.float64]
LEAST_P = 1e-3  # below it a test counts as failed, whatever its band


@dataclasses.dataclass(frozen=True)
class CalibrationTest:
    """One check: for each name a set of numbers that is uniform if the posterior is right.

    Attributes:
        name: Which check.
        parts: ``name -> Uniformity``.
        values: ``name -> (n,)`` the numbers themselves.
        lean: "overconfident", "underconfident", or "" where the check does not tell.
    """

    name: str
    parts: dict[str, Uniformity]
    values: dict[str, Array]
    lean: str = ""

    @property
    def p(self) -> float:
        """Least p-value of the Kolmogorov-Smirnov tests, times their number (Bonferroni), at most 1."""
        return min(1.0, len(self.parts) * min(part.ks_p for part in self.parts.values()))

    @property
    def ok(self) -> bool:
        """Whether the check passes: p-value above 1e-3."""
        return self.p > LEAST_P

    def __repr__(self) -> str:
        verdict = "passes" if self.ok else f"fails{f' ({self.lean})' if self.lean else ''}"
        return f"{self.name}: {verdict}, p = {self.p:.2g}"


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Draws of the posterior for many pairs: computed once, read by every check.

    Attributes:
        posterior: Where the draws are from.
        theta: ``(m, features)`` true parameters.
        x: ``(m, *event)`` their data.
        draws: ``(l, m, features)``.
        seed: Of all that is random in the checks.
    """

    posterior: Posterior
    theta: Tensor
    x: Tensor
    draws: Tensor
    seed: int = 0


def rank(posterior: Posterior, pairs: Simulations | tuple[Any, Any], *, draws: int = 100, seed: int = 0) -> Ranked:
    """Draw from the posterior of each pair.

    Args:
        posterior: The posterior.
        pairs: Fresh simulations from the prior, at least 50.
        draws: For each pair.
        seed: Of the draws.

    Example:
        >>> from bijectory.apps.posterior import Prior, NeuralPosterior, rank, sbc
        >>> from bijectory import StandardNormal
        >>> from torch.distributions import Normal
        >>> posterior = NeuralPosterior(StandardNormal(1).double(), Prior([Normal(0.0, 1.0)]), (1,))
        >>> sbc(rank(posterior, (torch.randn(300, 1), torch.zeros(300, 1)))).ok
        True
    """
    found = pairs if isinstance(pairs, Simulations) else Simulations.of(*pairs)
    check(len(found) >= 50, DataError, f"calibration needs at least 50 pairs, got {len(found)}.")
    check(draws >= 10, ConfigError, f"draws must be at least 10, got {draws}.")
    drawn = torch.cat([posterior.sample_each(draws, x, seed=seed + k) for k, x in enumerate(found.x.split(500))], 1)
    return Ranked(posterior, found.theta, found.x, drawn, seed)


def sbc(ranked: Ranked, *, level: float = 0.95) -> CalibrationTest:
    """Simulation-based calibration: ranks of the true parameters, one test for each parameter.

    References:
        Validating Bayesian Inference Algorithms with Simulation-Based Calibration, Talts, Betancourt, Simpson, Vehtari,
        Gelman 2018, arXiv:1804.06788, algorithm 2; bands: Säilynoja, Bürkner, Vehtari 2021, arXiv:2103.10522.
    """
    below = (ranked.draws < ranked.theta).sum(0).double().numpy()
    rng = np.random.default_rng(ranked.seed)
    u = (below + rng.random(below.shape)) / (len(ranked.draws) + 1)
    names = ranked.posterior.prior.names
    values = {name: u[:, k] for k, name in enumerate(names)}
    spread = float(np.mean((u - 0.5) ** 2) * 12)  # 1 if uniform; the ranks of a narrow posterior crowd at the ends
    return CalibrationTest("SBC", _tested(values, level), values, _lean(spread))


def coverage(ranked: Ranked, *, level: float = 0.95) -> CalibrationTest:
    """Expected coverage of the regions of highest density, for every nominal level.

    References:
        A Trust Crisis In Simulation-Based Inference?, Hermans, Delaunoy, Rozet, Wehenkel, Begy, Louppe 2021,
        arXiv:2110.06581, eq. 1 and 3; Deistler, Goncalves, Macke 2022, arXiv:2210.04815, app. E.
    """
    inner = ranked.posterior.log_prob_each(ranked.draws, ranked.x)
    own = ranked.posterior.log_prob_each(ranked.theta, ranked.x)
    above = (inner > own).sum(0).double().numpy()
    rng = np.random.default_rng(ranked.seed + 1)
    u = (above + rng.random(above.shape)) / (len(ranked.draws) + 1)
    values = {"highest density": u}
    return CalibrationTest("expected coverage", _tested(values, level), values, _lean(float(2 * u.mean())))


def tarp(ranked: Ranked, *, level: float = 0.95) -> CalibrationTest:
    """Tests of accuracy with random points: how many draws are nearer to a random reference than the true parameters.

    The references are uniform on the box of the true parameters, distances are Euclidean in units of their spread.

    References:
        Sampling-Based Accuracy Testing of Posterior Estimators for General Inference, Lemos, Coogan, Hezaveh,
        Perreault-Levasseur 2023, arXiv:2302.03026, algorithm 2.
    """
    low, high = ranked.theta.amin(0), ranked.theta.amax(0)
    generator = torch.Generator().manual_seed(ranked.seed)
    reference = low + (high - low) * torch.rand(ranked.theta.shape, generator=generator, dtype=low.dtype)
    scale = ranked.theta.std(0).clamp(min=1e-300)
    own = ((ranked.theta - reference) / scale).square().sum(-1)
    inner = ((ranked.draws - reference) / scale).square().sum(-1)
    nearer = (inner < own).sum(0).double().numpy()
    rng = np.random.default_rng(ranked.seed + 2)
    u = (nearer + rng.random(nearer.shape)) / (len(ranked.draws) + 1)
    values = {"random points": u}
    return CalibrationTest("TARP", _tested(values, level), values, _lean(float(np.mean((u - 0.5) ** 2) * 12)))


def _tested(values: dict[str, Array], level: float) -> dict[str, Uniformity]:
    return {name: uniformity(u, level=level) for name, u in values.items()}


def _lean(spread: float) -> str:
    return "overconfident" if spread > 1.05 else "underconfident" if spread < 0.95 else ""


def predictive_p(predicted: Tensor, x: Tensor) -> float:
    """Posterior predictive check: part of the simulations from the posterior that lie as far out as the observation.

    The distance is that from the median of the simulations, value by value in units of their deviation, squared and summed;
    of several independent observations the mean. A value below 0.01 says that the simulator, with any parameters that the
    posterior offers, does not make such data.

    Args:
        predicted: ``(m, *event)``, as ``posterior.predictive`` returns them.
        x: The observation, ``event`` or ``(n, *event)``.

    Example:
        >>> predicted = torch.randn(999, 3, generator=torch.Generator().manual_seed(0))
        >>> predictive_p(predicted, torch.zeros(3)), predictive_p(predicted, torch.full((3,), 5.0))
        (1.0, 0.001)
    """
    made = predicted.flatten(1)
    observed = x.reshape(-1, made.shape[1])
    known = observed.isfinite().all(0) & made.isfinite().all(0)
    made, observed = made[:, known], observed[:, known]
    centre, scale = made.median(0).values, made.std(0)
    scale = torch.where(scale > 0, scale, 1.0)
    far, own = (((v - centre) / scale).square().sum(1) for v in (made, observed))
    return (int((far >= own.mean()).sum()) + 1) / (len(far) + 1)


@dataclasses.dataclass(frozen=True)
class LocalTest:
    """Local two-sample test at one observation.

    Attributes:
        statistic: Mean squared distance of the classifier's probability from one half.
        null: The same for classifiers that were trained on shuffled labels.
        p: Part of the null at least as large.
    """

    statistic: float
    null: Array
    p: float

    @property
    def ok(self) -> bool:
        """Whether the p-value is above 0.05."""
        return self.p > 0.05

    def __repr__(self) -> str:
        return f"local C2ST: {'passes' if self.ok else 'fails'}, statistic {self.statistic:.2g}, p = {self.p:.2g}"


def local_c2st(
    posterior: Posterior,
    pairs: Simulations | tuple[Any, Any],
    x: Any = None,
    *,
    trials: int = 50,
    draws: int = 1000,
    seed: int = 0,
) -> LocalTest:
    r"""Is the posterior right at *this* observation?

    A classifier of :math:`(\theta, x)` against :math:`(\theta_q, x)`, :math:`\theta_q \sim q(\theta|x)`, is trained on
    all pairs and evaluated at the observation: :math:`\hat t(x) = E_{q(\theta|x)} (d(\theta, x) - \frac12)^2`. Its
    distribution if :math:`q` were right comes from the same classifier on shuffled labels. The classifier sees the
    parameters in units of the posterior, :math:`r = (\theta - \bar\theta(x)) / s(x)`, together with :math:`r^2` and
    :math:`x`: what is too narrow or shifted shows in few pairs.

    Args:
        posterior: The posterior.
        pairs: Fresh simulations; vectors, or anything that can be flattened.
        x: The observation; None for that of the posterior.
        trials: Number of classifiers with shuffled labels: the least p-value is ``1 / (trials + 1)``.
        draws: At the observation.
        seed: Of draws, classifier and shuffling.

    References:
        L-C2ST: Local Diagnostics for Posterior Approximations in Simulation-Based Inference, Linhart, Gramfort, Rodrigues
        2023, arXiv:2306.03580, eq. 10, algorithms 1 and 2.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    found = pairs if isinstance(pairs, Simulations) else Simulations.of(*pairs)
    given = posterior._given(x)
    drawn = torch.cat([posterior.sample_each(65, x, seed=seed + k) for k, x in enumerate(found.x.split(500))], 1)
    own, reference = drawn[0], drawn[1:]
    flat = found.x.flatten(1).nan_to_num()
    features = torch.cat([_residuals(theta, reference, flat) for theta in (found.theta, own)]).numpy()
    labels = np.repeat([1, 0], len(found))
    here = posterior.sample(draws, x, seed=seed + 1)
    spot = _residuals(here, here[:, None], given.flatten().nan_to_num().expand(draws, -1)).numpy()
    loc, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1.0
    features, spot = (features - loc) / scale, (spot - loc) / scale
    width = min(10 * features.shape[1], 100)
    rng, scores = np.random.default_rng(seed), []
    for trial in range(trials + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net = MLPClassifier((width, width), alpha=1.0, max_iter=50, random_state=seed + trial)
            net.fit(features, labels if trial == 0 else rng.permutation(labels))
        scores.append(float(np.mean((net.predict_proba(spot)[:, 1] - 0.5) ** 2)))
    null = np.array(scores[1:])
    return LocalTest(scores[0], null, float((1 + (null >= scores[0]).sum()) / (1 + trials)))


def _residuals(theta: Tensor, reference: Tensor, x: Tensor) -> Tensor:
    """Parameters ``(m, features)`` in units of draws ``(k, m or 1, features)``, their squares, and the data."""
    r = (theta - reference.mean(0)) / reference.std(0).clamp(min=1e-300)
    return torch.cat((r, r.square(), x), 1)

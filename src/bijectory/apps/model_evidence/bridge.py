r"""Evidence by bridge sampling: draws of the posterior and draws of a proposal meet in the middle.

For any function :math:`h`, :math:`Z = E_q[\tilde p\,h] / E_p[q\,h]`. The best is
:math:`h = (s_1 \tilde p + s_2 Z q)^{-1}` with the shares :math:`s_1, s_2` of the two sets of draws, which contains the
unknown :math:`Z`: a fixed point. Both integrands are bounded, by :math:`1/s_1` and :math:`1/s_2`, so that neither a proposal
that is too narrow nor one that is too wide ruins the estimate; what counts is that the two overlap.

References:
    Simulating ratios of normalizing constants via a simple identity, Meng, Wong 1996, Statistica Sinica 6, eq. 4.1.
    A tutorial on bridge sampling, Gronau+ 2017, J. Math. Psych. 81, arXiv:1703.05984, eq. 15 (iteration).
    Estimating marginal likelihoods for mixture and Markov switching models, Frühwirth-Schnatter 2004, Econometrics J. 7
    (relative mean-squared error); Gronau+ 2017, eq. 16 and appendix.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bijectory.apps.model_evidence.estimate import MIN_ESS, RHAT_LIMIT, EvidenceEstimate, judged
from bijectory.apps.model_evidence.learned import learn_density
from bijectory.apps.model_evidence.problem import Model, Problem, halves, log_mean_exp, read_draws
from bijectory.apps.variational.convergence import ess, rhat
from bijectory.apps.variational.diagnostics import weighted_draws
from bijectory.apps.variational.proposal import log_mixture
from bijectory.densities import Flow
from bijectory.errors import ConfigError, ConvergenceError, check

ROUNDS, TOLERANCE = 1000, 1e-10
MIN_CHAINS = 4  # fewer tell nothing about their spread
MIN_OVERLAP = 50.0  # effective number of draws in the region where both densities count


def bridge_evidence(
    model: Model,
    samples: Any,
    parameters: Any = None,
    *,
    flow: Flow | None = None,
    draws: int = 10_000,
    seed: int = 0,
    warn: bool = True,
) -> EvidenceEstimate:
    r"""Evidence by optimal bridge sampling between posterior draws and a flow.

    .. math:: \hat r \leftarrow \frac{\frac{1}{N_2}\sum_j \frac{l_{2j}}{s_1 l_{2j} + s_2 \hat r}}
        {\frac{1}{N_1}\sum_i \frac{1}{s_1 l_{1i} + s_2 \hat r}}, \qquad l = \frac{\tilde p}{q}

    in logarithms, with :math:`s_1 \propto` the effective number of posterior draws. The squared standard error of
    :math:`\log\hat Z` is the relative mean-squared error :math:`\frac{V_q[f_1]}{N_2 E_q[f_1]^2} + \frac{V_p[f_2]}
    {\mathrm{ESS}(f_2) E_p[f_2]^2}`, where the ESS takes in the autocorrelation of the draws; the second term is not taken
    smaller than the spread of the means of four or more chains says.

    Args:
        model: A fitted ``VariationalPosterior``; or a log-density (or ``Joint``), with ``flow`` or without.
        samples: Draws of the posterior: ``Chains``, ``(chains, n, width)``, ``(n, width)``, or a data frame with a column
            "chain". They must not have been used to fit the proposal.
        parameters: Declaration as in ``fit_posterior``, of a log-density.
        flow: The proposal; that of the posterior by default. Without either, one is learned from half of the draws (every
            other chain), and the other half makes the estimate.
        draws: Draws of the proposal.
        seed: Of the draws and of the learning.
        warn: Warn where the estimate cannot be trusted.

    Returns:
        The estimate; ``diagnostics`` has rounds, ess (of the draws), rhat, overlap_draws, overlap_proposal.

    Raises:
        ConvergenceError: If the fixed point is not found: proposal and posterior do not overlap.
        FlowError: If the draws cannot be used.

    Warns:
        EvidenceWarning: If the chains have not mixed, or proposal and posterior hardly overlap.

    References:
        A tutorial on bridge sampling, Gronau+ 2017, arXiv:1703.05984.

    Example:
        >>> from bijectory import Chain, Flow, StandardNormal
        >>> x = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> flow = Flow(Chain(), StandardNormal(1)).double()
        >>> round(bridge_evidence(lambda x: -0.5 * x[:, 0] ** 2, x, 1, flow=flow).log_z, 2)  # log sqrt(2 pi)
        0.92
    """
    check(draws >= 100, ConfigError, f"draws must be at least 100, got {draws}.")
    problem = Problem.of(model, parameters, flow)
    chains = read_draws(samples, problem.density.parameters)
    proposal = problem.flow
    if proposal is None:
        known, chains = halves(chains)
        proposal = learn_density(known, problem.density, seed=seed)
    sample, _ = weighted_draws(proposal, problem.density, draws, torch.Generator().manual_seed(seed), warn=False)
    x = torch.from_numpy(chains).reshape(-1, chains.shape[-1])
    l1, l2 = problem.log_density(chains) - log_mixture(proposal, x), sample.weights.log_ratios
    worth = min(float(np.nanmedian(ess(chains, "mean"))), float(len(l1)))
    share = worth / (worth + len(l2))
    log_z, rounds = _fixed_point(l1, l2, share)
    low, high = math.log(share), math.log1p(-share)
    f1 = (l2 - log_z - torch.logaddexp(low + l2 - log_z, torch.full_like(l2, high))).exp()
    f2 = (-torch.logaddexp(low + l1 - log_z, torch.full_like(l1, high))).exp()
    squared = _relative(f1) / len(f1) + _chain_variance(f2.reshape(chains.shape[:2]).numpy())
    overlap = tuple(len(f) / (1 + _relative(f)) for f in (f2, f1))
    mixed = float(np.nanmax(rhat(chains)))
    return judged(
        "bridge",
        log_z,
        math.sqrt(squared),
        {
            "rounds": float(rounds),
            "ess": worth,
            "rhat": mixed,
            "overlap_draws": overlap[0],
            "overlap_proposal": overlap[1],
        },
        [
            (mixed > RHAT_LIMIT, f"R-hat of the draws {mixed:.2f} above {RHAT_LIMIT}: the chains have not mixed"),
            (worth < MIN_ESS, f"{worth:.0f} effective posterior draws, fewer than {MIN_ESS:.0f}"),
            (
                min(overlap) < MIN_OVERLAP,
                f"{min(overlap):.0f} effective draws where proposal and posterior overlap, fewer than {MIN_OVERLAP:.0f}",
            ),
        ],
        warn=warn,
    )


def _fixed_point(l1: Tensor, l2: Tensor, share: float) -> tuple[float, int]:
    """Gronau+ 2017, eq. 15, in logarithms around the median: ``(log Z, rounds)``."""
    centre = l1.median()
    a, b = l1 - centre, l2 - centre
    low, high = math.log(share), math.log1p(-share)
    log_r = torch.zeros((), dtype=a.dtype)
    for rounds in range(1, ROUNDS + 1):
        above = log_mean_exp(b - torch.logaddexp(low + b, high + log_r))
        below = log_mean_exp(-torch.logaddexp(low + a, high + log_r))
        previous, log_r = log_r, above - below
        if abs(float(log_r - previous)) < TOLERANCE:
            return float(log_r + centre), rounds
    raise ConvergenceError(
        f"the bridge did not converge within {ROUNDS} rounds (last change {abs(float(log_r - previous)):.1g} nats): "
        "proposal and posterior draws hardly overlap. Train the proposal longer or take a richer recipe, take more draws, "
        "and check that the draws belong to this log-density."
    )


def _chain_variance(f: NDArray[np.float64]) -> float:
    """Squared relative error of the mean of ``(chains, n)``: by the ESS, and not less than by the means of the chains.

    A chain that is stuck for a while moves its mean by more than the autocorrelation of the others lets expect.
    """
    if f.std() <= 1e-9 * f.mean():
        return 0.0
    within = float(f.var(ddof=1) / min(float(ess(f, "mean")), f.size))
    between = float(f.mean(1).var(ddof=1) / len(f)) if len(f) >= MIN_CHAINS else 0.0
    return max(within, between) / float(f.mean()) ** 2


def _relative(f: Tensor) -> float:
    """Variance over squared mean."""
    return float(f.var(correction=1) / f.mean().square())

r"""Evidence by importance sampling: :math:`Z = E_q[\tilde p(x) / q(x)]` with the flow, and a safety net, as proposal."""

from typing import Any

import torch

from bijectory.apps.model_evidence.estimate import MIN_ESS, EvidenceEstimate, judged
from bijectory.apps.model_evidence.problem import Model, Problem
from bijectory.apps.variational.diagnostics import weighted_draws
from bijectory.densities import Flow
from bijectory.errors import ConfigError, check


def importance_evidence(
    model: Model,
    parameters: Any = None,
    *,
    flow: Flow | None = None,
    draws: int = 10_000,
    seed: int = 0,
    warn: bool = True,
) -> EvidenceEstimate:
    r"""Evidence by importance sampling from a flow.

    .. math:: \hat Z = \frac1S \sum_s r_s, \quad r_s = \frac{\tilde p(x_s)}{q(x_s)}, \qquad
        \mathrm{se}(\log\hat Z) = \sqrt{\tfrac{1}{S}\,\overline{(r_s/\hat Z - 1)^2}}

    with fresh draws of the defensive mixture of ``fit_posterior`` and Pareto-smoothed ratios.

    Args:
        model: A fitted ``VariationalPosterior``; or a log-density (or ``Joint``) with ``flow``.
        parameters: Declaration as in ``fit_posterior``, of a log-density.
        flow: The proposal; that of the posterior by default.
        draws: Number of draws.
        seed: Of the draws.
        warn: Warn where the estimate cannot be trusted.

    Returns:
        The estimate; ``diagnostics`` has khat, ess, draws.

    Raises:
        ConfigError: If there is no proposal, or fewer than 100 draws.
        NonFiniteError: If the density is NaN, or zero at all draws.

    Warns:
        EvidenceWarning: If the Pareto shape is above its limit or few draws are effective.

    References:
        Pareto Smoothed Importance Sampling, Vehtari+ 2015/2024, arXiv:1507.02646.

    Example:
        >>> from bijectory import Chain, Flow, StandardNormal
        >>> flow = Flow(Chain(), StandardNormal(1)).double()
        >>> found = importance_evidence(lambda x: -0.5 * x[:, 0] ** 2, 1, flow=flow)  # log Z = log sqrt(2 pi) = 0.919
        >>> abs(found.log_z - 0.919) < 3 * found.se + 1e-3
        True
    """
    check(draws >= 100, ConfigError, f"draws must be at least 100, got {draws}.")
    problem = Problem.of(model, parameters, flow)
    sample, _ = weighted_draws(
        problem.proposal, problem.density, draws, torch.Generator().manual_seed(seed), warn=False
    )
    log_z, se = sample.weights.log_evidence()
    khat, limit, ess = sample.weights.khat, sample.weights.limit, sample.weights.ess
    return judged(
        "importance",
        float(log_z),
        float(se),
        {"khat": khat, "ess": ess, "draws": float(draws)},
        [
            (
                khat > limit,
                f"Pareto k {khat:.2f} above {limit:.2f}: the proposal is too narrow; train longer or richer",
            ),
            (ess < MIN_ESS, f"{ess:.0f} effective draws of {draws}, fewer than {MIN_ESS:.0f}"),
        ],
        warn=warn,
    )

r"""How good an approximation is: free energy, importance weights, and whether it covers the modes that were found.

The free energy :math:`E_q[\log q - \log\tilde p]` bounds :math:`-\log Z` from above, and its gap to the importance estimate
of :math:`-\log Z` is the divergence :math:`\mathrm{KL}(q \| p)`. Weights see only where ``q`` has draws: a mode without any
leaves them perfect. So at every mode that the search found, typical points of its normal approximation ``r`` are visited:
the median over ``r`` of :math:`\log\tilde p - \log q - \log Z` is 0 where ``q = p`` and large where ``q`` misses the mode.
The peak alone would not do: in many dimensions it is a place without mass.
"""

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from bijectory.apps.importance import ImportanceWarning, ImportanceWeights, psis
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.laplace import Approximation
from bijectory.apps.variational.proposal import draw
from bijectory.densities import Flow
from bijectory.errors import NonFiniteError, check

MISSED = 3.0  # nats by which the flow may be too thin around a mode
NEGLIGIBLE = 1e-3  # share of the mass that nobody misses
VISITS, PROBED = 256, 512


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Draws of the flow, a tenth of them with heavier tails, and their importance weights.

    Attributes:
        x: ``(n, width)``.
        weights: Their weights.
    """

    x: Tensor
    weights: ImportanceWeights


@dataclasses.dataclass(frozen=True)
class Mode:
    """A mode that the search found, and how the flow covers it.

    Attributes:
        at: Values of the parameters.
        log_density: Unnormalised log-density there.
        share: Part of the mass around it, roughly, by its normal approximation.
        deficit: Nats by which the flow's density around it is typically below that of the normalised target.
    """

    at: dict[str, float]
    log_density: float
    share: float
    deficit: float

    @property
    def covered(self) -> bool:
        """Whether the flow is at most 3 nats too thin there, or there is next to no mass."""
        return self.deficit <= MISSED or self.share < NEGLIGIBLE


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    r"""What is known about an approximation.

    Attributes:
        free_energy: :math:`E_q[\log q - \log\tilde p]` for each draw, nats; ``-free_energy`` is the ELBO.
        free_energy_se: Its standard error.
        log_evidence: Importance estimate of :math:`\log Z`.
        log_evidence_se: Its standard error.
        khat: Pareto shape of the importance weights.
        khat_limit: The largest trusted one.
        ess: Effective sample size of the weighted draws.
        draws: Number of draws.
        outside: Share of draws where the density is zero.
        modes: Modes that the search found.

    Example:
        >>> Diagnostics(1.0, 0.1, -0.9, 0.1, 0.3, 0.7, 900.0, 1000, 0.0, ()).verdict
        'good'
    """

    free_energy: float
    free_energy_se: float
    log_evidence: float
    log_evidence_se: float
    khat: float
    khat_limit: float
    ess: float
    draws: int
    outside: float
    modes: tuple[Mode, ...]

    @property
    def missed(self) -> tuple[Mode, ...]:
        """Modes that the flow does not cover."""
        return tuple(m for m in self.modes if not m.covered)

    @property
    def verdict(self) -> str:
        """One of "good", "polish" (the weights cannot be trusted) and "missed modes"."""
        return "missed modes" if self.missed else "good" if self.khat <= self.khat_limit else "polish"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **dataclasses.asdict(self),
            "verdict": self.verdict,
            "modes": [dataclasses.asdict(m) for m in self.modes],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Diagnostics":
        """From what ``to_dict`` gave."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**known, "modes": tuple(Mode(**m) for m in values["modes"])})

    def __str__(self) -> str:
        lines = [
            f"free energy     {self.free_energy:.3f} ± {self.free_energy_se:.3f} nats (minus the ELBO)",
            f"log evidence    {self.log_evidence:.3f} ± {self.log_evidence_se:.3f} by importance sampling",
            f"Pareto k        {self.khat:.2f} (trusted up to {self.khat_limit:.2f})",
            f"effective draws {self.ess:.0f} of {self.draws}",
        ]
        if self.outside:
            lines.append(f"outside         {self.outside:.2%} of the draws have no density")
        for m in self.modes if len(self.modes) > 1 or self.missed else ():
            word = "covered" if m.covered else f"MISSED, {m.deficit:.1f} nats too thin"
            lines.append(f"mode            {', '.join(f'{k}={v:.4g}' for k, v in list(m.at.items())[:6])}: {word}")
        advice = {
            "good": "importance weights can be trusted",
            "polish": "correct the draws with .polish(), train longer, or take a richer recipe",
            "missed modes": 'fit again with anneal=0.5, more starts, or objective="forward"',
        }[self.verdict]
        return "\n".join([*lines, f"verdict         {self.verdict}: {advice}"])


def weighted_draws(
    flow: Flow, density: UnnormalizedDensity, n: int, generator: torch.Generator, *, warn: bool
) -> tuple[Weighted, Tensor]:
    """Draws of the defensive mixture with weights, and ``log p - log q`` of those that are the flow's own."""
    drawn = draw(flow, n, generator)
    ok = drawn.x.isfinite().all(-1) & drawn.log_prob.isfinite()
    lost = int((~ok & drawn.own).sum())
    check(lost < 0.01 * n, NonFiniteError, f"{lost} of {n} draws of the flow are not finite; train with a lower rate.")
    # A draw of the wide part so far out that it overflows counts as one without density.
    x = torch.where(ok.unsqueeze(-1), drawn.x, drawn.x[ok][:1])
    with torch.no_grad():
        log_p = density.tolerant(x)
        density(x[drawn.own][:PROBED])  # names a NaN, should there be one
    ratios = torch.where(ok, log_p - drawn.log_prob, -math.inf)
    return Weighted(x, psis(ratios, warn=warn)), (log_p - drawn.log_flow)[drawn.own & ok]


def diagnose(
    flow: Flow,
    density: UnnormalizedDensity,
    modes: list[Approximation],
    n: int,
    generator: torch.Generator,
    *,
    warn: bool,
) -> tuple[Weighted, Diagnostics]:
    """Fresh draws with weights, and what they tell.

    Warns:
        ImportanceWarning: If the weights cannot be trusted, or a mode is missed.
    """
    sample, ratios = weighted_draws(flow, density, n, generator, warn=warn)
    log_z, log_z_se = sample.weights.log_evidence()
    inside = ratios[ratios > -math.inf]
    with torch.no_grad():
        found = [visit(flow, density, m, float(log_z), generator) for m in modes if m.converged]
    result = Diagnostics(
        free_energy=-float(inside.mean()) if len(inside) == len(ratios) else math.inf,
        free_energy_se=float(inside.std()) / math.sqrt(len(inside)),
        log_evidence=float(log_z),
        log_evidence_se=float(log_z_se),
        khat=sample.weights.khat,
        khat_limit=sample.weights.limit,
        ess=sample.weights.ess,
        draws=len(sample.x),
        outside=1 - len(inside) / len(ratios),
        modes=tuple(found),
    )
    if warn and result.missed:
        where = "; ".join(", ".join(f"{k}={v:.4g}" for k, v in list(m.at.items())[:4]) for m in result.missed)
        warnings.warn(
            f"the flow misses {len(result.missed)} of {len(found)} modes ({where}), which importance weights cannot see. "
            'Fit again with anneal=0.5, objective="forward", or a richer recipe.',
            ImportanceWarning,
            stacklevel=3,
        )
    return sample, result


def visit(
    flow: Flow, density: UnnormalizedDensity, mode: Approximation, log_z: float, generator: torch.Generator
) -> Mode:
    """How the flow covers a mode that a search found."""
    e = torch.randn(VISITS, len(mode.loc), generator=generator, dtype=torch.float64)
    x, _ = density.map.inverse(torch.cat([mode.loc + e @ mode.root.mT, mode.point[None]]))
    log_p = density.tolerant(x)
    gap = (log_p - flow.log_prob(x) - log_z)[:-1]
    inside = gap[gap.isfinite()]
    deficit = float(inside.median()) if len(inside) else 0.0
    at = dict(zip(density.parameters.columns, x[-1].tolist(), strict=True))
    return Mode(at, float(log_p[-1]), min(1.0, math.exp(min(0.0, mode.elbo - log_z))), deficit)

r"""Draws of a flow with a safety net in the tails: a defensive mixture in latent space.

A flow that is right wherever it has draws may still be too thin far out, and a single draw there then outweighs all others.
So a tenth of the latents come from Student's t,

.. math:: m(z) = (1 - \epsilon)\, N(z) + \epsilon \prod_i t_\nu(z_i), \qquad \epsilon = 0.1,\ \nu = 3,

and are pushed through the same flow. The mixture's density costs nothing more: the log-determinant is shared. The weights
:math:`\tilde p / m` are at most :math:`1/(1-\epsilon)` times those of the flow, and far out they are bounded wherever the
posterior, seen from latent space, falls faster than a power.

References:
    Weighted average importance sampling and defensive mixture distributions, Hesterberg 1995, Technometrics 37(2).
"""

import dataclasses
import math

import torch
from torch import Tensor

from bijectory.densities import Flow, StandardNormal, StudentT

SHARE, DOF = 0.1, 3.0


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Draws of a proposal.

    Attributes:
        x: ``(n, width)``.
        log_prob: Log-density of the mixture, ``(n,)``.
        log_flow: Log-density of the flow, ``(n,)``.
        own: Which draws are the flow's own.
    """

    x: Tensor
    log_prob: Tensor
    log_flow: Tensor
    own: Tensor


@torch.no_grad()
def draw(flow: Flow, n: int, generator: torch.Generator) -> Drawn:
    """Independent draws of the defensive mixture; of the flow alone where its base is not a standard normal."""
    z = flow.base.sample(n, generator=generator)
    own = torch.ones(n, dtype=torch.bool)
    if isinstance(flow.base, StandardNormal):
        own = torch.rand(n, generator=generator, dtype=torch.float64) >= SHARE
        z = torch.where(own.unsqueeze(-1), z, _wide(z).sample(n, generator=generator))
    log_base, log_mixture = _latent(flow, z)
    x, ladj = flow.to_data(z)
    return Drawn(x, log_mixture - ladj, log_base - ladj, own)


@torch.no_grad()
def log_mixture(flow: Flow, x: Tensor) -> Tensor:
    """Log-density of what ``draw`` draws at any rows ``(n, width)``: ``(n,)``."""
    z, ladj = flow.to_latent(x)
    return _latent(flow, z)[1] + ladj


def _wide(z: Tensor) -> StudentT:
    return StudentT(z.shape[-1], dof=DOF, learn=False).to(z)


def _latent(flow: Flow, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities of latents under the base and under the mixture."""
    log_base = flow.base.log_prob(z)
    if not isinstance(flow.base, StandardNormal):
        return log_base, log_base
    parts = torch.stack([log_base + math.log1p(-SHARE), _wide(z).log_prob(z) + math.log(SHARE)])
    return log_base, parts.logsumexp(0)

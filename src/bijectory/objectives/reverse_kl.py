r"""Variational inference: reverse Kullback-Leibler divergence to an unnormalised density, the free energy.

.. math:: F = E_{x \sim q}\bigl[\log q(x) - \log\tilde p(x)\bigr] = \mathrm{KL}(q \,\|\, p) - \log Z \ge -\log Z

so :math:`-F` (the ELBO) bounds the log-evidence from below, and the gap is the divergence.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bijectory.densities import Density
from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import weighted_mean


@dataclasses.dataclass
class ReverseKL:
    r"""Free energy of a density against an unnormalised log-density, by draws from the model.

    Pass it to ``fit`` with as many rows as an epoch shall have draws: they are counted, not read. Draws of the model itself
    are a good choice, since data-dependent layers are initialised with them. With contexts, ``(rows, c)``, it is amortised
    inference of :math:`p(x | c)`.

    Args:
        log_density: :math:`\log\tilde p`: ``x -> (*batch,)``, or ``(x, c) -> (*batch,)`` where the batch has contexts.
        gradient: "total" differentiates :math:`\log q(x)` by all that it depends on; "path" only through the draws, which
            leaves out a term of mean zero: no noise is left where :math:`q = p` ("sticking the landing"). It costs one
            more pass, data -> latent.
        draws: Draws for each row.
        beta: Weight of :math:`\log\tilde p` while the model is in training mode; in evaluation mode it counts as 1.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, eq. 15 and 20 (annealing);
        Sticking the Landing, Roeder, Wu, Duvenaud 2017, arXiv:1703.09194.

    Example:
        >>> from bijectory import FitConfig, RezendeMohamed, fit, planar
        >>> target, flow = RezendeMohamed(2), planar(2, layers=4, acts_on="noise")
        >>> result = fit(
        ...     flow,
        ...     flow.sample(512),
        ...     objective=ReverseKL(target.log_unnormalized),
        ...     config=FitConfig(epochs=1, progress=False),
        ... )
        >>> result.steps
        2
    """

    log_density: Callable[..., Tensor]
    gradient: Literal["total", "path"] = "total"
    draws: int = 1
    beta: float = 1.0

    def __call__(self, model: Density, batch: Batch) -> Tensor:
        """Weighted mean over the rows of ``log q - beta log p``, in nats."""
        rows = () if batch.c is not None else (len(batch.x),)
        x, log_q = model.rsample_and_log_prob((self.draws, *rows), batch.c)
        if self.gradient == "path":
            still = {name: p.detach() for name, p in model.named_parameters()}
            log_q = torch.func.functional_call(model, still, (x, batch.c))
        log_p = self.log_density(x) if batch.c is None else self.log_density(x, batch.c)
        beta = self.beta if model.training else 1.0
        return weighted_mean((log_q - beta * log_p).mean(0), batch.weight)

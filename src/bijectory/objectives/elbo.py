r"""Variational autoencoders: the evidence lower bound of every row.

.. math:: \log p(x) \ge E_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z))
"""

import dataclasses
import math
from typing import Protocol

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.objectives.batch import Batch, Objective
from bijectory.objectives.likelihood import weighted_mean


class LatentVariableModel(Protocol):
    """What ``NegativeElbo`` asks of a model: reconstruction and KL terms of draws of its posterior.

    Attributes:
        training: Whether the model is in training mode, as of every ``nn.Module``.
    """

    training: bool

    def elbo_terms(self, x: Tensor, samples: int = 1) -> tuple[Tensor, Tensor]:
        """``log p(x|z)`` and ``log q(z|x) - log p(z)`` of draws, ``(samples, n)`` both, or the mean of the second."""

    def log_weights(self, x: Tensor, samples: int = 1) -> Tensor:
        """``log p(x, z) - log q(z|x)`` of draws, ``(samples, n)``."""


@dataclasses.dataclass(kw_only=True)
class NegativeElbo:
    r"""Negative evidence lower bound of a latent-variable model (``VAE``), nats per event.

    .. math:: \beta\,\max(\lambda, \overline{\mathrm{KL}}) - \overline{\log p(x|z)}

    In evaluation mode the plain bound of one draw: validation, and with it the choice of the best weights, does not see
    :math:`\beta`, free bits or importance weights.

    Args:
        beta: Weight of the KL term; ``Anneal`` raises it from near 0 to 1 (KL warm-up), a constant makes a beta-VAE.
        free_bits: :math:`\lambda`, nats of the KL term, of the mean over the batch, that cost nothing. Of the whole latent:
            a flow posterior has no KL term of one dimension.
        samples: Draws of the posterior for each row.
        importance_weighted: Train the tighter bound :math:`\log\frac1K\sum_k w_k` of ``samples`` draws, without ``beta`` and
            ``free_bits``.

    Raises:
        ConfigError: On a negative number, or no sample.

    References:
        Auto-Encoding Variational Bayes, Kingma, Welling 2013, arXiv:1312.6114, eq. 3; Ladder Variational Autoencoders,
        Sønderby+ 2016, arXiv:1602.02282 (warm-up); Improving Variational Inference with Inverse Autoregressive Flow,
        Kingma+ 2016, arXiv:1606.04934, app. C.8 (free bits); Importance Weighted Autoencoders, Burda, Grosse,
        Salakhutdinov 2016, arXiv:1509.00519, eq. 8; beta-VAE, Higgins+ 2017.

    Example:
        >>> from bijectory.apps.vae import build_vae
        >>> vae = build_vae((4,), latent=2, likelihood="gaussian", hidden=(8,))
        >>> NegativeElbo(beta=0.5)(vae, Batch(torch.zeros(5, 4))).shape
        torch.Size([])
    """

    beta: float = 1.0
    free_bits: float = 0.0
    samples: int = 1
    importance_weighted: bool = False

    def __post_init__(self) -> None:
        ok = self.beta >= 0 and self.free_bits >= 0
        check(ok, ConfigError, f"beta={self.beta} and free_bits={self.free_bits} must not be negative.")
        check(self.samples >= 1, ConfigError, f"samples must be at least 1, got {self.samples}.")

    def __call__(self, model: LatentVariableModel, batch: Batch) -> Tensor:
        """Weighted mean over the rows."""
        if model.training and self.importance_weighted:
            log_w = model.log_weights(batch.x, self.samples)
            return -weighted_mean(log_w.logsumexp(0) - math.log(self.samples), batch.weight)
        reconstruction, kl = model.elbo_terms(batch.x, self.samples if model.training else 1)
        fit, divergence = (weighted_mean(t.mean(0), batch.weight) for t in (reconstruction, kl))
        if not model.training:
            return divergence - fit
        return self.beta * divergence.clamp_min(self.free_bits) - fit


@dataclasses.dataclass(frozen=True)
class BinarizedData:
    """Another objective on fresh binary draws, pixel by pixel, of intensities in [0, 1]: dynamic binarization.

    Grey images become a distribution of binary ones, which no training set exhausts. Validation is binarized too, always
    in the same way.

    Args:
        objective: What to compute.

    References:
        On the Quantitative Analysis of Deep Belief Networks, Salakhutdinov, Murray 2008; Importance Weighted
        Autoencoders, Burda+ 2016, arXiv:1509.00519, sec. 5.

    Example:
        >>> from bijectory import StandardNormal
        >>> from bijectory.objectives import nll
        >>> round(BinarizedData(nll)(StandardNormal(1), Batch(torch.ones(3, 1))).item(), 4)  # always 1
        1.4189
    """

    objective: Objective

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Evaluate the objective on binary rows."""
        return self.objective(model, batch._replace(x=torch.bernoulli(batch.x)))

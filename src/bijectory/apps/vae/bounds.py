"""What evaluations of a variational autoencoder return."""

import dataclasses
import math

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LogLikelihood:
    r"""Importance-weighted estimates of :math:`\log p(x)`, one for each row.

    .. math:: \log\hat p = \log\frac1S\sum_s w_s, \qquad \mathrm{ESS} = \frac{(\sum_s w_s)^2}{\sum_s w_s^2}, \qquad
        \mathrm{se} = \sqrt{1/\mathrm{ESS} - 1/S}

    The error is that of the draws by the delta method. It and the estimate can be trusted where the ESS is not small; with
    an ESS of a few draws the estimate is a lower bound that lies well below :math:`\log p(x)`.

    Attributes:
        log_prob: Estimates, nats, ``(n,)`` float64.
        se: Standard errors, ``(n,)``.
        ess: Effective numbers of draws, ``(n,)``, between 1 and ``samples``.
        samples: Draws of each row.

    Example:
        >>> import torch
        >>> flat = LogLikelihood.of_sums(torch.full((2,), 100.0).log(), torch.full((2,), 100.0).log(), 100)
        >>> flat.log_prob.tolist(), [round(v) for v in flat.ess.tolist()]
        ([0.0, 0.0], [100, 100])
    """

    log_prob: Tensor
    se: Tensor
    ess: Tensor
    samples: int

    @classmethod
    def of_sums(cls, log_sum: Tensor, log_squares: Tensor, samples: int) -> "LogLikelihood":
        """From the logarithms of the sums of the weights and of their squares, ``(n,)`` both."""
        ess = (2 * log_sum - log_squares).exp().clamp(1, samples)
        return cls(log_sum - math.log(samples), (1 / ess - 1 / samples).clamp_min(0).sqrt(), ess, samples)

    @property
    def mean(self) -> float:
        """Mean over the rows, nats."""
        return float(self.log_prob.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean: of the rows, the errors of the draws included; NaN for a single row."""
        n = len(self.log_prob)
        return float(self.log_prob.std()) / math.sqrt(n) if n > 1 else math.nan

    @property
    def monte_carlo_error(self) -> float:
        """The part of it that more samples would remove."""
        return float(self.se.square().sum().sqrt()) / max(1, len(self.se))

    def __str__(self) -> str:
        few = float((self.ess < 10).double().mean()) if len(self.ess) else 0.0
        return (
            f"{self.mean:.3f} ± {self.standard_error:.3f} nats ({len(self.log_prob)} rows, {self.samples} samples, median "
            f"ESS {float(self.ess.median()) if len(self.ess) else math.nan:.0f}, {few:.0%} of the rows below 10)"
        )


@dataclasses.dataclass(frozen=True)
class ActiveUnits:
    """Latent dimensions that the data move.

    Attributes:
        count: How many are active.
        variance: Variance of the posterior means over the data, ``(latent,)``.

    Example:
        >>> import torch
        >>> ActiveUnits(1, torch.tensor([0.9, 0.0])).count
        1
    """

    count: int
    variance: Tensor

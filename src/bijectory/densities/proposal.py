r"""A broad proposal fitted to points, to measure the mass of a density: :math:`\int p = E_{x \sim r}[p(x)/r(x)]`.

Half of ``r`` is one multivariate Student t with the mean and covariance of the points, half a mixture of small ones
centred on some of the points. The first half covers the tails, the second modes and bent shapes. Both have heavy
tails, so the weights ``p/r`` stay bounded wherever ``p`` falls faster than a power.
"""

import dataclasses
import math

import torch
from torch import Tensor

DEGREES = 2.0
CENTRES = 256


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A defensive mixture of Student t distributions in float64.

    Attributes:
        mean: ``(n,)``.
        root: Cholesky factor of the covariance, ``(n, n)``.
        centres: ``(k, n)``.
        bandwidth: Size of a small component relative to the large one.
    """

    mean: Tensor
    root: Tensor
    centres: Tensor
    bandwidth: float

    @classmethod
    def fit(cls, x: Tensor) -> "Proposal":
        """Fit to points ``(rows, n)``; at least two rows."""
        x = x.detach().double()
        rows, n = x.shape
        cov = torch.cov(x.T).reshape(n, n)
        cov = cov + torch.diag(1e-6 * cov.diagonal() + 1e-12)
        centres = x[torch.linspace(0, rows - 1, min(CENTRES, rows), device=x.device).long()]
        return cls(x.mean(0), torch.linalg.cholesky(cov), centres, len(centres) ** (-1 / (n + 4)))

    def sample(self, size: int, generator: torch.Generator) -> Tensor:
        """Points ``(size, n)``, one half from each part."""
        n, device = len(self.mean), self.mean.device
        e = torch.randn(size, n, generator=generator, dtype=torch.float64, device=device) @ self.root.T
        # chi^2 with 2 degrees of freedom is exponential with mean 2
        half_chi = torch.empty(size, 1, dtype=torch.float64, device=device).exponential_(generator=generator)
        e = e / half_chi.mul(2 / DEGREES).sqrt()
        near = torch.randint(len(self.centres), (size,), generator=generator, device=device)
        small = (torch.arange(size, device=device) % 2 == 1).unsqueeze(-1)
        return torch.where(small, self.centres[near] + self.bandwidth * e, self.mean + e)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density ``(rows,)`` of points ``(rows, n)``."""
        white = self.whiten(x)
        large = _student(white.square().sum(-1), x.shape[-1])
        d2 = torch.cdist(white, self.whiten(self.centres)).square() / self.bandwidth**2
        small = _student(d2, x.shape[-1]).logsumexp(-1) - math.log(len(self.centres))
        small = small - x.shape[-1] * math.log(self.bandwidth)
        return torch.logaddexp(large, small) - math.log(2) - self.root.diagonal().log().sum()

    def whiten(self, x: Tensor) -> Tensor:
        """Points ``(rows, n)`` centred and in units of the covariance of the fit."""
        rows = (x - self.mean).T
        return torch.linalg.solve_triangular(self.root, rows, upper=False).T


def _student(squared: Tensor, n: int) -> Tensor:
    """Log-density of the standard multivariate t at a squared radius."""
    a = (DEGREES + n) / 2
    constant = math.lgamma(a) - math.lgamma(DEGREES / 2) - n / 2 * math.log(DEGREES * math.pi)
    return constant - a * torch.log1p(squared / DEGREES)

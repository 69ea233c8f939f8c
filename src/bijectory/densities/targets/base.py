r"""Targets: densities with a known normalising constant and a sampler, for tests, demonstrations and variational work.

A target has no weights. Its ``log_prob`` is normalised, as that of every density; ``log_unnormalized`` is what a variational
fit or an evidence estimate is given, and ``log_z`` the answer it should find:

.. math:: \log p(x) = \log\tilde p(x) - \log Z, \qquad Z = \int \tilde p(x)\,dx
"""

import abc

import torch
from torch import Tensor

from bijectory.densities.base import Density
from bijectory.ops.shape import draw_shape


class Target(Density):
    """A density without weights, with known ``log_z`` and an exact sampler.

    Attributes:
        log_z: Logarithm of the normalising constant of ``log_unnormalized``.
    """

    log_z: float = 0.0
    _like: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.event_shape = torch.Size((features,))
        self.register_buffer("_like", torch.empty(0), persistent=False)  # carries dtype and device of the draws

    @abc.abstractmethod
    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Logarithm of the unnormalised density: ``(*batch, features) -> (*batch,)``."""

    @abc.abstractmethod
    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        """Exact independent draws ``(*batch, features)``."""

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Normalised log-density in nats: ``log_unnormalized - log_z``."""
        return self.log_unnormalized(x, c) - self.log_z

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Same as ``sample``: a target has no weights that a gradient could reach."""
        with torch.no_grad():
            return self._draw(draw_shape(shape, c, torch.Size()), generator)

    def _normal(self, size: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.randn(size, generator=generator, dtype=self._like.dtype, device=self._like.device)

    def _uniform(self, size: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.rand(size, generator=generator, dtype=self._like.dtype, device=self._like.device)

    def _choice(self, n: int, size: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.randint(n, size, generator=generator, device=self._like.device)

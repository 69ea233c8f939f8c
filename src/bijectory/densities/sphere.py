r"""Densities on the unit sphere :math:`S^{n-1}` of :math:`\mathbb R^n`, with respect to its area.

Events are unit vectors. Other vectors have density 0: a norm may differ from 1 by 1e-3, as that of a rounded table does, and
the error of the log-density is then of that order. Densities of this kind have ``surface = True``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density
from bijectory.errors import ConfigError, check
from bijectory.nets import Sphere
from bijectory.ops.geometry import dot
from bijectory.ops.scalar import soft_bound
from bijectory.ops.shape import draw_shape
from bijectory.ops.sphere import angle_density, cap_mass, log_area, log_normalizer, von_mises_fisher_angle


class UniformSphere(Density):
    r"""Uniform law of the unit sphere: one over its area, :math:`\log p = -\log(2 \pi^{n/2} / \Gamma(n/2))`.

    Args:
        features: ``n``, the length of the vectors.

    Raises:
        ConfigError: If ``features < 2``.

    Example:
        >>> p = UniformSphere(3)
        >>> p.log_prob(torch.tensor([[0.6, 0.0, 0.8], [1.0, 1.0, 1.0]]))
        tensor([-2.5310,    -inf])
    """

    surface = True
    _like: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.manifold, self.features, self.event_shape = Sphere(features), features, torch.Size((features,))
        self.register_buffer("_like", torch.empty(0), persistent=False)  # carries dtype and device

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        flat = 0.0 * x.sum(-1) - log_area(self.features)  # part of the graph: the score of a uniform density is zero
        return torch.where(self.manifold.inside(x) | x.isnan().any(-1), flat, -math.inf)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size, like = draw_shape(shape, c, self.event_shape), self._like
        return self.manifold.nearest(torch.randn(size, generator=generator, dtype=like.dtype, device=like.device))


class VonMisesFisher(Density):
    r"""Von Mises-Fisher law, the isotropic normal law of the sphere around a mean direction :math:`\mu`.

    .. math:: \log p(x) = -\tfrac\kappa2 |x - \mu|^2 - \log Z_n(\kappa), \qquad
        Z_3(\kappa) = 2\pi \, (1 - e^{-2\kappa}) / \kappa

    The normaliser is accurate to rounding for every :math:`n`, by quadrature. Direction and concentration are learned,
    :math:`\kappa = \kappa_0 \exp(D\tanh(a/D))`. Draws are exact, by Wood's rejection, and differentiable: in the direction
    directly, in the concentration implicitly, with the mass of the cap held fixed.

    Args:
        direction: Starting :math:`\mu`, divided by its norm; its length is ``n``.
        concentration: Starting :math:`\kappa_0 > 0`.
        max_log_ratio: The bound ``D > 0`` on :math:`|\log\kappa/\kappa_0|`.

    Raises:
        ConfigError: If there are less than two numbers, all are 0, or one is not finite or not positive where it must.

    References:
        Dispersion on a Sphere, Fisher 1953, Proceedings of the Royal Society A 217.
        Simulation of the von Mises Fisher distribution, Wood 1994, Communications in Statistics 23(1).
        Implicit Reparameterization Gradients, Figurnov, Mohamed, Mnih 2018, arXiv:1805.08498.

    Example:
        >>> p = VonMisesFisher((0.0, 0.0, 1.0), concentration=10.0)
        >>> p.log_prob(torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]])).detach()
        tensor([ 0.4647, -1.5353])
    """

    surface = True

    def __init__(self, direction: Sequence[float], concentration: float = 1.0, max_log_ratio: float = 6.0) -> None:
        super().__init__()
        self.direction, self.concentration, self.max_log_ratio = tuple(direction), concentration, max_log_ratio
        size = math.hypot(*self.direction)
        ok = len(self.direction) >= 2 and 0 < size < math.inf
        check(ok, ConfigError, f"direction must be at least two finite numbers, not all 0, got {direction!r}.")
        for name in ("concentration", "max_log_ratio"):
            value = getattr(self, name)
            ok = math.isfinite(value) and value > 0
            check(ok, ConfigError, f"{name} must be a positive finite number, got {value!r}.")
        self.manifold = Sphere(len(self.direction))
        self.event_shape = torch.Size((len(self.direction),))
        self.loc = nn.Parameter(torch.tensor([v / size for v in self.direction]))
        self.log_ratio = nn.Parameter(torch.zeros(()))

    def _kappa(self) -> Tensor:
        return self.concentration * soft_bound(self.log_ratio, self.max_log_ratio).exp()

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        kappa, off = self._kappa(), x - self.manifold.nearest(self.loc)
        log_z = log_normalizer(kappa, len(self.direction)).to(x.dtype)
        value = -kappa / 2 * off.square().sum(-1) - log_z
        return torch.where(self.manifold.inside(x) | x.isnan().any(-1), value, -math.inf)

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        with torch.no_grad():
            size = draw_shape(shape, c, torch.Size())
            return self._place(von_mises_fisher_angle(size, self._kappa(), len(self.direction), generator), generator)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        kappa, n = self._kappa(), len(self.direction)
        with torch.no_grad():
            angle = von_mises_fisher_angle(draw_shape(shape, c, torch.Size()), kappa, n, generator)
            density = angle_density(angle, kappa, n).clamp(min=torch.finfo(torch.float64).tiny)
        mass = cap_mass(angle, kappa, n)
        return self._place(angle - (mass - mass.detach()) / density, generator)

    def _place(self, angle: Tensor, generator: torch.Generator | None) -> Tensor:
        """Points at an angle to the mean, in directions drawn uniformly around it."""
        mean = self.manifold.nearest(self.loc.double())
        e = torch.randn(
            (*angle.shape, *self.event_shape), generator=generator, dtype=torch.float64, device=angle.device
        )
        side = self.manifold.nearest(e - dot(e, mean) * mean)
        angle = angle.unsqueeze(-1)
        return (angle.cos() * mean + angle.sin() * side).to(self.loc.dtype)

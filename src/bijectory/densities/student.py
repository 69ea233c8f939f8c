"""Student's t: a base with power-law tails."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, as_event_shape, open_unit
from bijectory.errors import ConfigError, check
from bijectory.ops.shape import draw_shape, sum_event

_FAR = 1e3  # beyond it log(1 + t^2) is 2 log hypot(1, t), which cannot overflow


class StudentT(Density):
    r"""Independent standard Student's t for each feature, degrees of freedom :math:`\nu_i` learned or fixed.

    .. math::
        \log p(x) = \sum_i \log\Gamma\tfrac{\nu_i + 1}{2} - \log\Gamma\tfrac{\nu_i}{2} - \tfrac12\log \pi\nu_i
            - \tfrac{\nu_i + 1}{2}\log\left(1 + \frac{x_i^2}{\nu_i}\right)

    Location and scale are left to the flow. As a base it gives each feature power-law tails of index :math:`\nu_i`, which
    no Lipschitz flow can make from a normal base. Draws are differentiable in :math:`\nu`: Bailey's polar method,
    :math:`\sqrt{\nu(U^{-2/\nu} - 1)}\cos 2\pi V` with uniform ``U, V``.

    Args:
        event_shape: An int (number of features) or a shape.
        dof: Degrees of freedom (at the start, if learned), a number or nested sequences that broadcast to ``event_shape``.
        learn: Whether the dof are learned, as ``dof * exp(log_factor)`` with weights ``log_factor`` that start at zero.

    Raises:
        ConfigError: If ``dof`` is not positive and finite, or does not broadcast.

    References:
        Polar generation of random variates with the t-distribution, Bailey 1994, Mathematics of Computation 62(206).
        Tails of Lipschitz Triangular Flows, Jaini, Kobyzev, Yu, Brubaker 2020, arXiv:1907.04481.
        Marginal Tail-Adaptive Normalizing Flows, Laszkiewicz, Lederer, Fischer 2022, arXiv:2206.10311.

    Example:
        >>> StudentT(1, dof=1.0, learn=False).log_prob(torch.tensor([[0.0], [1e6]])).exp()
        tensor([3.1831e-01, 3.1831e-13])
    """

    log_factor: Tensor

    def __init__(
        self, event_shape: int | Sequence[int], dof: float | Sequence[float] = 5.0, *, learn: bool = True
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        self.dof, self.learn = dof, learn
        try:
            value = torch.tensor(dof, dtype=torch.float64).expand(self.event_shape)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(
                f"dof must be a number or broadcast to {tuple(self.event_shape)}, got {dof!r}."
            ) from error
        check(bool((value.isfinite() & (value > 0)).all()), ConfigError, f"dof must be positive, got {dof!r}.")
        log_factor = torch.zeros(self.event_shape)
        if learn:
            self.log_factor = nn.Parameter(log_factor)
        else:
            self.register_buffer("log_factor", log_factor, persistent=False)

    def _dof(self) -> Tensor:
        like = self.log_factor
        return torch.tensor(self.dof, dtype=like.dtype, device=like.device) * like.exp()

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        dof = self._dof()
        t = x / dof.sqrt()
        far = t.abs() > _FAR
        near = torch.where(far, 0.0, t).square().log1p()
        tail = 2 * torch.hypot(torch.ones_like(t), torch.where(far, t, 1.0)).log()
        half = dof.double() / 2  # in float64: for large dof the two log-gammas cancel
        log_norm = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (2 * math.pi * half).log()
        kernel = (dof + 1) / 2 * torch.where(far, tail, near)
        return sum_event(log_norm.to(x.dtype) - kernel, len(self.event_shape))

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        size = draw_shape(shape, c, self.event_shape)
        dtype, device = self.log_factor.dtype, self.log_factor.device
        # -log U as one draw: far finer in the tails than the logarithm of a uniform draw.
        exponential = torch.empty(size, dtype=dtype, device=device).exponential_(generator=generator)
        angle = 2 * math.pi * torch.rand(size, generator=generator, dtype=dtype, device=device)
        dof = self._dof()
        return (dof * torch.expm1(2 * exponential / dof)).sqrt() * angle.cos()

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        """Quantiles by SciPy on the CPU, without gradients: the inverse of the incomplete beta function."""
        from scipy.special import stdtrit

        like = self.log_factor
        with torch.no_grad():
            dof = self._dof().double().cpu().numpy()
            return torch.as_tensor(stdtrit(dof, open_unit(u).cpu().numpy())).to(dtype=like.dtype, device=like.device)

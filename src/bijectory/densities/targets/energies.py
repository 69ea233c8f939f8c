"""The four test energies of Rezende and Mohamed."""

import math

import torch
from torch import Tensor

from bijectory.densities.targets.base import Target
from bijectory.errors import ConfigError, ConvergenceError, check

_PLAIN = 4.0  # energies 2 to 4 are flat along x_1 up to here, as the paper plots them
_ROOT = math.sqrt(2 * math.pi)
_LOG_Z_1 = 1.877501626109707  # two-dimensional quadrature; the digits are confirmed by a test
_SPREAD = 1.5  # of the proposal for energy 1
_MAX_ROUNDS = 1000


def _bump(v: Tensor, scale: float) -> Tensor:
    return -0.5 * (v / scale).square()


class RezendeMohamed(Target):
    r"""Energy :math:`U_1 \dots U_4` in two dimensions, :math:`\log\tilde p = -U_k`.

    .. math::
        U_1 &= \tfrac12\left(\tfrac{\|x\| - 2}{0.4}\right)^2
            - \log\left(e^{-\frac12(\frac{x_1 - 2}{0.6})^2} + e^{-\frac12(\frac{x_1 + 2}{0.6})^2}\right) \\
        U_2 &= \tfrac12\left(\tfrac{x_2 - w_1}{0.4}\right)^2 \\
        U_3 &= -\log\left(e^{-\frac12(\frac{x_2 - w_1}{0.35})^2} + e^{-\frac12(\frac{x_2 - w_1 + w_2}{0.35})^2}\right) \\
        U_4 &= -\log\left(e^{-\frac12(\frac{x_2 - w_1}{0.4})^2} + e^{-\frac12(\frac{x_2 - w_1 + w_3}{0.35})^2}\right)

    with :math:`w_1 = \sin\frac{2\pi x_1}{4}`, :math:`w_2 = 3 e^{-\frac12(\frac{x_1 - 1}{0.6})^2}` and
    :math:`w_3 = 3\,\sigma(\frac{x_1 - 1}{0.3})`. Energies 2 to 4 do not decay along :math:`x_1`: as published they have
    no :math:`Z`. The paper shows them on :math:`[-4, 4]^2`; here a smooth wall
    :math:`\tfrac12(\max(|x_1| - 4, 0)/\text{wall})^2` is added, which changes nothing for :math:`|x_1| \le 4`. Then
    :math:`x_1` is uniform with half-normal ends, :math:`x_2` given :math:`x_1` is a mixture of normals, and both :math:`Z`
    and the draws are exact: :math:`Z = (8 + \text{wall}\sqrt{2\pi})\,m\sqrt{2\pi}` with ``m`` = 0.4, 0.7, 0.75. For ``U_1``,
    :math:`\log Z = 1.877501626109707` by quadrature, and the draws are by rejection.

    Args:
        number: 1, 2, 3 or 4.
        wall: Scale of the wall.

    Raises:
        ConfigError: If ``number`` is not 1 to 4, or ``wall`` is not positive and finite.

    References:
        Variational Inference with Normalizing Flows, Rezende, Mohamed 2015, arXiv:1505.05770, table 1.

    Example:
        >>> target = RezendeMohamed(2)
        >>> round(target.log_z, 4), target.sample(5).shape
        (2.2002, torch.Size([5, 2]))
    """

    def __init__(self, number: int, wall: float = 0.4) -> None:
        super().__init__(2)
        check(number in (1, 2, 3, 4), ConfigError, f"there are energies 1 to 4, got number={number!r}.")
        check(math.isfinite(wall) and wall > 0, ConfigError, f"wall must be positive and finite, got {wall!r}.")
        self.number, self.wall = number, wall
        mass = {2: 0.4, 3: 0.7, 4: 0.75}.get(number, 0.0)
        self.log_z = _LOG_Z_1 if number == 1 else math.log((2 * _PLAIN + wall * _ROOT) * mass * _ROOT)

    def log_unnormalized(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = x.unbind(-1)
        if self.number == 1:
            ring = _bump((x.square().sum(-1) + torch.finfo(x.dtype).tiny).sqrt() - 2, 0.4)
            return ring + torch.logaddexp(_bump(a - 2, 0.6), _bump(a + 2, 0.6))
        wall = _bump((a.abs() - _PLAIN).relu(), self.wall)
        centres, scales = self._ridges(a)
        terms = [_bump(b - m, s) for m, s in zip(centres, scales, strict=True)]
        return wall + (terms[0] if len(terms) == 1 else torch.logaddexp(terms[0], terms[1]))

    def _ridges(self, a: Tensor) -> tuple[list[Tensor], list[float]]:
        """Centres and scales of the normals that make up ``x_2`` given ``x_1``."""
        w1 = torch.sin(2 * math.pi * a / 4)
        if self.number == 2:
            return [w1], [0.4]
        if self.number == 3:
            return [w1, w1 - 3 * _bump(a - 1, 0.6).exp()], [0.35, 0.35]
        return [w1, w1 - 3 * torch.sigmoid((a - 1) / 0.3)], [0.4, 0.35]

    def _draw(self, batch: torch.Size, generator: torch.Generator | None) -> Tensor:
        if self.number == 1:
            return self._reject(batch.numel(), generator).reshape(*batch, 2)
        u, n = self._uniform((3, *batch), generator), self._normal((2, *batch), generator)
        ends = self.wall * _ROOT
        flat = u[0] * (2 * _PLAIN + ends) < 2 * _PLAIN
        a = 2 * _PLAIN * u[1] - _PLAIN
        a = torch.where(flat, a, torch.copysign(_PLAIN + self.wall * n[0].abs(), a))
        centres, scales = self._ridges(a)
        first = u[2] * sum(scales) < scales[0]
        return torch.stack((a, torch.where(first, centres[0] + scales[0] * n[1], centres[-1] + scales[-1] * n[1])), -1)

    def _reject(self, n: int, generator: torch.Generator | None) -> Tensor:
        # Proposal: x_1 by the two bumps, x_2 ~ N(0, spread^2); what is left of exp(-U_1) is the ring over that normal.
        peak = (2 / 0.16) / (1 / 0.16 - 1 / _SPREAD**2)  # the radius where their ratio is largest
        bound = -0.5 * ((peak - 2) / 0.4) ** 2 + 0.5 * (peak / _SPREAD) ** 2
        kept = [self._like.new_zeros(0, 2)]
        for _ in range(_MAX_ROUNDS):
            if (missing := n - sum(map(len, kept))) <= 0:
                return torch.cat(kept)[:n]
            m = 3 * missing + 16
            noise, side = self._normal((2, m), generator), self._choice(2, (m,), generator)
            x = torch.stack((0.6 * noise[0] + 4 * side - 2, _SPREAD * noise[1]), -1)
            accept = _bump(x.norm(dim=-1) - 2, 0.4) - _bump(x[:, 1], _SPREAD) - bound
            kept.append(x[self._uniform((m,), generator).log() < accept])
        raise ConvergenceError(f"rejection kept {sum(map(len, kept))} of {n} draws in {_MAX_ROUNDS} rounds.")

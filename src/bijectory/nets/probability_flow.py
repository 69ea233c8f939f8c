r"""The probability-flow equation: a network of a Gaussian path, read as the velocity of a continuous flow.

The stochastic equation :math:`dz = f z\, dt + g\, dw` of a schedule and the ordinary one

.. math:: \frac{dz}{dt} = f(t)\, z - \tfrac12 g^2(t)\, \nabla \log p_t(z)

have the same marginals :math:`p_t`. A network that predicts the noise, the data, the score or the velocity predicts all
four, for they are linear in one another (see ``nets.schedules``). So one object is a score model, which a stochastic
equation samples, and a continuous flow with a likelihood.

In the units :math:`u = z / s` with :math:`s^2 = \alpha^2 + \sigma^2`, and by the angle
:math:`\vartheta = \arctan(\sigma/\alpha)`, every schedule has the same equation,

.. math:: \frac{du}{d\vartheta} = F = \mathbb E\Bigl[\frac{\alpha\varepsilon - \sigma x}{s} \Bigm| z\Bigr],

the "v" of the literature. For data of unit variance, ``u`` has unit variance and ``F`` at most that, at all times, and
``F = 0`` is the answer for normal data.

References:
    Score-Based Generative Modeling through Stochastic Differential Equations, Song+ 2020, arXiv:2011.13456, eq. 13.
    Progressive Distillation for Fast Sampling of Diffusion Models, Salimans, Ho 2022, arXiv:2202.00512, sec. 4 and
    appendix D (v and the angle).
    Elucidating the Design Space of Diffusion-Based Generative Models, Karras+ 2022, arXiv:2206.00364, eq. 5 and 7.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check, check_type
from bijectory.nets.field import Field
from bijectory.nets.schedules import Schedule, like

Predicts = Literal["v", "noise", "data", "score", "velocity"]


def _turn(path: Schedule, t: Tensor, z: Tensor, out: Tensor) -> Tensor:
    """Velocity from ``v``: growth of the scale ``s``, and a turn by the angle; no division by ``alpha`` or ``sigma``."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    square = alpha.square() + sigma.square()
    growth = (alpha * path.alpha_slope(t) + sigma * path.sigma_slope(t)) / square
    return growth * z + path.wronskian(t) / square.sqrt() * out


VELOCITIES: dict[str, Callable[[Schedule, Tensor, Tensor, Tensor], Tensor]] = {
    "v": _turn,
    "noise": lambda path, t, z, out: path.velocity_from_noise(t, z, out),
    "data": lambda path, t, z, out: path.velocity_from_data(t, z, out),
    "score": lambda path, t, z, out: path.velocity_from_score(t, z, out),
    "velocity": lambda path, t, z, out: out,
}
"""The velocity from what a network predicts: linear in the point and the prediction."""


class ProbabilityFlow(Field):
    r"""A network of a Gaussian path as the velocity of its probability flow, on the time 0 to 1 of a layer.

    The layer's time ``s`` is the schedule's time :math:`t = (r + (1 - r) s)^p` with :math:`r = t_0^{1/p}`, from
    :math:`t_0` = ``schedule.start`` to 1. A power above 1 spends more steps near the data, where the velocity of the
    variance-preserving equations grows like :math:`t^{-1/2}`. ``forward`` takes the layer's time; ``velocity``, ``score``,
    ``noise`` and ``denoised`` take the schedule's, as does the network.

    The divergence is that of the network, scaled and shifted: closed where the network's is.

    Args:
        net: ``net(t, z, c)``, any field. For ``predicts="v"`` it is given :math:`z / \sqrt{\alpha^2 + \sigma^2}`.
        schedule: The path.
        predicts: What the network returns: ``"v"``, the mean of :math:`(\alpha\varepsilon - \sigma x)/s`, of the size of
            the data at all times; the mean of the ``"noise"`` or of the ``"data"``; the ``"score"``; or the ``"velocity"``.
        power: The exponent ``p``.

    Raises:
        ConfigError: If ``power < 1``, or if the reading divides by zero at an end of the path.

    Example:
        >>> from bijectory.nets import TimeMLP, VariancePreserving
        >>> field = ProbabilityFlow(TimeMLP(2), VariancePreserving())
        >>> field.score(torch.tensor(0.5), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, net: Field, schedule: Schedule, predicts: Predicts = "v", power: float = 1.0) -> None:
        super().__init__()
        check_type(net, Field, "net")
        check_type(schedule, Schedule, "schedule")
        known = list(VELOCITIES)
        check(predicts in VELOCITIES, ConfigError, f"predicts must be one of {known}, got {predicts!r}.")
        check(1 <= power <= 16, ConfigError, f"power must lie in [1, 16], got {power}.")
        self.net, self.schedule, self.predicts, self.power = net, schedule, predicts, power
        self.event_shape, self.context = net.event_shape, net.context
        ends = self.time(torch.tensor([0.0, 1.0], dtype=torch.float64))
        ok = all(bool(a.isfinite().all()) for a in self._affine(ends))
        check(ok, ConfigError, f"predicts={predicts!r} divides by zero at an end of {schedule}; use 'v' or 'velocity'.")

    def extra_repr(self) -> str:
        return f"schedule={self.schedule}, predicts={self.predicts!r}, power={self.power:g}"

    def time(self, s: Tensor) -> Tensor:
        """The schedule's time at the layer's time ``s`` in [0, 1]."""
        r = self.schedule.start ** (1 / self.power)
        return (r + (1 - r) * s) ** self.power

    def pace(self, s: Tensor) -> Tensor:
        """Derivative of ``time``."""
        r = self.schedule.start ** (1 / self.power)
        return self.power * (1 - r) * (r + (1 - r) * s) ** (self.power - 1)

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return like(self.pace(t), z) * self.velocity(self.time(t), z, c)

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pace, t = self.pace(t), self.time(t)
        k = self._shrink(t)
        out, trace = self.net.with_divergence(t, like(k, z) * z, c)
        of_z, of_net = self._affine(t)
        entries = z.shape[z.dim() - len(self.event_shape) :].numel()
        trace = pace * (of_z * entries + of_net * k * trace)
        return like(pace, z) * (like(of_z, z) * z + like(of_net, z) * out), trace

    def velocity(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Slope ``dz/dt`` in the schedule's time: ``(*batch, *event)``.

        Args:
            t: The schedule's time: a scalar, or ``(*batch,)``; so in the methods below.
            z: Points ``(*batch, *event)``.
            c: Context ``(*batch, context)``.
        """
        of_z, of_net = self._affine(t)
        return like(of_z, z) * z + like(of_net, z) * self.net(t, like(self._shrink(t), z) * z, c)

    def noise(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Mean of the noise given ``z``."""
        return self.schedule.noise_from_velocity(t, z, self.velocity(t, z, c))

    def score(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Gradient of the log-density of ``z`` at time ``t``; not finite where ``sigma`` is 0."""
        return self.schedule.score_from_velocity(t, z, self.velocity(t, z, c))

    def denoised(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Mean of the data given ``z`` (Tweedie's formula)."""
        return self.schedule.data_from_velocity(t, z, self.velocity(t, z, c))

    def _shrink(self, t: Tensor) -> Tensor:
        if self.predicts != "v":
            return torch.ones_like(t)
        return (self.schedule.alpha(t).square() + self.schedule.sigma(t).square()).rsqrt()

    def _affine(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the point and of the prediction in the velocity."""
        read, one, zero = VELOCITIES[self.predicts], torch.ones_like(t), torch.zeros_like(t)
        return read(self.schedule, t, one, zero), read(self.schedule, t, zero, one)

"""Vector fields ``v(t, z, c)``, the right-hand sides of continuous flows."""

import abc
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.mlp import HEAD_SCALE, MLP
from bijectory.ops import divergence
from bijectory.ops.shape import linear

SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda _, h: 1 - h.square(),
    "softplus": lambda a, _: torch.sigmoid(a),
    "silu": lambda a, h: torch.sigmoid(a) * (1 + a - h),
    "gelu": lambda a, _: torch.special.ndtr(a) + a * torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi),
}
"""Derivatives of the smooth activations, of the input ``a`` and the output ``h``."""


class Field(nn.Module, abc.ABC):
    """A vector field that depends on time, and on a context if it has one.

    Write ``forward`` for a field of your own; a smooth one, for the accuracy of a solver rests on its derivatives.

    Attributes:
        event_shape: Shape of one event of ``z``.
        context: Width of the context that the field reads, 0 for none.
    """

    event_shape: tuple[int, ...]
    context: int = 0

    @abc.abstractmethod
    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Velocity at ``z``.

        Args:
            t: Time: a scalar, or ``(*batch,)`` where each row has its own.
            z: ``(*batch, *event)``.
            c: Context ``(*batch, context)``; broadcasts against the batch of ``z``.

        Returns:
            ``(*batch, *event)``; a row depends on its own row of ``t``, ``z`` and ``c`` only.
        """

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Velocity and its exact divergence ``(*batch,)``: here by one pass backwards for each entry of the event."""
        return divergence.exact(lambda u: self(t, u, c), z, len(self.event_shape))

    def with_squares(self, t: Tensor, z: Tensor, e: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        r"""Velocity, divergence, and :math:`e^\top (\partial v / \partial z)\, e` for directions ``e``.

        Args:
            t: Time.
            z: ``(*batch, *event)``.
            e: ``(k, *batch, *event)``.
            c: Context.

        Returns:
            ``(*batch, *event)``, ``(*batch,)``, ``(k, *batch)``; a field on a manifold subtracts what is normal to it.
        """
        v, trace = self.with_divergence(t, z, c)
        return v, trace, divergence.hutchinson(lambda u: self(t, u, c), z, e, len(self.event_shape))[1]


class TimeMLP(Field):
    r"""Perceptron of point, time and context, with its divergence in closed form.

    Time enters the first layer through :math:`t, \cos k \pi t, \sin k \pi t`, the context as it is. For up to two hidden
    layers the divergence costs about one more hidden layer, whatever the number of features.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Widths of the hidden layers; none gives a field that is linear in ``z``.
        activation: A smooth one: ``"tanh"`` (bounded velocities), ``"softplus"``, ``"silu"`` or ``"gelu"``.
        frequencies: Number of frequencies ``k`` of time; each more asks for more steps of the solver.
        head_scale: Multiplies the initial weights of the last layer; a small field is a map near the identity.

    Raises:
        ConfigError: On a width or an activation out of range.

    Example:
        >>> field = TimeMLP(2, context=3, hidden=(16,))
        >>> v, trace = field.with_divergence(torch.tensor(0.5), torch.zeros(5, 2), torch.zeros(3))
        >>> v.shape, trace.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        frequencies: int = 1,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        check(frequencies >= 0, ConfigError, f"frequencies must not be negative, got {frequencies}.")
        known = list(SLOPES)
        check(activation in SLOPES, ConfigError, f"activation={activation!r} is not a smooth one; use one of {known}.")
        self.features, self.context, self.hidden = features, context, tuple(hidden)
        self.activation, self.frequencies, self.head_scale = activation, frequencies, head_scale
        self.event_shape = (features,)
        self.net = MLP(features, features, self.hidden, context, activation, head_scale)
        width, inputs = (*self.hidden, features)[0], 1 + 2 * frequencies
        bound = 1 / math.sqrt(inputs + features + context) * (1.0 if hidden else head_scale)
        self.time_weight = nn.Parameter(torch.empty(width, inputs).uniform_(-bound, bound))

    def _layers(self, t: Tensor, z: Tensor, c: Tensor | None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Velocity, and input and output of the activations of each hidden layer."""
        act, t = ACTIVATIONS[self.activation], t.unsqueeze(-1)
        angles = [math.pi * k * t for k in range(1, self.frequencies + 1)]
        clock = torch.cat((t, *(a.cos() for a in angles), *(a.sin() for a in angles)), -1)
        drift, h = linear(clock, self.time_weight), z
        hidden: list[tuple[Tensor, Tensor]] = []
        for layer in self.net.layers:
            a = layer(h, c) if hidden else layer(h, c) + drift
            h = act(a)
            hidden.append((a, h))
        v = self.net.head(h, c)
        return v if hidden else v + drift, hidden

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._layers(t, z, c)[0]

    def _jacobian(self, hidden: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights, and slopes of the activations of each hidden layer."""
        slope = SLOPES[self.activation]
        return [layer.weight for layer in (*self.net.layers, self.net.head)], [slope(a, h) for a, h in hidden]

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, hidden = self._layers(t, z, c)
        return v, divergence.perceptron(*self._jacobian(hidden)).expand(v.shape[:-1])

    def with_squares(self, t: Tensor, z: Tensor, e: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        v, hidden = self._layers(t, z, c)
        jacobian = self._jacobian(hidden)
        trace = divergence.perceptron(*jacobian).expand(v.shape[:-1])
        return v, trace, divergence.perceptron_squares(*jacobian, e)

"""Vector fields ``v(t, z, c)``, the right-hand sides of continuous flows.

A solver evaluates its field tens of times with the same weights and context. ``Field.prepare`` computes what depends on
neither time nor point once, and hands over the field as a plain function of time, point and tensors.
"""

import abc
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bijectory.errors import ConfigError, FlowError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.clock import clock
from bijectory.nets.mlp import HEAD_SCALE, MLP, Dense
from bijectory.ops import divergence, perceptron
from bijectory.ops.shape import expand_to_context, linear

SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda _, h: 1 - h.square(),
    "softplus": lambda a, _: torch.sigmoid(a),
    "silu": lambda a, h: torch.sigmoid(a) * (1 + a - h),
    "gelu": lambda a, _: torch.special.ndtr(a) + a * torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi),
}
"""Derivatives of the smooth activations, of the input ``a`` and the output ``h``."""


class Prepared(NamedTuple):
    """A field made ready for many evaluations at the same weights and context.

    Attributes:
        velocity: ``(t, z, *tensors) -> v``, with the tensors of either preparation.
        joint: ``(t, z, *tensors) -> (v, divergence)``; needs tensors that were prepared with the divergence.
        tensors: All that the two read and that may want a gradient.
        clock: ``(times, *tensors) -> (n, …)``: what times add, for many of them at once; None where there is no such thing.
        clocked: ``velocity`` and ``joint`` as functions of a row of ``clock`` in place of a time.

    Example:
        >>> ready = TimeMLP(2, context=3, hidden=(16,)).prepare(torch.zeros(3))
        >>> v, trace = ready.joint(torch.tensor(0.5), torch.zeros(5, 2), *ready.tensors)
        >>> v.shape, trace.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    velocity: Callable[..., Tensor]
    joint: Callable[..., tuple[Tensor, Tensor]]
    tensors: tuple[Tensor, ...]
    clock: Callable[..., Tensor] | None = None
    clocked: tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]] | None = None


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
        dims = len(self.event_shape)
        check(
            c is None or not self.context or not torch.compiler.is_exporting(),
            FlowError,
            "torch.export takes the context for constant in the exact divergence of this field; export a flow with "
            "divergence='hutchinson'.",
        )
        z = expand_to_context(expand_to_context(z, c if self.context else None, dims), t.unsqueeze(-1), dims)
        return divergence.exact(lambda u: self(t, u, c), z, dims)

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

    def prepare(self, c: Tensor | None = None, *, divergence: bool = True, functional: bool = True) -> Prepared:
        """The field at a context as a function of tensors; here of the context and the parameters as they are.

        Override it where something can be computed once for a whole solve.

        Args:
            c: Context ``(*batch, context)``.
            divergence: Whether ``joint`` will be called.
            functional: Whether all gradients must come through ``tensors``, as solvers ask that make gradients of their
                own; if not, the functions may close over weights, which saves handing them over.
        """
        if not functional:
            velocity, joint = (functools.partial(_at, call, c) for call in (self, self.with_divergence))
            return Prepared(velocity, joint, ())
        weights, given = dict(self.named_parameters()), () if c is None else (c,)
        velocity = functools.partial(_call, self, tuple(weights), len(given))
        joint = functools.partial(_call, _Joint(self), tuple(f"field.{name}" for name in weights), len(given))
        return Prepared(velocity, joint, (*given, *weights.values()))


class _Joint(nn.Module):
    """A field whose call gives the divergence too, so that it can be called with other weights."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.field.with_divergence(t, z, c)


def _at(call: Callable[..., Any], c: Tensor | None, t: Tensor, z: Tensor) -> Any:
    return call(t, z, c)


def _call(module: nn.Module, names: Sequence[str], given: int, t: Tensor, z: Tensor, *tensors: Tensor) -> Any:
    return functional_call(module, dict(zip(names, tensors[given:], strict=True)), (t, z, *tensors[:given]))


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

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._velocity(t, z, *self._tensors(c))

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._joint(t, z, *self._tensors(c), *perceptron.prepared(self._weights()))

    def with_squares(self, t: Tensor, z: Tensor, e: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        tensors = self._tensors(c)
        v, hidden = self._layers(self._clock(t, *tensors), z, tensors)
        weights, slopes = self._weights(), self._slopes(hidden)
        trace = perceptron.divergence(perceptron.prepared(weights), slopes).expand(v.shape[:-1])
        return v, trace, perceptron.squares(weights, slopes, e)

    def prepare(self, c: Tensor | None = None, *, divergence: bool = True, functional: bool = True) -> Prepared:
        once = perceptron.prepared(self._weights()) if divergence else ()
        tensors, clocked = (*self._tensors(c), *once), (self._clocked_velocity, self._clocked_joint)
        return Prepared(self._velocity, self._joint, tensors, self._clock, clocked)

    @property
    def _own(self) -> int:
        """How many of the prepared tensors make the velocity; the others are for its divergence."""
        return 2 * len(self.hidden) + 3

    def _slopes(self, hidden: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Slopes of the activations of each hidden layer."""
        return [SLOPES[self.activation](a, h) for a, h in hidden]

    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in (*self.net.layers, self.net.head)]

    def _tensors(self, c: Tensor | None) -> tuple[Tensor, ...]:
        """Weight and bias of each layer, the term of the context in the first bias, then the weights of time."""
        layers: list[Dense] = [*self.net.layers, self.net.head]
        first, *others = layers
        bias: Tensor = first.bias
        if c is not None and first.context_weight is not None:
            bias = bias + linear(c, first.context_weight)
        return (first.weight, bias, *(p for layer in others for p in (layer.weight, layer.bias)), self.time_weight)

    def _velocity(self, t: Tensor, z: Tensor, *tensors: Tensor) -> Tensor:
        return self._clocked_velocity(self._clock(t, *tensors), z, *tensors)

    def _joint(self, t: Tensor, z: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return self._clocked_joint(self._clock(t, *tensors), z, *tensors)

    def _clocked_velocity(self, drift: Tensor, z: Tensor, *tensors: Tensor) -> Tensor:
        return self._layers(drift, z, tensors[: self._own])[0]

    def _clocked_joint(self, drift: Tensor, z: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        v, hidden = self._layers(drift, z, tensors[: self._own])
        once = tensors[self._own :]
        if self.activation == "tanh" and len(hidden) == 2:
            return v, perceptron.tanh_divergence(once, hidden[0][1], hidden[1][1])
        return v, perceptron.divergence(once, self._slopes(hidden)).expand(v.shape[:-1])

    def _clock(self, t: Tensor, *tensors: Tensor) -> Tensor:
        """What time adds to the first layer, its bias included where all rows share it: ``(*batch, width)``."""
        return _drift(t, tensors[self._own - 1], tensors[1], self.frequencies)

    def _layers(
        self, drift: Tensor, z: Tensor, tensors: Sequence[Tensor]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Velocity, and input and output of the activations of each hidden layer."""
        act, layers = ACTIVATIONS[self.activation], tensors[:-1]
        shift = drift if layers[1].dim() == 1 else drift + layers[1]
        h, hidden = z, []
        for k in range(len(self.hidden)):
            a = _affine(h, layers[2 * k], layers[2 * k + 1] if k else shift)
            h = act(a)
            hidden.append((a, h))
        return _affine(h, layers[-2], layers[-1] if hidden else shift), hidden


def _drift(t: Tensor, weight: Tensor, bias: Tensor, frequencies: int) -> Tensor:
    """What times ``(*batch,)`` add to the first layer, with a bias that all rows share: ``(*batch, width)``."""
    waves = clock(t, frequencies)
    if bias.dim() > 1:
        return linear(waves, weight)
    return torch.addmv(bias, weight, waves) if waves.dim() == 1 else linear(waves, weight, bias)


def _affine(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """``W x`` plus a shift for all rows or for each, feature-major."""
    if x.dim() == 2 and (shift.dim() == 1 or shift.shape[0] == x.shape[0]):
        return torch.addmm(shift.unsqueeze(-1) if shift.dim() == 1 else shift.mT, weight, x.mT).mT
    return linear(x, weight) + shift

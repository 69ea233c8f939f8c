"""A deep vector field for rows of a table, with its divergence by tangents."""

from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.clock import Embedding, Modulation
from bijectory.nets.field import SLOPES, Field
from bijectory.nets.mlp import HEAD_SCALE, Dense


class ResidualField(Field):
    r"""Residual network of pre-activation blocks, modulated by time and context.

    .. math::
        h_0 = W_0 z + b_0, \qquad
        h_l = h_{l-1} + V_l\, \sigma\bigl((1 + s_l) \circ W_l\, \sigma(h_{l-1}) + a_l\bigr), \qquad
        v = V \sigma(h_L)

    (biases left out), where every block has a scale :math:`s_l` and a shift :math:`a_l` from time and context.

    The divergence is exact and needs no derivative by autograd: with :math:`J = V M W_0`, its trace is that of
    :math:`M\,(W_0 V)`, and the columns of the smaller of the two, :math:`W_0` and :math:`W_0 V`, are carried through the
    blocks. That is the work of ``min(features, hidden)`` passes, in one go: memory grows by the same factor, so for many
    features estimate the trace instead.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none; every block reads it.
        hidden: Width of the network.
        blocks: Number of blocks.
        activation: A smooth one: ``"silu"``, ``"tanh"``, ``"softplus"`` or ``"gelu"``.
        frequencies: Number of frequencies of time; each more asks for more steps of the solver.
        head_scale: Multiplies the initial weights of the last layer; a small field is a map near the identity.

    Raises:
        ConfigError: On a width, a number or an activation out of range.

    References:
        Identity Mappings in Deep Residual Networks, He, Zhang, Ren, Sun 2016, arXiv:1603.05027 (pre-activation).

    Example:
        >>> import torch
        >>> field = ResidualField(2, context=3, hidden=16)
        >>> v, trace = field.with_divergence(torch.tensor(0.5), torch.zeros(5, 2), torch.zeros(3))
        >>> v.shape, trace.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: int = 128,
        blocks: int = 2,
        activation: str = "silu",
        frequencies: int = 4,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        ok = min(features, hidden) >= 1 and context >= 0 and blocks >= 0
        message = (
            f"features={features}, hidden={hidden} must be at least 1, context={context}, blocks={blocks} at least 0."
        )
        check(ok, ConfigError, message)
        check_smooth(activation)
        self.features, self.context, self.hidden, self.blocks = features, context, hidden, blocks
        self.activation, self.frequencies, self.head_scale = activation, frequencies, head_scale
        self.event_shape = (features,)
        self.embedding = Embedding(hidden, context, frequencies)
        self.first = Dense(features, hidden)
        self.drift = Dense(hidden, hidden)
        self.enter = nn.ModuleList(Dense(hidden, hidden) for _ in range(blocks))
        self.modulations = nn.ModuleList(Modulation(hidden, hidden) for _ in range(blocks))
        self.leave = nn.ModuleList(Dense(hidden, hidden) for _ in range(blocks))
        self.head = Dense(hidden, features, scale=head_scale)

    def _layers(
        self, t: Tensor, z: Tensor, c: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]], list[Tensor]]:
        """Velocity, inputs and outputs of all activations in their order, and the scale of each block."""
        act = ACTIVATIONS[self.activation]
        embedding = self.embedding(t, c if self.context else None)
        h = self.first(z) + self.drift(embedding)
        passed, scales = [(h, act(h))], []
        for enter, modulation, leave in zip(self.enter, self.modulations, self.leave, strict=True):
            scale, shift = modulation(embedding)
            a = enter(passed[-1][1]) * scale + shift
            passed.append((a, act(a)))
            scales.append(scale)
            h = h + leave(passed[-1][1])
            passed.append((h, act(h)))
        return self.head(passed[-1][1]), passed, scales

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._layers(t, z, c)[0]

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v, passed, scales = self._layers(t, z, c)
        slope = SLOPES[self.activation]
        slopes = [slope(a, h).unsqueeze(-2) for a, h in passed]
        wide = self.features > self.hidden
        first = self.first.weight.mT  # row k: the tangent of the hidden units along direction k
        tangents = self.head.weight.mT @ first if wide else first
        for k, (enter, leave, scale) in enumerate(zip(self.enter, self.leave, scales, strict=True)):
            inner = (slopes[2 * k] * tangents) @ enter.weight.mT * (scale.unsqueeze(-2) * slopes[2 * k + 1])  # type: ignore[operator]
            tangents = tangents + inner @ leave.weight.mT  # type: ignore[operator]
        ends = tangents.diagonal(dim1=-2, dim2=-1) if wide else (tangents * self.head.weight).sum(-2)
        trace = (ends * slopes[-1].squeeze(-2)).sum(-1)
        return v, trace.expand(v.shape[:-1])


def check_smooth(activation: str) -> None:
    """Raise ``ConfigError`` unless the activation is known and smooth."""
    known = list(SLOPES)
    check(activation in SLOPES, ConfigError, f"activation={activation!r} is not a smooth one; use one of {known}.")

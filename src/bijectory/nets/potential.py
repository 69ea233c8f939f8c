"""The vector field of a potential, as optimal transport has it."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bijectory.errors import ConfigError, check
from bijectory.nets.field import Field
from bijectory.nets.mlp import HEAD_SCALE, Dense
from bijectory.ops.shape import linear


class Potential(Field):
    r"""Descent of a potential, :math:`v = -\nabla_z \Phi`, with gradient and Laplacian in closed form.

    With :math:`s = (z, t, c)`, :math:`\sigma(a) = \log(e^a + e^{-a})` (so :math:`\sigma' = \tanh`) and :math:`h = 1/M`

    .. math::
        \Phi(s) &= w^\top u_M + \tfrac12 s^\top A^\top A\, s + b^\top s, \\
        u_0 &= \sigma(K_0 s + b_0), \qquad u_i = u_{i-1} + h\, \sigma(K_i u_{i-1} + b_i).

    One sweep back through the network gives the gradient; the Laplacian carries the tangents of :math:`u_i` forwards,

    .. math::
        \Delta_z \Phi = \sum_{i=0}^{M} h_i \bigl(\sigma''(a_i) \circ z_{i+1}\bigr)^\top
        \bigl\|K_i \nabla_z u_{i-1}\bigr\|^2_{\text{rows}} + \|A_z\|^2_F,

    in ``hidden**2 * min(features, hidden)`` operations for each layer but the first. Nothing is differentiated by autograd.
    The constant of the potential moves nothing and is left out; so is what :math:`b` says of the context.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Width of the network.
        layers: Number of its residual layers :math:`M` behind the first.
        rank: Rows of :math:`A`; never more than there are features.
        head_scale: Size of the initial :math:`w` and :math:`A`; a small potential is a map near the identity.

    Raises:
        ConfigError: On a width or a number out of range.

    References:
        OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport, Onken, Wu Fung, Li, Ruthotto 2021,
        arXiv:2006.00104, eq. 8-14.

    Example:
        >>> field = Potential(2, context=3, hidden=16)
        >>> v, trace = field.with_divergence(torch.tensor(0.5), torch.zeros(5, 2), torch.zeros(3))
        >>> v.shape, trace.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: int = 64,
        layers: int = 1,
        rank: int = 10,
        head_scale: float = HEAD_SCALE,
    ) -> None:
        super().__init__()
        sizes = {"features": features, "hidden": hidden, "layers": layers, "rank": rank}
        for name, n in sizes.items():
            check(n >= 1, ConfigError, f"{name} must be at least 1, got {n}.")
        check(context >= 0, ConfigError, f"context must not be negative, got {context}.")
        self.features, self.context, self.hidden, self.layers = features, context, hidden, layers
        self.rank, self.head_scale = rank, head_scale
        self.event_shape = (features,)
        rows = min(rank, features)
        self.first = Dense(features, hidden, context)
        self.first_time = nn.Parameter(torch.empty(hidden).uniform_(-1, 1) / math.sqrt(1 + features + context))
        self.inner = nn.ModuleList(Dense(hidden, hidden) for _ in range(layers))
        self.weight = nn.Parameter(torch.empty(hidden).uniform_(-head_scale, head_scale))
        self.quadratic = Dense(features, rows, context, math.sqrt(head_scale))
        self.quadratic_time = nn.Parameter(torch.zeros(rows))
        self.slope = nn.Parameter(torch.zeros(features))
        self.slope_time = nn.Parameter(torch.zeros(()))

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return -self.gradient(t, z, c)[0]

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gradient, _, laplacian = self._derivatives(t, z, c)
        return -gradient, -laplacian

    def gradient(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Derivatives :math:`\nabla_z \Phi`, ``(*batch, features)``, and :math:`\partial_t \Phi`, ``(*batch,)``.

        Args:
            t: Time, a scalar or ``(*batch,)``.
            z: ``(*batch, features)``.
            c: Context ``(*batch, context)``.
        """
        inputs, _, q = self._inputs(t, z, c)
        return self._gradient(inputs, q, self._adjoints(inputs))

    def with_costs(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        r"""Velocity, divergence, and how far the potential is from solving its equation.

        Args:
            t: Time, a scalar or ``(*batch,)``.
            z: ``(*batch, features)``.
            c: Context ``(*batch, context)``.

        Returns:
            :math:`-\nabla \Phi`, :math:`-\Delta \Phi`, and :math:`\partial_t \Phi - \tfrac12 |\nabla \Phi|^2` ``(*batch,)``,
            the residual of the Hamilton-Jacobi-Bellman equation, zero along straight paths of constant velocity.
        """
        gradient, rate, laplacian = self._derivatives(t, z, c)
        return -gradient, -laplacian, rate - gradient.square().sum(-1) / 2

    def value(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The potential itself, ``(*batch,)``, up to a constant.

        Args:
            t: Time, a scalar or ``(*batch,)``.
            z: ``(*batch, features)``.
            c: Context ``(*batch, context)``.
        """
        _, u, q = self._inputs(t, z, c)
        line = (self.slope * z).sum(-1) + self.slope_time * t
        return (self.weight * u).sum(-1) + q.square().sum(-1) / 2 + line

    def _inputs(self, t: Tensor, z: Tensor, c: Tensor | None) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs ``a_0 ... a_M`` of the activations, the output ``u_M``, and ``A s``."""
        c, t = (c if self.context else None), t.unsqueeze(-1)
        inputs = [self.first(z, c) + self.first_time * t]
        u = antiderivative_of_tanh(inputs[0])
        for layer in self.inner:
            inputs.append(layer(u))
            u = u + antiderivative_of_tanh(inputs[-1]) / self.layers
        return inputs, u, self.quadratic(z, c) + self.quadratic_time * t

    def _adjoints(self, inputs: list[Tensor]) -> list[Tensor]:
        """Derivatives of ``w u_M`` by ``u_0 ... u_M``."""
        adjoints: list[Tensor] = [self.weight]
        for a, weight in zip(inputs[:0:-1], reversed(self._weights()), strict=True):
            z = adjoints[0]
            adjoints.insert(0, z + linear(torch.tanh(a) * z, weight.mT) / self.layers)
        return adjoints

    def _weights(self) -> list[Tensor]:
        return [layer.weight for layer in self.inner]  # type: ignore[misc]

    def _gradient(self, inputs: list[Tensor], q: Tensor, adjoints: list[Tensor]) -> tuple[Tensor, Tensor]:
        first = torch.tanh(inputs[0]) * adjoints[0]
        by_z = linear(first, self.first.weight.mT) + linear(q, self.quadratic.weight.mT) + self.slope
        by_t = (first * self.first_time).sum(-1) + (q * self.quadratic_time).sum(-1) + self.slope_time
        return by_z, by_t

    def _derivatives(self, t: Tensor, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        inputs, _, q = self._inputs(t, z, c)
        adjoints = self._adjoints(inputs)
        slopes = [torch.tanh(a) for a in inputs]
        bends = [(1 - s.square()) * z for s, z in zip(slopes, adjoints, strict=True)]
        enter = self.first.weight
        total = (bends[0] * enter.square().sum(-1)).sum(-1) + self.quadratic.weight.square().sum()
        # Rows of K_i J_{i-1}: with many features only their lengths matter, and those the Gram matrix of K_0 knows.
        wide = self.features > self.hidden
        gram = enter @ enter.mT
        tangents = torch.diag_embed(slopes[0]) if wide else slopes[0].unsqueeze(-1) * enter
        for k, weight in enumerate(self._weights(), 1):
            rows = weight @ tangents
            lengths = ((rows @ gram if wide else rows) * rows).sum(-1)
            total = total + (bends[k] * lengths).sum(-1) / self.layers
            tangents = tangents + slopes[k].unsqueeze(-1) * rows / self.layers
        return *self._gradient(inputs, q, adjoints), total


def antiderivative_of_tanh(a: Tensor) -> Tensor:
    """``log(exp(a) + exp(-a))``, without overflow and smooth at 0 to every order of autograd.

    Example:
        >>> antiderivative_of_tanh(torch.tensor([0.0, -1000.0]))
        tensor([6.9315e-01, 1.0000e+03])
    """
    return 2 * softplus(a, beta=2, threshold=40) - a

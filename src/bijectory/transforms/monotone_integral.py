"""Unconstrained monotonic neural networks: the integral of a positive network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.nets import MLP, MaskedMLP
from bijectory.ops.monotone import box_inverse
from bijectory.ops.precision import as_precise_as
from bijectory.ops.quadrature import Rule, integrate, quadrature
from bijectory.ops.scalar import softplus
from bijectory.ops.shape import expand_to_context, sum_event, to_planes
from bijectory.transforms.base import Transform

_ITERATIONS = 20  # of the root search, an integral each; smooth integrands are solved to the last bits in 16


class MonotoneIntegral(Transform):
    r"""Autoregressive integral :math:`z_i = \beta_i + \int_0^{x_i} g(t; h_i)\, dt` of a positive network :math:`g`.

    A masked network makes the embedding :math:`h_i` and the offset :math:`\beta_i` from the features before :math:`i` and
    the context; one integrand network, shared by all features, makes :math:`g > 0`. :math:`\log|\det| = \sum_i \log g(x_i;
    h_i)` needs no integral. The map is the quadrature: it is invertible and its density normalised as far as the rule
    resolves the integrand, geometrically in ``nodes``. The inverse goes feature by feature, with a bracketed root in each.

    As published, but for three things: :math:`g` is constant outside :math:`[-B, B]`, so that the nodes are spent where the
    data are, and outliers see straight lines; the activation is smooth, without which no rule converges geometrically;
    and Gauss-Legendre is the default rule. The layer starts near the identity: :math:`g \approx 1`.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the built-in masked network.
        order: Features in the order of dependence; None: ``0, 1, 2, …``.
        embedding: Width of every :math:`h_i`.
        nodes: Evaluations of the integrand for one integral, at least 2.
        bound: Half width :math:`B` of the box.
        min_slope: Least value of :math:`g`, in ``(0, 1)``.
        rule: ``"gauss-legendre"`` or, as published, ``"clenshaw-curtis"``.
        integrand: A perceptron of your own for :math:`g` before it is made positive: one input, one output, and a context
            of width ``embedding``. None: hidden widths 50 and 50 with ``tanh``.
        net: A masked network of your own with ``embedding + 1`` outputs for each feature, :math:`\beta` first.

    Raises:
        ConfigError: If a number is out of range, or a network has other sizes.

    References:
        Unconstrained Monotonic Neural Networks, Wehenkel, Louppe 2019, arXiv:1908.05164, eq. 4-5 and sec. 4.

    Example:
        >>> z, ladj = MonotoneIntegral(3)(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    solver = "bracketed root"
    _topological: Tensor
    _rank: Tensor
    _rule: tuple[tuple[float, ...], tuple[float, ...]]

    def __init__(
        self,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        order: Sequence[int] | None = None,
        embedding: int = 16,
        nodes: int = 32,
        bound: float = 5.0,
        min_slope: float = 1e-3,
        rule: Rule = "gauss-legendre",
        integrand: MLP | None = None,
        net: MaskedMLP | None = None,
    ) -> None:
        super().__init__()
        check(embedding >= 1 and nodes >= 2, ConfigError, f"embedding={embedding} must be > 0, nodes={nodes} > 1.")
        check(math.isfinite(bound) and bound > 0, ConfigError, f"bound must be positive and finite, got {bound!r}.")
        check(0 < min_slope < 1, ConfigError, f"min_slope must be in (0, 1), got {min_slope!r}.")
        known = ("gauss-legendre", "clenshaw-curtis")
        check(rule in known, ConfigError, f"rule must be one of {known}, got {rule!r}.")
        built = net is None
        net = net or MaskedMLP(features, embedding + 1, hidden, context, order, head_scale=1.0)
        got, want = (net.features, net.n_params, net.context), (features, embedding + 1, context)
        check(got == want, ConfigError, f"net has (features, n_params, context) = {got}, this layer needs {want}.")
        check(
            order is None or tuple(order) == net.order, ConfigError, "net was built for another order than given here."
        )
        integrand = integrand or MLP(1, 1, (50, 50), embedding, activation="tanh", head_scale=0.1)
        got, want = (integrand.inputs, integrand.outputs, integrand.context), (1, 1, embedding)
        check(got == want, ConfigError, f"integrand has (inputs, outputs, context) = {got}, this layer needs {want}.")
        self.features, self.context, self.hidden, self.order = features, context, net.hidden, net.order
        self.embedding, self.nodes, self.bound, self.min_slope, self.rule = embedding, nodes, bound, min_slope, rule
        self.net, self.integrand = net, integrand
        if built:  # embeddings of size one, so that the integrand sees them; offsets near zero
            with torch.no_grad():
                net.head.weight[:features] *= 0.01
                net.head.bias[:features] *= 0.01  # type: ignore[index]
        topological = torch.tensor(net.topological)
        self.register_buffer("_topological", topological, persistent=False)
        self.register_buffer("_rank", topological.argsort(), persistent=False)
        self._rule = quadrature(rule, nodes)

    def extra_repr(self) -> str:
        return f"{self.features}, context={self.context}, nodes={self.nodes}, bound={self.bound}, rule={self.rule!r}"

    def _slope(self, t: Tensor, h: Tensor) -> Tensor:
        """:math:`g` at ``t`` ``(…, *s)`` for embeddings ``(*s, embedding)``."""
        raw = as_precise_as(t, self.integrand(t.unsqueeze(-1), h).squeeze(-1))
        return self.min_slope + softplus(raw + math.log(math.expm1(1 - self.min_slope)))

    def _unpack(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``beta`` ``(*s)``, ``h`` ``(*s, embedding)``, nodes and weights, from ``(embedding + 1, *s)``."""
        tau, weight = (planes.new_tensor(v) for v in self._rule)
        return planes[0], planes[1:].movedim(0, -1), tau, weight

    def _map(self, x: Tensor, beta: Tensor, h: Tensor, tau: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Every feature on its own: ``x`` ``(*s)`` to ``z`` and ``log g``."""
        inner = x.clamp(-self.bound, self.bound)
        slope = self._slope(inner, h)
        z = integrate(lambda t: self._slope(t, h), inner, tau, weight)
        return z + (x - inner) * slope + beta, slope.log()

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        z, ladj = self._map(x, *self._unpack(as_precise_as(x, to_planes(self.net(x, c), self.embedding + 1))))
        return z, sum_event(ladj, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        batch = z.shape[:-1]
        columns = z.movedim(-1, 0).reshape(self.features, math.prod(batch)).index_select(0, self._topological)
        total: list[Tensor] = []

        def step(start: int, stop: int, raw: Tensor) -> Tensor:
            y, params = columns[start:stop], self._unpack(as_precise_as(columns, raw))
            x, ladj = box_inverse(self._map, y, params, self.bound, iterations=_ITERATIONS)
            total.append(ladj.sum(0))
            return x

        x = self.net.sweep(step, batch, c).index_select(0, self._rank)
        return x.reshape(self.features, *batch).movedim(0, -1), torch.stack(total).sum(0).reshape(batch)

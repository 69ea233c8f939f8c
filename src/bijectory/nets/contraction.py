r"""Contractions: networks :math:`g` from a space into itself with a Lipschitz constant :math:`\kappa < 1`.

Every hidden layer has a constant of at most 1 and the last one of :math:`\kappa`: so has the whole. (The papers
bound each layer by the same constant below 1; only the product matters, and scales move through the layers.)
"""

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, check
from bijectory.nets.lipschitz import Bounded, LipschitzConv, LipschitzDense
from bijectory.nets.lipswish import Activation, CLipSwish, LipSwish, Pointwise
from bijectory.ops.scalar import softplus

ACTIVATIONS_WITH_SLOPE_ONE = ("lipswish", "clipswish", "tanh", "sigmoid", "elu")


class Contraction(nn.Module, abc.ABC):
    """A network from a space into itself that contracts in ``x``, for every context and whatever its parameters.

    Attributes:
        shape: Shape of one event, ``(features,)`` or ``(channels, height, width)``.
        context: Width of the context, 0 for none.
        lipschitz: A constant below 1.
        order: The norm in which it contracts.
    """

    shape: tuple[int, ...]
    context: int = 0
    lipschitz: float
    order: float = 2.0

    @abc.abstractmethod
    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        weights: Sequence[Tensor] | None = None,
        tangents: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network, and push tangents along if there are any.

        Args:
            x: ``(*batch, *shape)``.
            c: Context ``(*batch, context)``; broadcasts against the batch of ``x``.
            weights: ``weights()``, where the same are used many times.
            tangents: Directions ``(n, *batch, *shape)``, or what broadcasts to it.

        Returns:
            The value ``(*batch, *shape)``; with tangents ``(1 + n, *batch, *shape)``, the value first and then the products
            of the Jacobian with each direction.
        """

    def jacobian(
        self, x: Tensor, c: Tensor | None = None, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Value ``(*batch, *shape)`` and Jacobian ``(*batch, d, d)`` in one evaluation."""
        batch = x.dim() - len(self.shape)
        basis = torch.eye(math.prod(self.shape), dtype=x.dtype, device=x.device)
        out = self(x, c, weights, basis.reshape(-1, *(1,) * batch, *self.shape))
        return out[0], out[1:].flatten(1 + batch).movedim(0, -1)

    def pullback(
        self, x: Tensor, c: Tensor | None = None, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Value at ``x``, and the products of cotangents ``(n, *batch, *shape)`` with the Jacobian there."""
        value, pull, *_ = torch.func.vjp(lambda v: self(v, c, weights), x)
        return value, lambda v: torch.func.vmap(lambda u: pull(u)[0])(v)

    def weights(self) -> list[Tensor]:
        """The bounded weights of all layers, in the order in which ``forward`` uses them."""
        return [m.bounded_weight() for m in self.modules() if isinstance(m, Bounded)]

    def update(self) -> None:
        """Move the start of every power iteration to where it leads (see ``LipschitzDense``)."""
        for m in self.modules():
            if isinstance(m, Bounded):
                m.update()


class LipschitzNet(Contraction):
    """Perceptron, or stack of convolutions, that contracts.

    Args:
        shape: ``(features,)`` for dense layers, ``(channels, height, width)`` for convolutions.
        context: Width of the context; it enters the first layer additively.
        hidden: Widths (channels) of the hidden layers.
        lipschitz: Bound on the Lipschitz constant in ``x``.
        activation: ``"lipswish"``, ``"clipswish"``, ``"tanh"``, ``"sigmoid"`` or ``"elu"``.
        kernels: Kernel sizes of convolutions, one for each layer; None: 3, then 1, …, then 3, as published.
        orders: Norms of the spaces from the input through the hidden layers to the output; the last equals the first, in
            which the network contracts. None: 2 everywhere. Dense layers only.
        method: How the norms are found, see ``LipschitzDense``.
        beta: Initial sharpness of LipSwish. The published 0.5 starts almost linear, and weights of norm 1 cannot make up
            for it: it takes thousands of steps to leave.

    Raises:
        ConfigError: If an argument is out of range or the lengths do not fit.

    References:
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen 2019, arXiv:1906.02735.

    Example:
        >>> net = LipschitzNet((2,), hidden=(16, 16), lipschitz=0.9)
        >>> x, y = torch.zeros(2), torch.ones(2)
        >>> bool((net(x) - net(y)).norm() <= 0.9 * (x - y).norm())
        True
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        lipschitz: float = 0.9,
        activation: str = "lipswish",
        kernels: Sequence[int] | None = None,
        orders: Sequence[float] | None = None,
        method: str = "exact",
        beta: float = 15.0,
    ) -> None:
        super().__init__()
        self.shape, self.context, self.hidden, self.lipschitz = tuple(shape), context, tuple(hidden), lipschitz
        self.activation, self.method, self.beta = activation, method, beta
        self.kernels = None if kernels is None else tuple(kernels)
        self.orders = None if orders is None else tuple(orders)
        _check(self.shape, context, self.hidden, lipschitz, activation)
        n = len(self.hidden) + 1
        taps = self.kernels or _published_kernels(n)
        spaces = self.orders or (2.0,) * (n + 1)
        check(len(taps) == n, ConfigError, f"kernels needs {n} entries, one for each layer, got {self.kernels}.")
        ok = len(spaces) == n + 1 and spaces[0] == spaces[-1] and (self.orders is None or len(self.shape) == 1)
        check(
            ok and (activation != "clipswish" or set(spaces) == {2.0}),
            ConfigError,
            f"orders={self.orders}: dense layers take {n + 1} of them, the last like the first; clipswish takes 2 only.",
        )
        self.order = spaces[0]
        inputs = (self.shape[0], *(h * widening(activation) for h in self.hidden))
        outputs = (*self.hidden, self.shape[0])
        self.layers = nn.ModuleList()
        for k, (i, o) in enumerate(zip(inputs, outputs, strict=True)):
            bound, c = (lipschitz if k == n - 1 else 1.0), (context if k == 0 else 0)
            if len(self.shape) == 1:
                layer: Bounded = LipschitzDense(i, o, c, bound, spaces[k], spaces[k + 1], method)
            else:
                layer = LipschitzConv(i, o, taps[k], self.shape[1:], c, bound, method)
            self.layers.append(layer)
        self.activations = nn.ModuleList(make_activation(activation, len(self.shape), beta) for _ in self.hidden)

    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        weights: Sequence[Tensor] | None = None,
        tangents: Tensor | None = None,
    ) -> Tensor:
        weights = weights or self.weights()
        h, t = _affine(self.layers[0], x, tangents, weights[0], c)
        for act, layer, weight in zip(self.activations, list(self.layers)[1:], weights[1:], strict=True):
            h, t = _affine(layer, *cast(Activation, act).push(h, t), weight)
        return _stack(h, t)

    def pullback(
        self, x: Tensor, c: Tensor | None = None, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        first, *others = weights or self.weights()
        h, steps = self.layers[0](x, c, first), []
        for act, layer, weight in zip(self.activations, list(self.layers)[1:], others, strict=True):
            h, slopes = cast(Activation, act).bend(h)
            h = layer(h, None, weight)
            steps.append((act, layer, weight, slopes))

        def pull(v: Tensor) -> Tensor:
            for act, layer, weight, slopes in reversed(steps):
                v = cast(Activation, act).pull(slopes, cast(Bounded, layer).transposed(v, weight))
            return cast(Bounded, self.layers[0]).transposed(v, first)

        return h, pull


class LipschitzDenseNet(Contraction):
    r"""Block of an invertible DenseNet: every layer sees all before it, by concatenation, and the whole contracts.

    .. math::
        h_{l+1} = [\,\hat\eta_1 h_l,\; \hat\eta_2\, \phi(W_l h_l + b_l)\,], \qquad \hat\eta_1^2 + \hat\eta_2^2 = 1, \qquad
        g(x) = W_{\text{out}} h_L + b

    with :math:`\|W_l\| \le 1`, :math:`\|W_{\text{out}}\| \le \kappa` and learned positive :math:`\hat\eta`: each
    concatenation has a Lipschitz constant of at most :math:`\sqrt{\hat\eta_1^2 + \hat\eta_2^2} = 1`.

    Args:
        shape: ``(features,)`` for dense layers, ``(channels, height, width)`` for 3x3 convolutions (the last one 1x1).
        context: Width of the context; it enters the first layer additively.
        hidden: Width of what each layer adds (twice that with ``"clipswish"``); their number is :math:`L`.
        lipschitz: Bound :math:`\kappa` on the Lipschitz constant in ``x``.
        activation: ``"clipswish"`` as published (doubles what is concatenated), or one of the others.
        method: How the norms are found, see ``LipschitzDense``.
        beta: Initial sharpness of LipSwish. The published 0.5 starts almost linear, and weights of norm 1 cannot make up
            for it: it takes thousands of steps to leave.

    Raises:
        ConfigError: If an argument is out of range.

    References:
        Invertible DenseNets, Perugachi-Diaz, Tomczak, Bhulai 2020, arXiv:2010.02125;
        Invertible DenseNets with Concatenated LipSwish, the same 2021, arXiv:2102.02694.

    Example:
        >>> LipschitzDenseNet((2,), hidden=(8, 8, 8))(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int = 0,
        hidden: Sequence[int] = (32, 32, 32),
        lipschitz: float = 0.9,
        activation: str = "clipswish",
        method: str = "exact",
        beta: float = 15.0,
    ) -> None:
        super().__init__()
        self.shape, self.context, self.hidden, self.lipschitz = tuple(shape), context, tuple(hidden), lipschitz
        self.activation, self.method, self.beta = activation, method, beta
        _check(self.shape, context, self.hidden, lipschitz, activation)
        check(bool(self.hidden), ConfigError, "a dense block needs at least one hidden layer.")
        self.dim, factor = -len(self.shape), widening(activation)
        widths = list(itertools.accumulate((factor * h for h in self.hidden), initial=self.shape[0]))

        def layer(inputs: int, outputs: int, c: int, bound: float, kernel: int) -> Bounded:
            if len(self.shape) == 1:
                return LipschitzDense(inputs, outputs, c, bound, method=method)
            return LipschitzConv(inputs, outputs, kernel, self.shape[1:], c, bound, method)

        self.layers = nn.ModuleList(
            layer(w, h, 0 if k else context, 1.0, 3) for k, (w, h) in enumerate(zip(widths, self.hidden, strict=False))
        )
        self.head = layer(widths[-1], self.shape[0], 0, lipschitz, 1)
        self.activations = nn.ModuleList(make_activation(activation, len(self.shape), beta) for _ in self.hidden)
        self.eta = nn.Parameter(torch.zeros(len(self.hidden), 2))

    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        weights: Sequence[Tensor] | None = None,
        tangents: Tensor | None = None,
    ) -> Tensor:
        weights = weights or self.weights()
        eta = softplus(self.eta)
        eta = eta / torch.linalg.vector_norm(eta, dim=1, keepdim=True)
        h, t = x, tangents
        for k, (layer, act, keep, add) in enumerate(zip(self.layers, self.activations, *eta.unbind(1), strict=True)):
            new, new_t = cast(Activation, act).push(*_affine(layer, h, t, weights[k], None if k else c))
            h = torch.cat((keep * h, add * new), self.dim)
            if t is not None and new_t is not None:
                lead = torch.broadcast_shapes(t.shape[: self.dim], new_t.shape[: self.dim])
                t = torch.cat([v.expand(*lead, *v.shape[self.dim :]) for v in (keep * t, add * new_t)], self.dim)
        return _stack(*_affine(self.head, h, t, weights[-1]))


def make_activation(name: str, event_dim: int, beta: float) -> Activation:
    """An activation with slopes between -1 and 1, by name."""
    if name == "clipswish":
        return CLipSwish(-event_dim, beta)
    return LipSwish(beta) if name == "lipswish" else Pointwise(name)


def widening(name: str) -> int:
    """How many outputs an activation has for each input."""
    return CLipSwish.widens if name == "clipswish" else 1


def _affine(
    layer: nn.Module, h: Tensor, t: Tensor | None, weight: Tensor, c: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """A layer on a value and, without what is constant in it, on the tangents."""
    return layer(h, c, weight), None if t is None else cast(Bounded, layer).linear_part(t, weight)


def _stack(value: Tensor, tangents: Tensor | None) -> Tensor:
    if tangents is None:
        return value
    return torch.cat((value.unsqueeze(0), tangents.expand(-1, *value.shape)))


def _published_kernels(n: int) -> tuple[int, ...]:
    return (3,) if n == 1 else (3, *(1,) * (n - 2), 3)


def _check(shape: tuple[int, ...], context: int, sizes: Sequence[int], lipschitz: float, activation: str) -> None:
    ok = len(shape) in (1, 3) and all(n >= 1 for n in shape)
    check(ok, ConfigError, f"shape must be (features,) or (channels, height, width), got {shape}.")
    check(context >= 0, ConfigError, f"context must not be negative, got {context}.")
    check(all(n >= 1 for n in sizes), ConfigError, f"widths and depths must be at least 1, got {tuple(sizes)}.")
    check(0 < lipschitz < 1, ConfigError, f"lipschitz must lie between 0 and 1, got {lipschitz!r}.")
    check(
        activation in ACTIVATIONS_WITH_SLOPE_ONE,
        ConfigError,
        f"activation={activation!r} is unknown here; use one of {list(ACTIVATIONS_WITH_SLOPE_ONE)}.",
    )

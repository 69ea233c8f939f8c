r"""Layers whose Lipschitz constant is bounded, whatever their parameters.

A weight is used as :math:`W \min(1, b / \sigma(W))`, where :math:`\sigma` is a norm of the operator and :math:`b` the bound.
The norm is a function of the weight alone, taken anew in every call: the bound holds right after a step of the optimiser,
and nothing is stored on the way. ``method`` says how the norm is found:

* ``"exact"`` (default): by singular values, for a convolution of its blocks in Fourier space.
* ``"gram"``: an upper bound by matrix products, for large layers on an accelerator.
* ``"power"``: as published, by power iteration from a stored start, on the true operator. It approaches the norm from below,
  so the bound holds to the accuracy of the iteration only. ``update`` moves the start, if somebody calls it.
"""

import abc
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bijectory.errors import ConfigError, check
from bijectory.nets.freezable import Freezable
from bijectory.ops import lipschitz as norms
from bijectory.ops.image import conv2d
from bijectory.ops.shape import linear

METHODS = ("exact", "gram", "power")


class Bounded(Freezable):
    """A linear layer whose weight is scaled down to a bound on the norm of its operator.

    Attributes:
        bound: The Lipschitz constant that the layer does not exceed.
        method: How the norm is found.
        u: Start of the power iteration, ``None`` for the other methods.
    """

    bound: float
    method: str
    weight: nn.Parameter
    u: Tensor | None

    @abc.abstractmethod
    def norm(self) -> Tensor:
        """Norm of the operator with the weight as it is stored, or a bound of it: a scalar with a gradient."""

    @abc.abstractmethod
    def linear_part(self, t: Tensor, weight: Tensor) -> Tensor:
        """What the layer does to a difference of two inputs, with the weight to use."""

    @abc.abstractmethod
    def transposed(self, t: Tensor, weight: Tensor) -> Tensor:
        """The transpose of ``linear_part``: ``(n, *batch, *outputs) -> (n, *batch, *inputs)``."""

    @abc.abstractmethod
    def singular_vectors(self) -> tuple[Tensor, Tensor]:
        """The left and right vectors that power iteration reaches from ``u``."""

    def bounded_weight(self) -> Tensor:
        """The weight as it is used."""
        return self.weight if self.is_frozen else self.weight * (self.bound / self.norm().clamp(min=self.bound))

    def update(self) -> None:
        """Move the start of the power iteration to where it leads; nothing to do for the other methods."""
        if self.u is not None:
            self.u.copy_(self.singular_vectors()[0])

    def precompute(self) -> None:
        """Scale the weight once and for all; doing so again changes nothing."""
        with torch.no_grad():
            self.weight.mul_(self.bound / self.norm().clamp(min=self.bound))

    def _check(self) -> None:
        ok = self.bound > 0 and math.isfinite(self.bound)
        check(ok, ConfigError, f"bound must be a positive finite number, got {self.bound!r}.")
        check(self.method in METHODS, ConfigError, f"method={self.method!r} is unknown; use one of {list(METHODS)}.")


class LipschitzDense(Bounded):
    r"""Affine layer ``(*batch, i) -> (*batch, o)`` with a bounded induced norm, plus an optional additive context term.

    .. math:: \|W x - W y\|_q \le b\, \|x - y\|_p

    Args:
        inputs: Width of ``x``.
        outputs: Width of the result.
        context: Width of ``c``; its term is not bounded, since the constant concerns ``x`` alone.
        bound: :math:`b`.
        domain: :math:`p`, from 1 to infinity.
        codomain: :math:`q`.
        method: ``"exact"``, ``"gram"`` or ``"power"``; the last two for ``p = q = 2`` only.
        iterations: Of the last two methods.

    Raises:
        ConfigError: If an argument is out of range.

    References:
        arXiv:1811.00995; for other norms than 2 arXiv:1906.02735.

    Example:
        >>> layer = LipschitzDense(3, 2, bound=0.5)
        >>> bool(torch.linalg.matrix_norm(layer.bounded_weight(), ord=2) < 0.5 + 1e-6)
        True
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        context: int = 0,
        bound: float = 1.0,
        domain: float = 2.0,
        codomain: float = 2.0,
        method: str = "exact",
        iterations: int = 8,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.context, self.bound = inputs, outputs, context, bound
        self.domain, self.codomain, self.method, self.iterations = domain, codomain, method, iterations
        self._check()
        check(domain >= 1 and codomain >= 1, ConfigError, f"norms start at 1, got {domain} and {codomain}.")
        check(
            method == "exact" or domain == codomain == 2,
            ConfigError,
            f"method={method!r} finds the norm from 2 to 2 only; use 'exact' for {domain} to {codomain}.",
        )
        size = 1 / math.sqrt(inputs + context)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-1, 1) * math.sqrt(3 / inputs))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-size, size))
        self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-size, size)) if context else None
        self.register_buffer("u", torch.randn(outputs) if method == "power" else None)

    def norm(self) -> Tensor:
        if self.method == "gram":
            return norms.gram_bound(self.weight, self.iterations)
        if self.method == "power":
            u, v = self.singular_vectors()
            return (u * (self.weight @ v)).sum()
        return norms.induced_norm(self.weight, self.domain, self.codomain)

    def singular_vectors(self) -> tuple[Tensor, Tensor]:
        start = cast(Tensor, self.u)
        return norms.power_iteration(lambda v: self.weight @ v, lambda u: u @ self.weight, start, self.iterations)

    def linear_part(self, t: Tensor, weight: Tensor) -> Tensor:
        return linear(t, weight)

    def transposed(self, t: Tensor, weight: Tensor) -> Tensor:
        return linear(t, weight.mT)

    def forward(self, x: Tensor, c: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: ``(*batch, i)``.
            c: Context ``(*batch, context)``; broadcasts against the batch of ``x``.
            weight: ``bounded_weight()``, for many calls with the same parameters.
        """
        out = linear(x, self.bounded_weight() if weight is None else weight, self.bias)
        return out if c is None or self.context_weight is None else out + linear(c, self.context_weight)


class LipschitzConv(Bounded):
    r"""Convolution of images ``(*batch, i, height, width) -> (*batch, o, height, width)`` with a bounded spectral norm.

    Odd kernels, stride 1, zero padding. The bound is that of the linear operator on images of the given size.

    Args:
        inputs: Channels of ``x``.
        outputs: Channels of the result.
        kernel: Height and width of the kernel, odd.
        size: Height and width of the images.
        context: Width of ``c``, which adds a constant to every channel.
        bound: On the spectral norm.
        method: ``"exact"`` (a bound by Fourier blocks, a little above the norm because of the padding), ``"gram"`` or
            ``"power"``.
        iterations: Of the last two methods.

    Raises:
        ConfigError: If an argument is out of range.

    References:
        arXiv:1811.00995; Gouk, Frank, Pfahringer, Cree 2018, arXiv:1804.04368 (power iteration on the operator).

    Example:
        >>> LipschitzConv(1, 8, 3, (4, 4))(torch.zeros(5, 1, 4, 4)).shape
        torch.Size([5, 8, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        size: Sequence[int],
        context: int = 0,
        bound: float = 1.0,
        method: str = "exact",
        iterations: int = 8,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.kernel, self.size, self.context = inputs, outputs, kernel, tuple(size), context
        self.bound, self.method, self.iterations = bound, method, iterations
        self._check()
        check(kernel >= 1 and kernel % 2 == 1, ConfigError, f"kernel must be odd and positive, got {kernel}.")
        fan = inputs * kernel**2
        extent = 1 / math.sqrt(fan + context)
        weight = torch.empty(outputs, inputs, kernel, kernel).uniform_(-1, 1) * math.sqrt(3 / fan)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-extent, extent))
        self.context_weight = nn.Parameter(torch.empty(outputs, context).uniform_(-extent, extent)) if context else None
        self.register_buffer("u", torch.randn(1, outputs, *self.size) if method == "power" else None)

    def norm(self) -> Tensor:
        if self.method == "power":
            u, v = self.singular_vectors()
            return (u * conv2d(v, self.weight)).sum()
        blocks = norms.fourier_blocks(self.weight, self.size)
        return norms.gram_bound(blocks, self.iterations) if self.method == "gram" else norms.spectral_norm(blocks)

    def singular_vectors(self) -> tuple[Tensor, Tensor]:
        return norms.power_iteration(
            lambda v: conv2d(v, self.weight),
            lambda u: F.conv_transpose2d(u, self.weight, padding=self.kernel // 2),
            cast(Tensor, self.u),
            self.iterations,
        )

    def linear_part(self, t: Tensor, weight: Tensor) -> Tensor:
        return conv2d(t, weight)

    def transposed(self, t: Tensor, weight: Tensor) -> Tensor:
        return conv2d(t, weight.transpose(0, 1).flip(2, 3))

    def forward(self, x: Tensor, c: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Apply the layer; the arguments are those of ``LipschitzDense``."""
        out = conv2d(x, self.bounded_weight() if weight is None else weight, self.bias)
        if c is None or self.context_weight is None:
            return out
        return out + linear(c, self.context_weight)[..., None, None]

"""Autoregression over tokens by a causal transformer."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, ContextError, check, check_type
from bijectory.nets import Cache, CausalTransformer
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context, sum_event
from bijectory.transforms.base import Transform

Step = Callable[[Tensor, Cache], tuple[Tensor, Cache]]


class Jacobi(NamedTuple):
    """The result of ``Causal.jacobi``.

    Attributes:
        x: Data ``(*batch, tokens, features)``.
        ladj: ``log|det dx/dz|``, ``(*batch,)``.
        sweeps: Passes through the network that were made.
        residual: Largest change of each event in the last sweep, relative to ``1 + |x|``: ``(*batch,)``.
    """

    x: Tensor
    ladj: Tensor
    sweeps: int
    residual: Tensor


class Causal(Transform):
    r"""Autoregression over a sequence of tokens, :math:`z_t = \tau(x_t; \phi_t(x_{<t}, c))`, by a causal transformer.

    An event is ``(tokens, features)``; every number of token ``t`` goes through the scalar family with parameters that
    read the tokens before it. The Jacobian is block triangular with diagonal blocks, so the log-determinant is the sum of
    the scalar ones. The parameters of the first token are functions of the context alone.

    ``forward`` takes one pass. ``inverse`` goes token by token with cached keys and values: about the arithmetic of one
    pass, in as many steps as there are tokens. ``jacobi`` computes the same from all tokens at once, sweep after sweep.

    Args:
        bijection: The scalar family :math:`\tau`; ``Inverted(Affine())`` is the one of the paper.
        tokens: Length of the sequence.
        features: Numbers in each token.
        context: Width of the context, 0 for none.
        width: Width of a token inside the built-in transformer.
        depth: Number of its blocks.
        heads: Number of its attention heads.
        net: A transformer of your own.
        backwards: Go from the last token to the first.

    Raises:
        ConfigError: On a family without parameters, or a ``net`` of other sizes.

    References:
        Normalizing Flows are Capable Generative Models (TarFlow), Zhai+ 2024, arXiv:2412.06329, sec. 2.

    Example:
        >>> from bijectory import Affine
        >>> layer = Causal(Affine(), tokens=3, features=2, width=8, heads=2)
        >>> z, ladj = layer(torch.ones(5, 3, 2))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3, 2]), torch.Size([5]))
        >>> layer.jacobi(z).sweeps <= 3
        True
    """

    solver = "by features"
    event_dim, latent_event_dim = 2, 2

    def __init__(
        self,
        bijection: Bijection,
        tokens: int,
        features: int,
        context: int = 0,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        net: CausalTransformer | None = None,
        *,
        backwards: bool = False,
    ) -> None:
        super().__init__()
        check_type(bijection, Bijection, "bijection")
        check(bijection.n_params >= 1, ConfigError, f"{bijection} has no parameters to condition; use Elementwise.")
        if net is None:
            net = CausalTransformer(tokens, features, bijection.n_params, context, width, depth, heads)
        got, want = (
            (net.tokens, net.features, net.n_params, net.context),
            (tokens, features, bijection.n_params, context),
        )
        check(
            got == want, ConfigError, f"net has (tokens, features, n_params, context) = {got}, this layer needs {want}."
        )
        self.bijection, self.tokens, self.features, self.context = bijection, tokens, features, context
        self.width, self.depth, self.heads = net.width, net.depth, net.heads
        self.net, self.backwards = net, backwards

    def extra_repr(self) -> str:
        return f"{self.bijection}, tokens={self.tokens}, features={self.features}, backwards={self.backwards}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, c = self._enter(x, c)
        z, ladj = self.bijection.forward(x, self._planes(x, self.net(x, c)))
        return self._order(z), sum_event(ladj, 2)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, c = self._enter(z, c)
        return self._scan(z, self.net.begin(z.shape[:-2], c), lambda x, cache: self.net.step(x, cache, c))

    def guided_inverse(self, z: Tensor, c: Tensor, null: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
        r"""Latent -> data with parameters pushed away from those of another context.

        .. math:: \tilde\phi_t = \phi_t(x_{<t}, c) + w \left(\phi_t(x_{<t}, c) - \phi_t(x_{<t}, \varnothing)\right)

        Args:
            z: ``(*batch, tokens, features)``.
            c: Context ``(*batch, context)``.
            null: The context that stands for none, of a shape that broadcasts with ``c``.
            guidance: The weight ``w``; 0 gives ``inverse(z, c)``.

        Returns:
            ``x`` and ``log|det dx/dz|`` of the guided map.

        Raises:
            ContextError: If the layer reads no context.
        """
        check(self.context > 0, ContextError, "guidance needs a layer with a context; this one has context=0.")
        c, null = torch.broadcast_tensors(c, null)
        z, _ = self._enter(z, c)
        missing = z.dim() - 1 - c.dim()  # batch dimensions that the context leaves to broadcasting
        both = torch.stack((c, null)).unflatten(0, (2, *(1,) * missing))

        def guide(raw: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
            return raw[0] + guidance * (raw[0] - raw[1]), cache

        start = guide(*self.net.begin((2, *z.shape[:-2]), both))
        return self._scan(z, start, lambda x, cache: guide(*self.net.step(x.expand(2, *x.shape), cache, both)))

    def _scan(self, z: Tensor, start: tuple[Tensor, Cache], step: Step) -> tuple[Tensor, Tensor]:
        """Token after token; ``step`` reads one and gives the parameters of the next."""
        raw, cache = start
        tokens: list[Tensor] = []
        total: list[Tensor] = []
        for t in range(self.tokens):
            if t > 0:
                raw, cache = step(tokens[-1], cache)
            x, ladj = self.bijection.inverse(z[..., t, :], self._planes(z, raw))
            tokens.append(x)
            total.append(sum_event(ladj, 1))
        return self._order(torch.stack(tokens, -2)), torch.stack(total, -1).sum(-1)

    def jacobi(
        self, z: Tensor, c: Tensor | None = None, *, tolerance: float = 0.0, max_sweeps: int | None = None
    ) -> Jacobi:
        r"""Latent -> data by fixed-point iteration: all tokens at once, :math:`x \leftarrow \tau^{-1}(z; \phi(x, c))`.

        Each sweep is a full pass and makes at least one more token exact, so that ``tokens`` sweeps give the result of
        ``inverse`` (to rounding) from any start; a smooth map gets close in far fewer. The loop reads values to know when
        to stop: not for ``vmap`` and whole-graph capture, unless ``tolerance`` is 0. Gradients flow through the sweeps
        made.

        Args:
            z: ``(*batch, tokens, features)``.
            c: Context ``(*batch, context)``.
            tolerance: Stop when no event changes by more, relative to ``1 + |x|``; 0: go on to the last sweep.
            max_sweeps: At most so many sweeps; None: ``tokens``.

        Raises:
            ConfigError: If ``max_sweeps`` is below 1 or ``tolerance`` negative.

        References:
            Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving (Jacobi iteration),
            Song, Meng, Liao, Ermon 2020, arXiv:2002.03629, sec. 3.
        """
        limit = self.tokens if max_sweeps is None else min(max_sweeps, self.tokens)
        ok = limit >= 1 and tolerance >= 0
        check(ok, ConfigError, f"max_sweeps={max_sweeps} must be at least 1 and tolerance={tolerance} at least 0.")
        z, c = self._enter(z, c)
        x, sweeps = z, 0
        for _ in range(limit):
            new, ladj = self.bijection.inverse(z, self._planes(x, self.net(x, c)))
            residual = ((new - x).abs() / (1 + x.abs())).flatten(-2).amax(-1)
            x, sweeps = new, sweeps + 1
            if tolerance > 0 and bool((residual <= tolerance).all()):
                break
        return Jacobi(self._order(x), sum_event(ladj, 2), sweeps, residual)

    def _enter(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens in the order of dependence, and the context if it is read."""
        c = c if self.context else None
        return self._order(expand_to_context(x, c, 2)), c

    def _order(self, x: Tensor) -> Tensor:
        return x.flip(-2) if self.backwards else x

    def _planes(self, x: Tensor, raw: Tensor) -> Tensor:
        """Parameters ``(*batch, …, P * features)`` as planes ``(P, *batch, …, features)``."""
        return as_precise_as(x, raw.unflatten(-1, (self.bijection.n_params, self.features)).movedim(-2, 0))

"""Autoregressive layers: every feature is transformed given those before it."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MaskedMLP
from bijectory.ops.eager import is_plain
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context, sum_event, to_planes
from bijectory.transforms.base import Transform

InverseMethod = Literal["auto", "incremental", "jacobi", "gauss-seidel-jacobi"]
PATIENCE = 16  # sweeps after which ``inverse`` gives an iteration up for the incremental method


class InverseResult(NamedTuple):
    """The result of ``Autoregressive.solve_inverse``.

    Attributes:
        x: Data ``(*batch, features)``.
        ladj: ``log|det dx/dz|``, ``(*batch,)``.
        sweeps: Steps that it took: levels of the incremental method, else sweeps, over all blocks.
        residual: Largest ``|forward(x) - z|`` of each event, relative to ``1 + |z|``: ``(*batch,)``.
    """

    x: Tensor
    ladj: Tensor
    sweeps: int
    residual: Tensor


class Autoregressive(Transform):
    r"""Autoregressive layer :math:`z_i = \tau(x_i; \phi_i(x_{\mathrm{pa}(i)}, c))` with any scalar family.

    The parents :math:`\mathrm{pa}(i)` are the features before :math:`i` in ``order``, or the row :math:`i` of
    ``adjacency``. The Jacobian is triangular (after sorting), so the log-determinant is the sum of the scalar ones.

    ``forward`` takes one pass through the network. Swap the directions with ``Inverse`` for an inverse autoregressive flow.
    There are three methods to compute ``inverse``, with the same result to rounding:

    - ``"incremental"``: level by level of the graph, every hidden unit once; about the arithmetic of one pass.
    - ``"jacobi"``: all features at once, :math:`x \leftarrow \tau^{-1}(z; \phi(x, c))` from :math:`x = z` until nothing
      moves. Every sweep is a pass and makes at least one more level exact.
    - ``"gauss-seidel-jacobi"``: blocks of 16 levels one after another, Jacobi iteration within each.

    The iterations read values to know when to stop and carry no derivatives. ``inverse`` takes one where neither is
    needed, as in ``sample``, and goes back to the incremental method where 16 sweeps do not settle it. ``"auto"`` iterates
    (``"jacobi"``) for few rows of many features, at most twice as many rows as levels, of which there are 16 or more:
    what measured fastest on a CPU. ``solve_inverse`` lets the caller choose and reports sweeps and residual.

    Args:
        bijection: The scalar family :math:`\tau`.
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the built-in network.
        order: Features in the order of dependence; None: ``0, 1, 2, …``.
        adjacency: ``(features, features)`` booleans, row :math:`i` the parents of :math:`i`; instead of ``order``.
        net: A masked network with an activation and initial scale of your own; it brings its order or adjacency.
        inverse_method: ``"auto"``, ``"incremental"``, ``"jacobi"`` or ``"gauss-seidel-jacobi"``.

    Raises:
        ConfigError: On a family without parameters, an order that is no permutation, a cyclic adjacency (the cycle is
            named), a ``net`` of other sizes, or an unknown method.

    References:
        Masked Autoregressive Flow, Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057, eq. 3-5;
        Inverse Autoregressive Flow, Kingma+ 2016, arXiv:1606.04934; MADE, Germain+ 2015, arXiv:1502.03509;
        Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving, Song, Meng, Liao, Ermon 2020,
        arXiv:2002.03629, sec. 3.

    Example:
        >>> from bijectory.bijections import Affine
        >>> layer = Autoregressive(Affine(), features=3, order=[2, 0, 1])
        >>> z, ladj = layer(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    solver = "by features"
    regions = ("forward",)
    _topological: Tensor
    _rank: Tensor

    def __init__(
        self,
        bijection: Bijection,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        order: Sequence[int] | None = None,
        adjacency: Sequence[Sequence[bool]] | Tensor | None = None,
        net: MaskedMLP | None = None,
        inverse_method: InverseMethod = "auto",
    ) -> None:
        super().__init__()
        _check_method(inverse_method)
        check_type(bijection, Bijection, "bijection")
        check(bijection.n_params >= 1, ConfigError, f"{bijection} has no parameters to condition; use Elementwise.")
        net = net or MaskedMLP(features, bijection.n_params, hidden, context, order, adjacency)
        got, want = (net.features, net.n_params, net.context), (features, bijection.n_params, context)
        check(got == want, ConfigError, f"net has (features, n_params, context) = {got}, this layer needs {want}.")
        same = order is None or tuple(order) == net.order
        if adjacency is not None:
            same = same and net.adjacency == tuple(tuple(map(bool, row)) for row in adjacency)
        check(
            same,
            ConfigError,
            "net was built for another graph than the one given here; leave the graph to the net.",
        )
        self.bijection, self.features, self.context, self.hidden = bijection, features, context, net.hidden
        self.order, self.adjacency, self.net = net.order, net.adjacency, net
        self.inverse_method = inverse_method
        topological = torch.tensor(net.topological)
        self.register_buffer("_topological", topological, persistent=False)
        self.register_buffer("_rank", topological.argsort(), persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        z, ladj = self.bijection.forward(x, as_precise_as(x, to_planes(self.net(x, c), self.bijection.n_params)))
        return z, sum_event(ladj, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        block = self._block(self.inverse_method, z, c) if is_plain(z, (c, *self.parameters())) else 1
        if block > 1:
            x, ladj, _, settled = self._invert(z, c, block, _roundings(z), PATIENCE)
            if settled:
                return x, ladj
        x, ladj, _, _ = self._invert(z, c, 1)
        return x, ladj

    def solve_inverse(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        method: InverseMethod | None = None,
        tolerance: float | None = None,
        max_sweeps: int | None = None,
    ) -> InverseResult:
        """Latent -> data by a method of your choice, with what it took and how well the result holds.

        Unlike ``inverse`` it does what it is told: where the iterations are not possible, because derivatives are recorded
        or the call is captured or transformed, it raises.

        Args:
            z: ``(*batch, features)``.
            c: Context ``(*batch, context)``.
            method: See the class; None: that of the layer.
            tolerance: Settled is what moves by no more than ``tolerance * (1 + |x|)`` in a sweep; None: 8 roundings.
            max_sweeps: At most so many for each block; None: until the block is exact.

        Raises:
            ConfigError: On an unknown method, a negative tolerance, ``max_sweeps`` below 1, or an iterative method where
                values cannot be read or gradients would be lost.

        Example:
            >>> from bijectory.bijections import Affine
            >>> layer = Autoregressive(Affine(), features=30)
            >>> with torch.no_grad():
            ...     result = layer.solve_inverse(torch.ones(30), method="jacobi")
            >>> result.sweeps < 30, result.residual.item() < 1e-5
            (True, True)
        """
        tolerance = _roundings(z) if tolerance is None else tolerance
        ok = tolerance >= 0 and (max_sweeps is None or max_sweeps >= 1)
        check(ok, ConfigError, f"tolerance={tolerance} must be at least 0, max_sweeps={max_sweeps} at least 1.")
        method = self.inverse_method if method is None else method
        _check_method(method)
        plain = is_plain(z, (c, *self.parameters()))
        check(
            plain or method in ("auto", "incremental"),
            ConfigError,
            f"method={method!r} reads values and carries no gradients; use torch.no_grad(), or method='incremental'.",
        )
        block = self._block(method, z, c) if plain else 1
        x, ladj, sweeps, _ = self._invert(z, c, block, tolerance, max_sweeps)
        with torch.no_grad():
            residual = ((self.forward(x, c)[0] - z).abs() / (1 + z.abs())).amax(-1)
        return InverseResult(x, ladj, sweeps, residual)

    def _block(self, method: str, z: Tensor, c: Tensor | None) -> int:
        """Levels that are iterated together."""
        levels = self.net.levels
        if method == "auto":
            n = expand_to_context(z, c if self.context else None, 1)[..., 0].numel()
            method = "jacobi" if levels >= 16 and n <= 2 * levels else "incremental"
        return {"incremental": 1, "gauss-seidel-jacobi": min(16, levels), "jacobi": levels}[method]

    def _invert(
        self, z: Tensor, c: Tensor | None, block: int, tolerance: float = 0.0, limit: int | None = None
    ) -> tuple[Tensor, Tensor, int, bool]:
        """Invert in blocks of levels; with blocks of one there is nothing to iterate and no value is read."""
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        batch = z.shape[:-1]
        columns = z.movedim(-1, 0).flatten(1) if batch else z.unsqueeze(-1)
        columns = columns.index_select(0, self._topological)
        total: dict[int, Tensor] = {}  # by first feature: an iteration replaces what the one before it put there

        def step(start: int, stop: int, raw: Tensor) -> Tensor:
            x, ladj = self.bijection.inverse(columns[start:stop].mT, as_precise_as(columns, raw.mT))
            total[start] = sum_event(ladj, 1)
            return x.mT

        if block == 1:
            x, sweeps, settled = self.net.sweep(step, batch, c), self.net.levels, True
        else:
            x, sweeps, settled = self.net.iterate(
                step, columns, batch, c, block=block, tolerance=tolerance, limit=limit
            )
        x = x.index_select(0, self._rank)
        ladj = torch.stack(list(total.values())).sum(0).reshape(batch)
        return x.unflatten(-1, batch).movedim(0, -1) if batch else x.squeeze(-1), ladj, sweeps, settled


def _check_method(method: str) -> None:
    known = get_args(InverseMethod)
    check(method in known, ConfigError, f"the method must be one of {', '.join(known)}, got {method!r}.")


def _roundings(z: Tensor) -> float:
    return 8 * torch.finfo(z.dtype).eps

"""Autoregressive layers: every feature is transformed given those before it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MaskedMLP
from bijectory.ops.shape import expand_to_context, sum_event, to_planes
from bijectory.transforms.base import Transform


class Autoregressive(Transform):
    r"""Autoregressive layer :math:`z_i = \tau(x_i; \phi_i(x_{\mathrm{pa}(i)}, c))` with any scalar family.

    The parents :math:`\mathrm{pa}(i)` are the features before :math:`i` in ``order``, or the row :math:`i` of
    ``adjacency``. The Jacobian is triangular (after sorting), so the log-determinant is the sum of the scalar ones.

    ``forward`` takes one pass through the network. ``inverse`` goes level by level and evaluates every hidden unit once:
    about the arithmetic of one pass, in as many steps as the graph has levels. Swap the directions with ``Inverse``
    for an inverse autoregressive flow.

    Args:
        bijection: The scalar family :math:`\tau`.
        features: Number of features.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the built-in network.
        order: Features in the order of dependence; None: ``0, 1, 2, …``.
        adjacency: ``(features, features)`` booleans, row :math:`i` the parents of :math:`i`; instead of ``order``.
        net: A masked network with an activation and initial scale of your own; it brings its order or adjacency.

    Raises:
        ConfigError: On a family without parameters, an order that is no permutation, a cyclic adjacency (the cycle is
            named), or a ``net`` of other sizes.

    References:
        Masked Autoregressive Flow, Papamakarios, Pavlakou, Murray 2017, arXiv:1705.07057, eq. 3-5;
        Inverse Autoregressive Flow, Kingma+ 2016, arXiv:1606.04934; MADE, Germain+ 2015, arXiv:1502.03509.

    Example:
        >>> from bijectory.bijections import Affine
        >>> layer = Autoregressive(Affine(), features=3, order=[2, 0, 1])
        >>> z, ladj = layer(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    solver = "by features"
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
    ) -> None:
        super().__init__()
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
        topological = torch.tensor(net.topological)
        self.register_buffer("_topological", topological, persistent=False)
        self.register_buffer("_rank", topological.argsort(), persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, 1)
        z, ladj = self.bijection.forward(x, to_planes(self.net(x, c), self.bijection.n_params))
        return z, sum_event(ladj, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        z = expand_to_context(z, c, 1)
        batch = z.shape[:-1]
        columns = z.movedim(-1, 0).flatten(1) if batch else z.unsqueeze(-1)
        columns = columns.index_select(0, self._topological)
        total: list[Tensor] = []

        def step(start: int, stop: int, raw: Tensor) -> Tensor:
            x, ladj = self.bijection.inverse(columns[start:stop].mT, raw.mT)
            total.append(sum_event(ladj, 1))
            return x.mT

        x = self.net.sweep(step, batch, c).index_select(0, self._rank)
        return x.unflatten(-1, batch).movedim(0, -1) if batch else x.squeeze(-1), torch.stack(total).sum(0).reshape(
            batch
        )

"""Different transforms for disjoint groups of features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.errors import ConfigError, DtypeError, check
from bijectory.transforms.base import Transform


class Partition(Transform):
    r"""One transform for each group of features: :math:`z_{G_k} = f_k(x_{G_k}; c)`.

    The groups are disjoint and cover every feature, so the Jacobian is block diagonal up to an order of the features and
    the log-determinants add. An empty ``Chain()`` leaves a group as it is.

    Args:
        *transforms: One transform on vectors for each group, which keeps the number of features.
        groups: For each transform the indices of its features.

    Raises:
        ConfigError: If the groups overlap, leave a gap, or do not match the transforms.
        DtypeError: If an item is not a ``Transform`` on vectors.

    Example:
        >>> from bijectory import Affine, Chain, Elementwise
        >>> z, ladj = Partition(Elementwise(Affine(), 2), Chain(), groups=[(0, 2), (1,)])(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    _rank: Tensor

    def __init__(self, *transforms: Transform, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.groups = tuple(tuple(int(i) for i in group) for group in groups)
        order = [i for group in self.groups for i in group]
        check(
            len(order) > 0 and sorted(order) == list(range(len(order))) and all(self.groups),
            ConfigError,
            f"groups must be non-empty, disjoint, and cover the features 0, 1, …; got {self.groups}.",
        )
        check(
            len(transforms) == len(self.groups),
            ConfigError,
            f"give one transform for each group, got {len(transforms)} transforms for {len(self.groups)} groups.",
        )
        for t in transforms:
            ok = isinstance(t, Transform) and t.event_dim == 1
            check(ok, DtypeError, f"a Partition takes Transforms on vectors, got {type(t).__name__}.")
        self.transforms = nn.ModuleList(transforms)
        self.exact = all(t.exact for t in transforms)
        self.context = max(t.context for t in transforms)
        for k, group in enumerate(self.groups):
            self.register_buffer(f"_group{k}", torch.tensor(group), persistent=False)
        self.register_buffer("_rank", torch.tensor(order).argsort(), persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._join([t.forward(self._part(x, k), c) for k, t in enumerate(self._parts)])

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._join([t.inverse(self._part(z, k), c) for k, t in enumerate(self._parts)])

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        for k, t in enumerate(self._parts):
            t.initialize(self._part(x, k), c)

    @property
    def _parts(self) -> list[Transform]:
        return list(self.transforms)  # type: ignore[arg-type]

    def _part(self, x: Tensor, k: int) -> Tensor:
        return x.movedim(-1, 0).index_select(0, self.get_buffer(f"_group{k}")).movedim(0, -1)

    def _join(self, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        batch = torch.broadcast_shapes(*(ladj.shape for _, ladj in parts))  # a part may not read the context
        planes = [z.expand(*batch, z.shape[-1]).movedim(-1, 0) for z, _ in parts]
        z = torch.cat(planes).index_select(0, self._rank).movedim(0, -1)
        total = parts[0][1].expand(batch)
        for _, ladj in parts[1:]:
            total = total + ladj
        return z, total

"""Vector fields on manifolds: a field of the embedding space, projected."""

from torch import Tensor

from bijectory.errors import ConfigError, check, check_type
from bijectory.nets.field import Field
from bijectory.nets.manifolds import Manifold
from bijectory.ops.shape import sum_event


class Tangent(Field):
    r"""Field on a manifold, :math:`v(t, z, c) = T_z\, h(t, \operatorname{embed}(z), c)`: always tangent to it.

    ``h`` is any field on the embedding space, e.g. a ``TimeMLP``: it sees an angle through cosine and sine, so ``v`` is
    periodic, and a vector through its direction. On a sphere :math:`v = |z|\,(1 - uu^\top)\, h(t, u, c)` with
    :math:`u = z / |z|`, for every :math:`z \ne 0`: the norm stays.

    The divergence is that of ``h`` less the part along the normals (see ``nets.manifolds``): one pass for each angle and
    each sphere, whatever its dimension, beside the trace of ``h``, which a ``TimeMLP`` has in closed form.

    Args:
        net: The field ``h``, with events ``(manifold.embedding,)``.
        manifold: Where ``v`` is tangent.

    Raises:
        ConfigError: If the events of ``net`` are not points of the embedding space.

    References:
        Flow Matching on General Geometries, Chen, Lipman 2023, arXiv:2302.03660, sec. 3.
        Neural Manifold Ordinary Differential Equations, Lou+ 2020, arXiv:2006.10254.

    Example:
        >>> import torch
        >>> from bijectory.nets import Sphere, TimeMLP
        >>> field, z = Tangent(TimeMLP(3), Sphere(3)), torch.tensor([0.6, 0.0, 0.8])
        >>> bool((field(torch.tensor(0.5), z) @ z).abs() < 1e-7)
        True
    """

    def __init__(self, net: Field, manifold: Manifold) -> None:
        super().__init__()
        check_type(net, Field, "net")
        check_type(manifold, Manifold, "manifold")
        want, got = (manifold.embedding,), tuple(net.event_shape)
        check(want == got, ConfigError, f"{manifold} is embedded in {want[0]} dimensions, but net has events {got}.")
        self.net, self.manifold = net, manifold
        self.event_shape, self.context = (manifold.features,), net.context

    def extra_repr(self) -> str:
        return f"manifold={self.manifold}"

    def forward(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.manifold.pull(z, self.net(t, self.manifold.embed(z), c))

    def with_divergence(self, t: Tensor, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        e, normals = self.manifold.embed(z), self.manifold.normals(z)
        h, trace, bends = self.net.with_squares(t, e, normals, c)
        for k, size in enumerate(self.manifold.spheres):
            trace = trace - bends[k] - size * sum_event(normals[k] * h, 1)
        return self.manifold.pull(z, h), trace

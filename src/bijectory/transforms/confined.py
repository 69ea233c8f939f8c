"""Maps of a space that are maps of a manifold in it."""

from torch import Tensor

from bijectory.errors import check_type
from bijectory.nets import Manifold
from bijectory.ops.shape import expand_to_context
from bijectory.transforms.base import Transform


class Confined(Transform):
    r"""A transform that maps a manifold to itself, up to rounding and turns, held there exactly.

    Made for ``Continuous`` with a ``Tangent`` field. Angles are wrapped into :math:`[-\pi, \pi]`; vectors of a sphere, whose
    length a solver keeps to its own error only, get the length that they had. Both leave the log-determinant as it is: a
    turn is a shift, and a map of degree 1 stays one. Angles outside the box stay where they are, so that a density on the
    box stays one.

    ``initialize``, which ``fit`` calls with the training data, refuses rows that are no points of the manifold.

    Args:
        transform: On events ``(manifold.features,)``: commuting with whole turns of angles, homogeneous of degree 1 in the
            vectors of spheres.
        manifold: Where it lives.

    Raises:
        DomainError: From ``initialize``.

    References:
        Flow Matching on General Geometries, Chen, Lipman 2023, arXiv:2302.03660.

    Example:
        >>> import torch
        >>> from bijectory import Continuous
        >>> from bijectory.nets import Tangent, TimeMLP, Torus
        >>> layer = Confined(Continuous(Tangent(TimeMLP(4), Torus(2))), Torus(2))
        >>> x = torch.tensor([[3.1, -3.1], [-3.1, 3.1]])
        >>> bool((layer(x)[0].abs() <= torch.pi).all())
        True
    """

    def __init__(self, transform: Transform, manifold: Manifold) -> None:
        super().__init__()
        check_type(transform, Transform, "transform")
        check_type(manifold, Manifold, "manifold")
        self.transform, self.manifold = transform, manifold
        self.exact, self.context = transform.exact, transform.context

    def extra_repr(self) -> str:
        return f"manifold={self.manifold}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, ladj = self.transform.forward(x, c)
        return self.manifold.restore(z, expand_to_context(x, c if self.context else None, 1)), ladj

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, ladj = self.transform.inverse(z, c)
        return self.manifold.restore(x, expand_to_context(z, c if self.context else None, 1)), ladj

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        self.manifold.check(x)
        self.transform.initialize(x, c)

r"""Riemannian flow matching: paths on a manifold are geodesics.

With :math:`z_t = \exp_x(t \log_x e)` the conditional velocity is tangent, of constant length, and known in closed form, so
that training needs no solver, as in flat space. Its conditional mean at each point is a tangent field that carries the data
to the base.

References:
    Flow Matching on General Geometries, Chen, Lipman 2023, arXiv:2302.03660, sec. 3.
"""

import dataclasses

from torch import Tensor

from bijectory.errors import check_type
from bijectory.nets import Field, Manifold, Tangent
from bijectory.objectives.paths import Interpolant, Path


@dataclasses.dataclass(frozen=True)
class Geodesic(Path):
    r"""The shortest way between the two ends at constant speed; couplings see the square of its length.

    Opposite points of a sphere or a circle have no one shortest way; they are met with probability 0.

    Args:
        manifold: Where data and base live.

    Example:
        >>> import torch
        >>> from bijectory.nets import Torus
        >>> z, v = Geodesic(Torus(1)).at(torch.tensor([0.5]), torch.tensor([[3.0]]), torch.tensor([[-3.0]]))
        >>> round(z.abs().item(), 4), round(v.item(), 4)  # half way across the seam
        (3.1416, 0.2832)
    """

    manifold: Manifold

    def __post_init__(self) -> None:
        check_type(self.manifold, Manifold, "manifold")

    def at(self, t: Tensor, x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return self.manifold.path(x, e, t)

    def cost(self, x: Tensor, e: Tensor) -> Tensor:
        return self.manifold.distance(x.unsqueeze(1), e.unsqueeze(0)).square()


def natural_path(field: Field) -> Path:
    """Geodesics for a ``Tangent`` field on its manifold, straight lines for any other.

    Example:
        >>> from bijectory.nets import Sphere, TimeMLP
        >>> natural_path(Tangent(TimeMLP(3), Sphere(3)))
        Geodesic(manifold=Sphere(features=3))
    """
    return Geodesic(field.manifold) if isinstance(field, Tangent) else Interpolant()

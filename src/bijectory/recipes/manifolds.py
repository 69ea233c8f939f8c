"""Continuous flows on tori, spheres and products of them, trained by flow matching along geodesics."""

import math
from collections.abc import Sequence

from bijectory.densities import BoxUniform, Density, Flow, Product, StandardNormal, UniformSphere
from bijectory.errors import ConfigError
from bijectory.nets import Euclidean, Manifold, ProductManifold, Sphere, Tangent, TimeMLP, Torus
from bijectory.recipes.registry import recipe
from bijectory.transforms import Confined, Continuous

_PAPER = "Flow Matching on General Geometries, Chen, Lipman, arXiv:2302.03660"
_COST = "one more hidden layer, one pass for each angle and sphere"


def manifold_base(manifold: Manifold) -> Density:
    """The base of a flow on a manifold: uniform on tori and spheres, standard normal on Euclidean space.

    Args:
        manifold: The manifold.

    Raises:
        ConfigError: If it is none of the library's.

    Example:
        >>> manifold_base(Sphere(3))
        UniformSphere()
    """
    if isinstance(manifold, Euclidean):
        return StandardNormal(manifold.features)
    if isinstance(manifold, Torus):
        return BoxUniform(manifold.features, -math.pi, math.pi)
    if isinstance(manifold, Sphere):
        return UniformSphere(manifold.features)
    if isinstance(manifold, ProductManifold):
        return Product(*map(manifold_base, manifold.factors))
    raise ConfigError(f"there is no base for a {type(manifold).__name__}; build the Flow with a base of your own.")


def manifold_flow(
    manifold: Manifold,
    context: int = 0,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """Continuous flow on any manifold of ``nets``: a tangent field, its solution, and the manifold's own base.

    Args:
        manifold: Where the data live, e.g. ``ProductManifold((Sphere(3), Torus(1), Euclidean(2)))`` for columns in this
            order. Euclidean columns should be of unit size.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> flow = manifold_flow(ProductManifold((Sphere(3), Euclidean(2))))
        >>> flow.sample(4)[:, :3].norm(dim=-1).round(decimals=5)
        tensor([1., 1., 1., 1.])
    """
    field = Tangent(TimeMLP(manifold.embedding, context, hidden, activation, frequencies), manifold)
    return Flow(Confined(Continuous(field, method, steps), manifold), manifold_base(manifold))


@recipe(paper=_PAPER, year=2023, density="integral", sampling="integral", ladj=_COST, objective="flow_matching")
def rfm_sphere(
    features: int,
    context: int = 0,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """Riemannian flow matching on the sphere of unit vectors: a tangent velocity over the uniform law.

    The density is with respect to the area of the sphere. Divide rows by their norm first: other vectors have density 0.
    Train it with ``FlowMatching``, whose paths are then geodesics, or by likelihood. See ``manifold_flow`` for products.

    Args:
        features: Length of the vectors, one more than the dimension of the sphere.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> rfm_sphere(3).sample(4).norm(dim=-1).round(decimals=5)
        tensor([1., 1., 1., 1.])
    """
    solver = {"method": method, "steps": steps}
    net = {"hidden": hidden, "activation": activation, "frequencies": frequencies}
    return manifold_flow(Sphere(features), context, **net, **solver)  # type: ignore[arg-type]


@recipe(paper=_PAPER, year=2023, density="integral", sampling="integral", ladj=_COST, objective="flow_matching")
def rfm_torus(
    features: int,
    context: int = 0,
    *,
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    frequencies: int = 1,
    method: str = "tsit5",
    steps: int | None = 8,
) -> Flow:
    """Riemannian flow matching on the torus of angles in [-pi, pi]: a periodic velocity over the uniform law.

    The density has no seam. Angles outside the box have density 0, so wrap them first.
    Train it with ``FlowMatching``, whose paths are then geodesics, or by likelihood.

    Args:
        features: Number of angles.
        context: Width of the context, 0 for none.
        hidden: Hidden widths of the velocity.
        activation: A smooth one, see ``nets.TimeMLP``.
        frequencies: Of time.
        method: Of the solver.
        steps: Steps of the solver; None adapts them row by row.

    Example:
        >>> bool((rfm_torus(3).sample(5).abs() <= math.pi).all())
        True
    """
    solver = {"method": method, "steps": steps}
    net = {"hidden": hidden, "activation": activation, "frequencies": frequencies}
    return manifold_flow(Torus(features), context, **net, **solver)  # type: ignore[arg-type]

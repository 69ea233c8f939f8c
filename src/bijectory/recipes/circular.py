"""Flows on tori: angles with a periodic density."""

import math
from collections.abc import Sequence

from bijectory.bijections import RationalQuadratic
from bijectory.densities import BoxUniform, Flow
from bijectory.nets import MLP, Periodic
from bijectory.recipes.coupling import half_masks
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Coupling, Elementwise, PhaseShift, Transform, random_permutation


@recipe(paper="Normalizing Flows on Tori and Spheres, Rezende et al., arXiv:2002.02428", year=2020)
def ncsf(
    features: int, context: int = 0, *, layers: int = 6, hidden: Sequence[int] = (128, 128), bins: int = 8
) -> Flow:
    """Neural circular spline flow: circular rational-quadratic couplings on the torus of angles in [-pi, pi).

    Conditioners see angles through sine and cosine, and learned rotations lie between the splines: the density is periodic
    and continuous across the seam. The base is uniform on the torus. Angles outside [-pi, pi] have density 0, so wrap them
    first. As published, here with couplings, and with rotations that are random at the start.

    Args:
        features: Number of angles.
        context: Width of the context, 0 for none.
        layers: Number of spline layers.
        hidden: Hidden widths of each conditioner.
        bins: Number of spline bins.

    Example:
        >>> bool((ncsf(3).sample(5).abs() <= math.pi).all())
        True
    """
    spline, steps = RationalQuadratic(bins, math.pi, "circular"), list[Transform]()
    for k, mask in enumerate(half_masks(features, layers)):
        steps.append(PhaseShift(features, math.pi, context, hidden))
        if features == 1:
            steps.append(Elementwise(spline, 1, context, hidden))
            continue
        steps += [random_permutation(features, k)] if features > 2 else []
        kept = sum(mask)
        head = MLP(2 * kept, spline.n_params * (features - kept), hidden, context)
        steps.append(Coupling(spline, mask, context, hidden, Periodic(head, math.pi)))
    return Flow(Chain(*steps), BoxUniform(features, -math.pi, math.pi))

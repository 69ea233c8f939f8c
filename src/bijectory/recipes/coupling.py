"""The coupling lineage: NICE, Real NVP and their successors."""

from collections.abc import Sequence

from bijectory.bijections import Affine, Bijection
from bijectory.densities import Flow, StandardNormal
from bijectory.recipes.registry import recipe
from bijectory.transforms import Chain, Coupling, Elementwise, Transform


def half_masks(features: int, layers: int) -> list[tuple[bool, ...]]:
    """Masks that keep the first half, then the last, in turn: every feature is transformed by every second layer."""
    first = tuple(i < (features + 1) // 2 for i in range(features))
    last = tuple(not m for m in first)
    return [first if k % 2 == 0 else last for k in range(layers)]


def coupling_stack(
    bijection: Bijection, features: int, context: int, layers: int, hidden: Sequence[int]
) -> list[Transform]:
    """Alternating couplings; with one feature there is nothing to couple and each layer is elementwise."""
    if features == 1:
        return [Elementwise(bijection, 1, context, hidden) for _ in range(layers)]
    return [Coupling(bijection, mask, context, hidden) for mask in half_masks(features, layers)]


@recipe(paper="Density estimation using Real NVP, Dinh, Sohl-Dickstein, Bengio, arXiv:1605.08803", year=2016)
def real_nvp(features: int, context: int = 0, *, layers: int = 8, hidden: Sequence[int] = (128, 128)) -> Flow:
    """Affine couplings with alternating halves.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.

    Example:
        >>> real_nvp(4).sample(2).shape
        torch.Size([2, 4])
    """
    return Flow(Chain(*coupling_stack(Affine(), features, context, layers, hidden)), StandardNormal(features))

"""The coupling lineage: NICE, Real NVP and their successors."""

import math
from collections.abc import Sequence

from bijectory.bijections import Affine, Bijection, RationalQuadratic, Shift
from bijectory.densities import DiagonalNormal, Flow, StandardNormal
from bijectory.nets import MLP, VolumePreserving
from bijectory.recipes.registry import recipe
from bijectory.transforms import QR, Chain, Coupling, Elementwise, Transform, random_permutation


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


def bounded_affine(layers: int, reach: float = 24.0) -> Affine:
    """Affine family for a stack: whatever depth and weights, the scales multiply to between ``e^-reach`` and ``e^reach``.

    Up to eight layers each has the whole ``e^3``. Shifts read what the scales before them have stretched, so a deep stack
    with a wide reach loses its inverse in float32 while its likelihood looks well: fitted with 16 layers and a reach of 40,
    affine stacks came back with errors of 4e-6 to 10, with 24 of 4e-6 to 5e-3, at likelihoods within 0.01 nats or better.
    """
    return Affine(min(3.0, reach / max(layers, 1)))


def bounded_spline(bins: int, bound: float, layers: int) -> RationalQuadratic:
    """Spline for a stack: as published up to six layers; in deeper ones each bends less.

    Random log-slopes add up as a random walk over the layers. Bins and slopes keep at least a share ``1 - sqrt(6 / layers)``
    of what they have at the identity, so that the walk is no wider than that of six free splines.
    """
    share = max(0.0, 1 - math.sqrt(6 / layers))
    return RationalQuadratic(bins, bound, min_bin=max(1e-3, share / bins), min_slope=max(1e-3, share))


def linear_mixing(features: int, seed: int, layers: int) -> list[Transform]:
    """Return a random permutation and a QR layer, the linear step of neural spline flows.

    Rotations are free, scales and shears are bounded by 0.5, in deeper stacks by ``3 / layers``: whatever depth and
    weights, the condition numbers of the linear layers multiply to less than 1e6. With two features the masks or orders
    already swap roles, and with one there is nothing to permute.
    """
    bound = min(0.5, 3.0 / layers)
    mixing = QR(features, max_log_scale=bound, max_shear=bound)
    return [*([random_permutation(features, seed)] if features > 2 else []), mixing]


def locate(features: int, context: int, hidden: Sequence[int]) -> list[Transform]:
    """Return a conditional location and scale, for splines in a fixed box: nothing without context."""
    return [Elementwise(Affine(), features, context, hidden)] if context else []


@recipe(paper="NICE: Non-linear Independent Components Estimation, Dinh, Krueger, Bengio, arXiv:1410.8516", year=2014)
def nice(features: int, context: int = 0, *, layers: int = 4, hidden: Sequence[int] = (128, 128)) -> Flow:
    """Additive couplings with alternating halves, then a diagonal scaling: the first of its line.

    The couplings preserve volume; the scaling (here with a shift, and a function of the context if there is one) does not.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.

    Example:
        >>> nice(4).sample(2).shape
        torch.Size([2, 4])
    """
    steps = coupling_stack(Shift(), features, context, layers, hidden)
    return Flow(Chain(*steps, Elementwise(Affine(), features, context, hidden)), StandardNormal(features))


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
    return Flow(
        Chain(*coupling_stack(bounded_affine(layers), features, context, layers, hidden)), StandardNormal(features)
    )


@recipe(
    paper="Disentanglement by Nonlinear ICA with General Incompressible-flow Networks (GIN), Sorrenson, Rother, Köthe, "
    "arXiv:2001.04872",
    year=2020,
)
def gin(features: int, context: int = 0, *, layers: int = 8, hidden: Sequence[int] = (128, 128)) -> Flow:
    """Volume-preserving affine couplings over a normal base with learned means and scales.

    In each coupling the log-scales sum to zero, so only the base can tell how wide a latent dimension is: the informative
    ones come out wide. As published, but the mean of the log-scales is taken off all (there their sum off the last) and
    halves alternate in place of random permutations. With a context (there: the class) couplings and base depend on it.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.

    Example:
        >>> gin(4).sample(2).shape
        torch.Size([2, 4])
    """
    base = DiagonalNormal(features, context, hidden)
    if features == 1:
        return Flow(Chain(*coupling_stack(Shift(), 1, context, layers, hidden)), base)
    bound = min(1.5, 20.0 / layers)  # centred log-scales reach twice this: e^-40 to e^40 in all
    steps = []
    for mask in half_masks(features, layers):
        kept = sum(mask)
        net = VolumePreserving(MLP(kept, 2 * (features - kept), hidden, context), bound)
        steps.append(Coupling(Affine(max_log_scale=None), mask, context, hidden, net))
    return Flow(Chain(*steps), base)


@recipe(paper="Neural Spline Flows, Durkan, Bekasov, Murray, Papamakarios, arXiv:1906.04032", year=2019)
def nsf(
    features: int,
    context: int = 0,
    *,
    layers: int = 6,
    hidden: Sequence[int] = (128, 128),
    bins: int = 8,
    bound: float = 5.0,
) -> Flow:
    """Rational-quadratic spline couplings, RQ-NSF (C): a permutation and a linear layer before each.

    As published, but the linear layer is a well-conditioned QR in place of an LU, more than six layers share the bending of
    six, and with a context a conditional location and scale comes first, since a spline moves nothing out of its box. The
    box is wider than the published 3, so that standardised data with tails stay inside.

    Args:
        features: Number of features.
        context: Width of the context, 0 for none.
        layers: Number of coupling layers.
        hidden: Hidden widths of each conditioner.
        bins: Number of spline bins.
        bound: Half width of the spline's box; the identity outside.

    Example:
        >>> nsf(4).sample(2).shape
        torch.Size([2, 4])
    """
    couplings = coupling_stack(bounded_spline(bins, bound, layers), features, context, layers, hidden)
    steps = locate(features, context, hidden)
    for k, coupling in enumerate(couplings):
        steps += [*linear_mixing(features, k, layers), coupling]
    return Flow(Chain(*steps, *linear_mixing(features, layers, layers)), StandardNormal(features))

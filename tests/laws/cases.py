"""Every law case: one line for each transform, bijection, density and recipe.

A case builds a fresh object for a context width (0 or ``CONTEXT``) and is named after the public class or function that
it exercises. Laws run on *trained-like* parameters (``randomize``), never only at the identity.
"""

import math
from collections.abc import Callable

import torch
from torch.nn.functional import softplus

import bijectory as bj
from bijectory.nets import Field, LipschitzDenseNet, LipschitzNet, ResidualField
from bijectory.ops.native import compiler
from bijectory.testing import (
    COSTLY_DENSITY_LAWS,
    COSTLY_TRANSFORM_LAWS,
    DENSITY_LAWS,
    TRANSFORM_LAWS,
    randomize,
)
from laws.case import (
    CAPTURES,
    CONTEXT,
    FEATURES,
    GRAPHS,
    UNROLLED,
    Case,
    angles,
    between,
    first_angle,
    from_between,
    gaussianized,
    light,
    stereographic,
    two_logistics,
    two_squares,
    unit,
)
from laws.native import NATIVE

__all__ = ["BIJECTIONS", "DENSITIES", "RECIPES", "TRANSFORMS", "Case", "randomize"]

IMAGE = (2, 4, 4)
SPHERE = bj.nets.Sphere(3)
BLOCKS = bj.nets.ProductManifold((bj.nets.Torus(1), bj.nets.Sphere(2), bj.nets.Euclidean(1)))
HALVES = ((1, 1, 0, 0), (0, 0, 1, 1))


def unclip(x: torch.Tensor, strip: float = 1.5) -> torch.Tensor:
    """The soft clip of [-2, 3] undone, as the textbook has it."""
    return x + strip * torch.log(torch.expm1(-(x + 2) / strip) / torch.expm1((x - 3) / strip))


def _regression(c: int) -> bj.Regression:
    """Fitted to rows of any kind, for at first it is the identity; numbers that every dtype holds exactly."""
    layer, g = bj.Regression(FEATURES, c).double(), torch.Generator().manual_seed(0)
    x, rows = torch.randn(50, FEATURES + c, generator=g, dtype=torch.float64).split((FEATURES, c), -1)
    layer.initialize(x.cumsum(-1) + rows.sum(-1, keepdim=True), rows)
    for buffer in (layer.slope, layer.offset, layer.factor):
        buffer.mul_(64).round_().div_(64)
    return layer.to(torch.get_default_dtype())


def _whiten() -> bj.Whiten:
    root = torch.tensor([[2.0, 0, 0, 0], [1.0, 0.5, 0, 0], [-0.5, 0.25, 1.5, 0], [0.25, -1.0, 0.5, 0.75]])
    return bj.Whiten(FEATURES, torch.tensor([0.0, 1.0, -2.0, 0.5]), root)


def _increasing(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[..., :1], softplus(x[..., 1:]) + 0.1], -1).cumsum(-1)


def _partition(c: int) -> bj.Partition:
    affine = bj.Coupling(bj.Affine(), (True, False), c, hidden=(8,))
    return bj.Partition(affine, bj.Chain(), bj.Elementwise(bj.SinhArcsinh(), 1, c, (8,)), groups=[(3, 1), (2,), (0,)])


def _reversible(c: int) -> bj.Reversible:
    """A layer without context before layers with context: rows grow on the way."""
    return bj.Reversible(bj.Chain(bj.LU(FEATURES), *(bj.Coupling(bj.Affine(), m, c, (8,)) for m in HALVES)))


def _coupling(channels: int, mask: str, c: int) -> bj.ImageCoupling:
    return bj.ImageCoupling(bj.Affine(), channels, mask, swap=True, context=c, hidden=4)


def _residual(shape: tuple[int, ...], c: int, **keywords: object) -> bj.Residual:
    """Contracts quickly, so that the unrolled inverse of a captured graph is short."""
    return bj.Residual(LipschitzNet(shape, c, (6,), 0.1, **keywords))


def _estimated(c: int) -> torch.nn.Module:
    """The estimate, as it is in evaluation mode, is exact in one dimension: a sign has one square."""
    return bj.Residual(LipschitzNet((1,), c, (4,), 0.05), "series", terms=10, eval_probes=2).eval()


def _multiscale(c: int) -> bj.Multiscale:
    """The first level does not read the context."""
    last = bj.Chain(bj.Haar(), bj.ActNorm(16, event_dim=3), bj.ImageCoupling(bj.Affine(), 16, context=c, hidden=4))
    return bj.Multiscale(bj.Chain(bj.Squeeze(), bj.Conv1x1(8)), last, shape=IMAGE)


def _augmented(c: int) -> bj.Augmented:
    noise = bj.Flow(bj.Elementwise(bj.Affine(), 1, 2, (8,)), bj.StandardNormal(1))
    halves = ((False, False, True), (True, True, False))
    layers = (bj.Coupling(bj.Affine(), m, c, (8,)) for m in halves)
    return bj.Augmented(bj.Flow(bj.Chain(*layers), bj.StandardNormal(3)), 2, noise, samples=4)


def _positive(c: int) -> bj.Flow:
    """Positive numbers, a function of the context if there is one."""
    return bj.Flow(
        bj.Chain(bj.Inverse(bj.Elementwise(bj.Softplus(), 2)), bj.Elementwise(bj.Affine(), 2, c, (8,))),
        bj.StandardNormal(2),
    )


def _integral(features: int, c: int, nodes: int, **rule: str) -> bj.MonotoneIntegral:
    """A small one: the box is as wide as the nodes resolve to 1e-10 with trained-like weights."""
    g = bj.nets.MLP(1, 1, (6,), 2, activation="tanh")
    return bj.MonotoneIntegral(features, c, (8,), embedding=2, nodes=nodes, bound=3.0, integrand=g, **rule)


def _confined(manifold: bj.nets.Manifold, c: int) -> bj.transforms.Confined:
    field = bj.nets.Tangent(bj.nets.TimeMLP(manifold.embedding, c, (8,), frequencies=0), manifold)
    return bj.transforms.Confined(bj.Continuous(field, "dopri8", 1), manifold)


def _continuous(features: int, c: int, trace: str) -> bj.Continuous:
    return bj.Continuous(bj.nets.TimeMLP(features, c, (8,), frequencies=0), "dopri8", 1, trace, probes=2)


def _gentle(field: Field) -> bj.Continuous:
    """A quarter of the stages: with weights below 0.1 a field is so nearly constant that order 4 is exact to rounding."""
    return bj.Continuous(field, "rk4", 1)


def _probability_flow(c: int) -> bj.Continuous:
    field = bj.nets.ProbabilityFlow(bj.nets.TimeMLP(2, c, (8,), frequencies=0), bj.nets.Cosine(), "v")
    return bj.Continuous(field, "dopri8", 1)


BIJECTIONS = [
    Case("SoftClip", lambda _: bj.SoftClip(-2.0, 3.0, 0.3), (0,), domain=between, start=unclip, saturates=True),
    Case("Shift", lambda _: bj.Shift(), (0,)),
    Case("Affine", lambda _: bj.Affine(), (0,)),
    # Few bins: in float32 no round trip is closer than eps * |y| / slope, and eight bins make slopes of 1e-3.
    Case("RationalQuadratic", lambda _: bj.RationalQuadratic(4, 3.0), (0,)),
    Case("RationalQuadratic-linear", lambda _: bj.RationalQuadratic(5, 2.0, "linear"), (0,)),
    Case("RationalQuadratic-circular", lambda _: bj.RationalQuadratic(5, 2.0, "circular"), (0,)),
    Case("RationalQuadratic-float64", lambda _: bj.RationalQuadratic(4, 3.0, precision="float64"), (0,)),
    *(
        Case(f"{family.__name__}-{tails}", lambda _, f=family, t=tails: f(4, 3.0, t), (0,))
        for family in (bj.LinearSpline, bj.QuadraticSpline, bj.CubicSpline, bj.LinearRational)
        for tails in ("identity", "linear", "circular")
    ),
    Case("Exp", lambda _: bj.Exp(), (0,), range=torch.exp, start=torch.exp, saturates=True),
    Case("Arcsinh", lambda _: bj.Arcsinh(), contexts=(0,), range=torch.asinh, start=torch.asinh, saturates=True),
    Case("Inverted", lambda _: bj.Inverted(bj.Affine()), (0,)),
    Case("LeakyReLU", lambda _: bj.LeakyReLU(), (0,)),
    Case("Log", lambda _: bj.Log(), (0,), domain=torch.exp, start=torch.log, saturates=True),
    Case("Logit", lambda _: bj.Logit(), (0,), domain=torch.sigmoid, start=torch.logit, saturates=True),
    Case("Logit-bounds", lambda _: bj.Logit(-2.0, 3.0), (0,), domain=between, start=from_between, saturates=True),
    Case("Sigmoid", lambda _: bj.Sigmoid(), (0,), range=torch.sigmoid, start=torch.sigmoid, saturates=True),
    Case("MixtureCdf", lambda _: bj.MixtureCdf(2), (0,), start=two_logistics),
    Case("Gaussianization", lambda _: bj.Gaussianization(2), (0,), start=gaussianized),
    Case("Sigmoidal", lambda _: bj.Sigmoidal(2), (0,), start=two_logistics),
    Case(
        "Sigmoidal-deep",
        lambda _: bj.Sigmoidal(2, 2),
        (0,),
        start=lambda x: two_logistics(two_logistics(x)),
        slow=CAPTURES,
    ),
    Case("Power", lambda _: bj.Power(), (0,), domain=torch.exp, range=torch.exp),
    Case("PowerTails", lambda _: bj.PowerTails(), (0,), start=light, saturates=True),
    Case("SumOfSquares", lambda _: bj.SumOfSquares(2, 3), (0,), start=two_squares),
    Case("SumOfSquares-one", lambda _: bj.SumOfSquares(1, 2, 3.0), (0,), slow=CAPTURES),
    Case("Bernstein", lambda _: bj.Bernstein(6), (0,)),
    Case("Bernstein-box", lambda _: bj.Bernstein(5, 3.0, "box"), (0,), slow=CAPTURES),
    Case("SinhArcsinh", lambda _: bj.SinhArcsinh(), (0,)),
    Case("Softplus", lambda _: bj.Softplus(), (0,), range=torch.exp, start=softplus, saturates=True),
    Case("Tanh", lambda _: bj.Tanh(), (0,), range=torch.tanh, start=torch.tanh, saturates=True),
    Case("YeoJohnson", lambda _: bj.YeoJohnson(), (0,)),
]

TRANSFORMS = [
    Case("Regression", _regression),
    Case("Elementwise-spline", lambda c: bj.Elementwise(bj.RationalQuadratic(), FEATURES, c, hidden=(8,))),
    Case("Coupling-spline", lambda c: bj.Coupling(bj.RationalQuadratic(), (True, False, True, False), c, hidden=(8,))),
    Case("Elementwise-mixture", lambda c: bj.Elementwise(bj.MixtureCdf(3), 1, c, hidden=(8,)), features=1),
    Case("Coupling-mixture", lambda c: bj.Coupling(bj.MixtureCdf(3), (True, False), c, hidden=(8,)), features=2),
    Case(
        "Autoregressive-mixture", lambda c: bj.Autoregressive(bj.MixtureCdf(3), 2, c, (8,)), features=2, slow=CAPTURES
    ),
    Case("Elementwise-gaussianization", lambda c: bj.Elementwise(bj.Gaussianization(2), 1, c, (8,)), features=1),
    Case("MonotoneIntegral", lambda c: _integral(2, c, 16), features=2, slow=CAPTURES),  # ten seconds; one feature does
    Case(
        "MonotoneIntegral-1d",
        lambda c: _integral(1, c, 33, rule="clenshaw-curtis"),
        (0,),
        features=1,
        idle=(r"net\.head\.weight",),  # one feature depends on none
    ),
    Case("Elementwise-affine", lambda c: bj.Elementwise(bj.Affine(), FEATURES, c, hidden=(8,))),
    Case(
        "Elementwise-sigmoid",
        lambda _: bj.Elementwise(bj.Sigmoid(), FEATURES),
        (0,),
        range=torch.sigmoid,
        saturates=True,
    ),
    Case("Coupling-affine", lambda c: bj.Coupling(bj.Affine(), (False, True, False, True), c, hidden=(8, 8))),
    Case("LU", lambda c: bj.LU(FEATURES, c, (8,))),
    Case("LU-1d", lambda _: bj.LU(1), contexts=(0,), features=1),
    Case("QR", lambda c: bj.QR(FEATURES, c, (8,))),
    Case("Householder", lambda c: bj.Householder(FEATURES, c, (8,), 3)),
    Case("Rotation", lambda c: bj.Rotation(FEATURES, c, (8,))),
    Case("MatrixExp", lambda c: bj.MatrixExp(FEATURES, c, (8,))),
    Case("Chain", lambda c: bj.Chain(*(bj.Coupling(bj.Affine(), m, c, (8,)) for m in HALVES))),
    Case("Partition", _partition, context_free=(2, 3)),
    Case("Permutation", lambda _: bj.Permutation((2, 0, 3, 1)), contexts=(0,)),
    Case("Standardize", lambda _: bj.Standardize(FEATURES, (0.0, 1.0, -2.0, 0.5), (1.0, 2.0, 0.5, 3.0)), contexts=(0,)),
    Case("Whiten", lambda _: _whiten(), contexts=(0,)),
    Case("Ordered", lambda _: bj.Ordered(FEATURES), contexts=(0,), domain=_increasing, saturates=True),
    Case("ActNorm", lambda _: bj.ActNorm(FEATURES), contexts=(0,)),
    Case("Reshape", lambda _: bj.Reshape((FEATURES,), (2, 2)), contexts=(0,)),
    Case("Autoregressive-affine", lambda c: bj.Autoregressive(bj.Affine(), FEATURES, c, (16, 16), (2, 0, 3, 1))),
    Case("Autoregressive-jacobi", lambda c: bj.Autoregressive(bj.Affine(), 4, c, (16,), inverse_method="jacobi")),
    Case("Inverse-autoregressive", lambda c: bj.Inverse(bj.Autoregressive(bj.Affine(), FEATURES, c, (16,)))),
    Case("Planar", lambda c: bj.Planar(FEATURES, c, hidden=(8,))),
    Case("Planar-1d", lambda c: bj.Planar(1, c, hidden=(8,)), features=1),
    Case("Planar-stack", lambda c: bj.Planar(FEATURES, c, hidden=(8,), layers=3)),
    Case(
        "PhaseShift",
        lambda c: bj.PhaseShift(FEATURES, math.pi, c, (8,)),
        domain=angles,
        range=angles,
    ),
    Case("Radial", lambda c: bj.Radial(FEATURES, c, hidden=(8,))),
    Case("Radial-1d", lambda c: bj.Radial(1, c, hidden=(8,)), features=1),
    Case("ActNorm-image", lambda _: bj.ActNorm(2, event_dim=3), (0,), features=IMAGE),
    Case("Squeeze", lambda _: bj.Squeeze(), (0,), features=IMAGE),
    Case("Haar", lambda _: bj.Haar(), (0,), features=IMAGE),
    Case("Conv1x1", lambda _: bj.Conv1x1(2, seed=2), (0,), features=(2, 2, 3)),
    Case("ImageCoupling", lambda c: bj.ImageCoupling(bj.Affine(), 3, context=c, hidden=4), features=(3, 2, 2)),
    Case("ImageCoupling-swap", lambda c: _coupling(3, "channels", c), features=(3, 2, 2)),
    Case("ImageCoupling-checkerboard", lambda c: _coupling(1, "checkerboard", c), features=(1, 3, 4)),
    Case("Multiscale", _multiscale, features=IMAGE, context_free=tuple(range(24))),
    Case("Reversible", _reversible),
    Case("Causal", lambda c: bj.Causal(bj.Affine(), 3, 2, c, width=8, heads=2), features=(3, 2)),
    Case(
        "Causal-backwards",
        lambda c: bj.Causal(bj.RationalQuadratic(4), 2, 1, c, 8, 1, 2, backwards=True),
        features=(2, 1),
    ),
    Case("Patchify", lambda _: bj.Patchify((1, 2, 4), 2), (0,), features=(1, 2, 4)),
    Case("Radial-stack", lambda c: bj.Radial(FEATURES, c, hidden=(8,), layers=3)),
    Case("Sylvester-householder", lambda c: bj.Sylvester(FEATURES, c, rank=2, hidden=(8,), layers=2)),
    Case("Sylvester-orthogonal", lambda c: bj.Sylvester(FEATURES, c, "orthogonal", rank=2, hidden=(8,))),
    Case("Sylvester-triangular", lambda c: bj.Sylvester(FEATURES, c, "triangular", rank=2, hidden=(8,), layers=2)),
    Case("Sylvester-1d", lambda c: bj.Sylvester(1, c, hidden=(8,)), features=1),
    Case("BlockAutoregressive", lambda c: bj.BlockAutoregressive(2, c, (3, 2), hidden=(8,)), features=2),
    Case(
        "BlockAutoregressive-plain",
        lambda c: bj.BlockAutoregressive(1, c, (4,), "plain", (8,)),
        features=1,
        idle=(r"layers\.0\.weight",),
    ),
    Case("Residual", lambda c: _residual((FEATURES,), c)),
    Case("Residual-1d", lambda c: _residual((1,), c), features=1),
    Case("Residual-dense", lambda c: bj.Residual(LipschitzDenseNet((2,), c, (3, 3), 0.1)), features=2),
    Case("Residual-mixed", lambda c: _residual((3,), c, orders=(1, 2, 1)), features=3),
    Case("Residual-conv", lambda c: _residual((2, 2, 1), c), features=(2, 2, 1)),
    Case("Residual-series", _estimated, features=1),
    # Integrators are exact to their error only: order 8 and gentle fields make that less than rounding.
    Case("Continuous", lambda c: _continuous(2, c, "exact"), features=2, weights=0.1),
    Case(
        "Continuous-residual",
        lambda c: _gentle(ResidualField(2, c, 6, 1, frequencies=0)),
        (CONTEXT,),
        features=2,
        weights=0.05,
        slow=CAPTURES,  # the field captures by itself, and the solver with another
    ),
    # With one feature the square of a sign is 1, and the estimate exact.
    Case("Continuous-hutchinson", lambda c: _continuous(1, c, "hutchinson"), (CONTEXT,), features=1, weights=0.1),
    Case("Continuous-hutch++", lambda c: _continuous(1, c, "hutch++"), (CONTEXT,), features=1, weights=0.1),
    Case("Continuous-score", _probability_flow, (CONTEXT,), features=2, weights=0.1),
    Case("Confined-sphere", lambda c: _confined(SPHERE, c), features=3, weights=0.05),
    Case("Confined-torus", lambda c: _confined(bj.nets.Torus(2), c), (0,), 2, angles, angles, weights=0.05),
    Case("Confined-product", lambda c: _confined(BLOCKS, c), (CONTEXT,), 4, first_angle, first_angle, weights=0.05),
    Case("Inverse", lambda c: bj.Inverse(bj.Coupling(bj.Affine(), (True, True, False, False), c, hidden=(8,)))),
]


def _target(name: str, build: Callable[[], object]) -> Case:
    """A target in the plane; its draws carry no gradient."""
    return Case(name, lambda _: build(), features=2, contexts=(0,), reparameterised=False)


def _levels(c: int) -> bj.Flow:
    """A flow of continuous pixels in [0, 5) with events (1, 2, 2)."""
    steps = bj.Elementwise(bj.Logit(0.0, 5.0), 4), bj.Coupling(bj.Affine(), (True, False, True, False), c, hidden=(8,))
    return bj.Flow(bj.Chain(bj.Reshape((1, 2, 2), (4,)), *steps), bj.StandardNormal(4))


def _noise() -> bj.Flow:
    """Noise in the unit cube whose context are the four pixels."""
    steps = bj.Elementwise(bj.Logit(), 4), bj.Elementwise(bj.Affine(), 4, 4, (8,))
    return bj.Flow(bj.Chain(bj.Reshape((1, 2, 2), (4,)), *steps), bj.StandardNormal(4))


GREY = (1, 2, 2)

DENSITIES = [
    Case(
        "Ensemble",
        lambda c: bj.Ensemble(*(bj.real_nvp(FEATURES, c, layers=2, hidden=(8,)) for _ in range(2))),
        reparameterised=False,
    ),
    Case("StandardNormal", lambda _: bj.StandardNormal(FEATURES), (0,)),
    Case("Flow", lambda c: bj.Flow(bj.Elementwise(bj.Affine(), 2, c, (8,)), bj.StandardNormal(2)), features=2),
    Case("DiagonalNormal", lambda c: bj.DiagonalNormal(FEATURES, c, hidden=(8,))),
    Case("BoxUniform", lambda _: bj.BoxUniform(2, (-1.0, 0.0), (1.0, 3.0)), features=2, contexts=(0,)),
    Case("StudentT", lambda _: bj.StudentT(2), features=2, contexts=(0,)),
    Case("StudentT-fixed", lambda _: bj.StudentT(1, 3.0, learn=False), features=1, contexts=(0,)),
    Case("Dequantized", lambda c: bj.Dequantized(_levels(c), 5), features=GREY, reparameterised=False),
    Case(
        "Dequantized-variational",
        lambda c: bj.Dequantized(_levels(c), 5, _noise(), samples=3),
        features=GREY,
        reparameterised=False,
    ),
    Case("VonMises", lambda _: bj.VonMises(2, 2.0), features=2, contexts=(0,)),
    Case("UniformSphere", lambda _: bj.UniformSphere(3), (0,), 3, unit, chart=stereographic(3)),
    Case("UniformSphere-4d", lambda _: bj.UniformSphere(4), (0,), 4, unit, chart=stereographic(4)),
    Case(
        "VonMisesFisher",
        lambda _: bj.VonMisesFisher((0.0, 0.6, -0.8), 3.0),
        (0,),
        3,
        unit,
        chart=stereographic(3),
    ),
    Case(
        "Product",
        lambda c: bj.densities.Product(bj.VonMisesFisher((0.0, 0.6, -0.8), 3.0), bj.DiagonalNormal(1, c, (8,))),
        features=4,
        domain=lambda x: torch.cat((unit(x[..., :3]), x[..., 3:]), -1),
        chart=stereographic(3, 1),
    ),
    Case(
        "Mixture",
        lambda c: bj.Mixture(
            bj.DiagonalNormal(2, c, (8,)), bj.StudentT(2), bj.DiagonalNormal(2), context=c, hidden=(8,)
        ),
        features=2,
        reparameterised=False,
    ),
    Case("ParetoTailed", lambda _: bj.ParetoTailed(2), features=2, contexts=(0,)),
    Case(
        "Resampled",
        lambda _: bj.Resampled(bj.StandardNormal(2), 10, (8,), 64),
        features=2,
        contexts=(0,),
        reparameterised=False,
    ),
    Case("TruncatedNormal", lambda _: bj.TruncatedNormal(2, (-1.0, 0.5), (2.0, math.inf)), features=2, contexts=(0,)),
    Case("Augmented", _augmented, features=2, idle=("noise",)),
    Case("Slice", lambda c: bj.Slice(bj.DiagonalNormal(2, c, (8,)), bj.DiagonalNormal(1, 2 + c, (8,))), features=3),
    Case("Absolute", lambda c: bj.Absolute(_positive(c)), features=2),
    Case(
        "Absolute-signs",
        lambda c: bj.Absolute(_positive(c), signs=True, hidden=(8,)),
        features=2,
        reparameterised=False,
    ),
    Case("MaxPool", lambda c: bj.MaxPool(bj.DiagonalNormal(2, c, (8,)), 2), features=4),
    Case("MaxPool-image", lambda _: bj.MaxPool(bj.DiagonalNormal((1, 1, 2)), 2), features=(1, 2, 4), contexts=(0,)),
    Case("GaussianMixture", lambda _: bj.GaussianMixture(2, 3), features=2, contexts=(0,)),
    Case("GaussianMixture-1d", lambda _: bj.GaussianMixture(1, 4), features=1, contexts=(0,)),
    *(_target(f"RezendeMohamed-{k}", lambda k=k: bj.RezendeMohamed(k)) for k in (1, 2, 3, 4)),
    _target("Funnel", lambda: bj.Funnel(2, 1.0)),
    _target("Banana", lambda: bj.Banana()),
    _target("GaussianRing", lambda: bj.GaussianRing(scale=0.5)),
    _target("GaussianGrid", lambda: bj.GaussianGrid(3, scale=0.3)),
    _target("TwoMoons", lambda: bj.TwoMoons()),
    _target("Rings", lambda: bj.Rings((1.0, 2.0), 0.2)),
    _target("Checkerboard", lambda: bj.Checkerboard()),
]

# Two bits a pixel. Draws of wild weights would crowd at the bounds of the pixels, where float32 has no digits left.
PIXELS = {
    "features": (1, 2, 2),
    "domain": lambda x: 4 * torch.sigmoid(x),
    "support": lambda x: ((x >= 0) & (x < 4)).flatten(1).all(1),
    "saturates": True,
    "weights": 0.15,
}
TINY = {"layers": 2, "width": 8, "depth": 1, "heads": 2}  # transformers


def _flowpp_image(c: int) -> bj.Flow:
    return bj.flowpp_image((1, 2, 2), c, levels=4, components=2, couplings=(1, 1, 1), hidden=4, heads=2)


def _residual_image(c: int) -> bj.Flow:
    return bj.residual_image((1, 2, 2), c, levels=4, steps=1, hidden=(4,), lipschitz=0.1, ladj="exact")


def _ffjord_image(c: int) -> bj.Flow:
    return bj.ffjord_image((1, 2, 2), c, levels=4, hidden=3, frequencies=0, trace="exact", steps=1)


def _cnf_image(c: int) -> bj.Flow:
    unet = {"hidden": 2, "multipliers": (1,), "groups": None, "frequencies": 0}
    return bj.cnf_image((1, 1, 2), c, levels=4, **unet, trace="exact", method="rk4", steps=1)


# Solutions of image fields take their time, and the fields have laws of their own: of the solutions, these in every run.
_QUICK = {"shapes", "joint_draw", "density_rows_are_independent", "round_trip", "ladj_opposite", "jacobian"}
_ALL = (*TRANSFORM_LAWS, *COSTLY_TRANSFORM_LAWS, *DENSITY_LAWS, *COSTLY_DENSITY_LAWS)
SOLVED = tuple({law.__name__ for law in _ALL} - _QUICK)
GENTLE = {"hidden": (8,), "frequencies": 0, "method": "rk4", "steps": 1}
ACCURATE = {"method": "dopri8", "steps": 1, "frequencies": 0}  # the error of the solver below rounding


def _score_sde(features: int, c: int, sde: str) -> bj.Flow:
    """Little noise, which one accurate step resolves to rounding."""
    little = {"beta_max": 0.11, "sigma_max": 0.02, "frequencies": 0}
    return bj.score_sde(features, c, sde=sde, hidden=(8,), method="dopri8", steps=1, **little)


RECIPES = [
    Case("real_nvp", lambda c: bj.real_nvp(FEATURES, c, layers=4, hidden=(16,))),
    Case("nice", lambda c: bj.nice(FEATURES, c, layers=2, hidden=(8,))),
    Case("gin", lambda c: bj.gin(FEATURES, c, layers=2, hidden=(8,))),
    Case("maf", lambda c: bj.maf(FEATURES, c, layers=2, hidden=(16,))),
    Case("iaf", lambda c: bj.iaf(FEATURES, c, layers=2, hidden=(16,))),
    Case("nsf", lambda c: bj.nsf(FEATURES, c, layers=2, hidden=(8,), bins=4)),
    Case("nsf_ar", lambda c: bj.nsf_ar(FEATURES, c, layers=2, hidden=(16,), bins=4)),
    Case(
        "real_nvp_image", lambda c: bj.real_nvp_image((1, 2, 2), c, levels=4, couplings=1, hidden=6, blocks=1), **PIXELS
    ),
    Case("flowpp_image", _flowpp_image, **PIXELS | {"weights": 0.08}, slow=UNROLLED),
    Case("residual", lambda c: bj.residual(2, c, layers=2, hidden=(6,), lipschitz=0.1), features=2),
    Case("residual-1d", lambda c: bj.residual(1, c, layers=1, hidden=(6,), lipschitz=0.1), features=1, slow=GRAPHS),
    Case("idensenet", lambda c: bj.idensenet(2, c, layers=1, hidden=(4,), lipschitz=0.1), features=2),
    # The laws are about numbers, not estimates; what the estimate costs is counted in its own tests.
    Case("residual_image-exact", _residual_image, **PIXELS),
    Case("glow", lambda c: bj.glow((1, 2, 2), c, levels=4, steps=2, hidden=4), **PIXELS),
    Case("ncsf", lambda c: bj.ncsf(3, c, layers=2, hidden=(8,), bins=4), features=3, domain=angles, range=angles),
    Case(
        "ncsf-1d",
        lambda c: bj.ncsf(1, c, layers=2, hidden=(8,), bins=4),
        features=1,
        domain=angles,
        range=angles,
        slow=GRAPHS,
    ),
    # Light tails, or the mass is beyond importance sampling; a latent of 1e6 is beyond every floating-point number.
    Case("ttf", lambda c: bj.ttf(2, c, layers=1, hidden=(8,), bins=4, tail=0.05), features=2, saturates=True),
    Case(
        "ttf-1d",
        lambda c: bj.ttf(1, c, layers=1, hidden=(8,), bins=4, tail=0.05),
        features=1,
        saturates=True,
        slow=GRAPHS,
    ),
    Case("tarflow", lambda c: bj.tarflow(2, c, **TINY), features=2),
    Case(
        "tarflow_image", lambda c: bj.tarflow_image((1, 1, 2), c, levels=4, **TINY), **{**PIXELS, "features": (1, 1, 2)}
    ),
    Case("jet", lambda c: bj.jet((1, 2, 2), c, levels=4, patch=1, **TINY), **PIXELS),
    Case("planar", lambda c: bj.planar(FEATURES, c, layers=3, hidden=(8,))),
    Case("planar-noise", lambda c: bj.planar(2, c, layers=2, hidden=(8,), acts_on="noise"), features=2),
    Case("radial", lambda c: bj.radial(FEATURES, c, layers=3, hidden=(8,))),
    Case("sylvester", lambda c: bj.sylvester(FEATURES, c, layers=2, rank=2, hidden=(8,))),
    Case("bnaf", lambda c: bj.bnaf(2, c, layers=1, units=(3,), hidden=(8,)), (CONTEXT,), features=2, slow=UNROLLED),
    Case(
        "bnaf-1d",
        lambda _: bj.bnaf(1, units=(3,), layers=1, acts_on="noise"),
        (0,),
        features=1,
        idle=(r"layers\.0\.weight",),  # normalised rows of a single weight are 1
        slow=GRAPHS,
    ),
    Case("cfm", lambda c: bj.cfm(2, c, hidden=(8,), **ACCURATE), features=2, weights=0.1, slow=UNROLLED),
    Case("cnf", lambda c: bj.cnf(2, c, hidden=(8,), **ACCURATE), features=2, weights=0.1, slow=UNROLLED),
    Case(
        "ffjord",
        lambda c: bj.ffjord(1, c, layers=2, hidden=(8,), **ACCURATE),
        (CONTEXT,),
        features=1,
        weights=0.1,
        slow=UNROLLED,
    ),
    Case(
        "rnode", lambda c: bj.rnode(1, c, hidden=(8,), **ACCURATE), (CONTEXT,), features=1, weights=0.1, slow=UNROLLED
    ),
    Case(
        "otflow",
        lambda c: bj.otflow(2, c, hidden=6, steps=1),
        (CONTEXT,),
        features=2,
        weights=0.05,
        idle=("slope_time",),  # a gain of the potential in time alone moves nothing
    ),
    Case(
        "hybrid",
        lambda c: bj.hybrid(2, c, layers=1, bins=4, **GENTLE),
        (CONTEXT,),
        features=2,
        weights=0.02,
        slow=("density_exports", *UNROLLED),
    ),
    Case(
        "hybrid-1d",
        lambda c: bj.hybrid(1, c, layers=1, bins=4, **GENTLE),
        (CONTEXT,),
        features=1,
        weights=0.02,
        slow=SOLVED,
    ),
    # The laws are about numbers, not estimates; the fields' own laws are in tests/test_fields.py, odd sizes too.
    Case("ffjord_image-exact", _ffjord_image, (CONTEXT,), **PIXELS | {"weights": 0.05}, slow=SOLVED),
    Case("cnf_image-exact", _cnf_image, (CONTEXT,), **PIXELS | {"weights": 0.05, "features": (1, 1, 2)}, slow=SOLVED),
    Case(
        "score_sde",
        lambda c: _score_sde(2, c, "vp"),
        (CONTEXT,),
        features=2,
        weights=0.05,
        slow=("density_captures", *UNROLLED),
    ),
    Case("score_sde-ve", lambda c: _score_sde(1, c, "ve"), (0,), features=1, weights=0.05, slow=GRAPHS),
    Case(
        "rfm_sphere",
        lambda c: bj.rfm_sphere(3, c, hidden=(8,), **ACCURATE),
        features=3,
        domain=unit,
        range=unit,
        chart=stereographic(3),
        weights=0.05,
        slow=UNROLLED,
    ),
    Case(
        "rfm_torus",
        lambda c: bj.rfm_torus(2, c, hidden=(8,), **ACCURATE),
        (CONTEXT,),
        features=2,
        domain=angles,
        range=angles,
        weights=0.05,
        slow=UNROLLED,
    ),
    # With a context only; without, see tests/test_monotone_recipes.py.
    Case("naf", lambda c: bj.naf(2, c, layers=1, hidden=(8,), units=2), (CONTEXT,), features=2, slow=UNROLLED),
    Case(
        "umnn",
        lambda c: bj.umnn(2, c, layers=1, hidden=(8,), embedding=2, integrand=(6,), nodes=16, bound=3.0),
        contexts=(CONTEXT,),
        features=2,
        slow=UNROLLED,
    ),
    Case(
        "sos",
        lambda c: bj.sos(2, c, layers=1, hidden=(8,), polynomials=1, degree=2),
        (CONTEXT,),
        features=2,
        slow=UNROLLED,
    ),
    Case(
        "bernstein",
        lambda c: bj.bernstein(2, c, layers=1, hidden=(8,), degree=4),
        (CONTEXT,),
        features=2,
        slow=UNROLLED,
    ),
    Case(
        "gaussianization",
        lambda c: bj.gaussianization(2, c, layers=1, hidden=(8,), components=2),
        (CONTEXT,),
        features=2,
        slow=UNROLLED,
    ),
    Case(
        "flowpp", lambda c: bj.flowpp(2, c, layers=2, hidden=(8,), components=2), (CONTEXT,), features=2, slow=UNROLLED
    ),
    Case("nsf-1d", lambda c: bj.nsf(1, c, layers=2, hidden=(8,), bins=4), features=1, slow=GRAPHS),
    Case("real_nvp-1d", lambda c: bj.real_nvp(1, c, layers=2, hidden=(16,)), features=1, slow=GRAPHS),
]
RECIPES += NATIVE if compiler() else []

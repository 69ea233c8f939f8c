"""Permutation, linear layers, Reshape, and chains whose layers change the event shape."""

import copy
import math

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ShapeError
from bijectory.ops import linalg
from laws.cases import randomize

F64 = torch.float64
SHAPES = [(), (7,), (5, 7), (0,)]
BOUNDED = [bj.LU, bj.QR, bj.MatrixExp]
ORTHOGONAL = [bj.Householder, bj.Rotation]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "build",
    [
        lambda: bj.LU(4),
        lambda: bj.LU(4, bias=False),
        lambda: bj.QR(4, bias=False),
        lambda: bj.MatrixExp(4, bias=False),
        lambda: bj.Householder(4),
        lambda: bj.Rotation(4),
        lambda: bj.random_permutation(4, 3),
    ],
)
def test_round_trip_and_log_det(build, shape):
    layer = randomize(build()).double()
    x = torch.randn(*shape, 4, dtype=torch.float64)
    z, ladj = layer.forward(x)
    back, inverse_ladj = layer.inverse(z)
    assert z.shape == x.shape
    assert ladj.shape == inverse_ladj.shape == torch.Size(shape)
    assert torch.allclose(back, x, atol=1e-13)
    assert torch.allclose(ladj, -inverse_ladj, atol=1e-14)
    jac = torch.func.jacrev(lambda v: layer.forward(v)[0])(torch.randn(4, dtype=torch.float64))
    assert torch.allclose(ladj, torch.linalg.slogdet(jac).logabsdet.expand(shape), atol=1e-13)


def test_permutation_order_is_what_it_says():
    layer = bj.Permutation([2, 0, 1])
    assert layer.forward(torch.tensor([10.0, 20.0, 30.0]))[0].tolist() == [30.0, 10.0, 20.0]
    assert layer.inverse(torch.tensor([30.0, 10.0, 20.0]))[0].tolist() == [10.0, 20.0, 30.0]
    assert bj.reversal(4).order == (3, 2, 1, 0)


def test_permutation_travels_with_the_weights():
    source, target = bj.random_permutation(6, 0), bj.random_permutation(6, 1)
    assert source.order != target.order
    target.load_state_dict(source.state_dict())
    x = torch.randn(6)
    assert target.order == source.order
    assert torch.equal(target.forward(x)[0], source.forward(x)[0])
    assert torch.equal(target.inverse(target.forward(x)[0])[0], x)


def test_random_permutation_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    assert bj.random_permutation(9, 4).order == bj.random_permutation(9, 4).order
    assert torch.equal(state, torch.get_rng_state())


def test_layout_stays_feature_major():
    x = torch.randn(4, 100).T
    for layer in (bj.random_permutation(4), *(randomize(build(4)) for build in (*BOUNDED, *ORTHOGONAL))):
        for out in (layer.forward(x)[0], layer.inverse(x)[0]):
            assert out.stride() == (1, 100), type(layer)


@pytest.mark.parametrize("build", [*BOUNDED, *ORTHOGONAL])
@pytest.mark.parametrize("features", [1, 2, 7])
def test_linear_layers_start_at_the_identity(build, features):
    x = torch.randn(7, features)
    layer = build(features)
    assert torch.allclose(layer.forward(x)[0], x, atol=1e-6)
    assert torch.allclose(layer.matrix(), torch.eye(features), atol=1e-6)
    conditional = build(features, 3)
    torch.nn.init.zeros_(conditional.net.head.weight)
    torch.nn.init.zeros_(conditional.net.head.bias)
    assert torch.allclose(conditional.matrix(torch.randn(5, 3)), torch.eye(features), atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 3.0, 1e3, 1e6])
@pytest.mark.parametrize("features", [2, 8, 64])
@pytest.mark.parametrize("build", BOUNDED)
def test_condition_number_keeps_its_bound_whatever_the_weights(build, features, scale):
    layer = build(features)
    assert layer.max_condition <= 1e4
    generator = torch.Generator().manual_seed(features)
    for _ in range(3):
        with torch.no_grad():
            layer.factors.copy_(scale * torch.randn(features, features, generator=generator))
        assert torch.linalg.cond(layer.matrix().double()) <= layer.max_condition
        x = torch.randn(256, features)
        assert (layer.inverse(layer.forward(x)[0])[0] - x).abs().max() <= 1e-4
        assert (layer.forward(layer.inverse(x)[0])[0] - x).abs().max() <= 1e-4


@pytest.mark.parametrize("build", [bj.LU, bj.QR])
def test_condition_of_chains_of_shears_keeps_the_bound(build):
    # Chains of equal entries: the shear that is hardest to undo.
    layer = build(40, max_shear=2.0, max_log_scale=1e-3)
    worst = 0.0
    for k in range(1, 30):
        with torch.no_grad():
            layer.factors.zero_().diagonal(1)[:k].fill_(-1e4)
        worst = max(worst, torch.linalg.cond(layer.matrix().double()).item())
    one = linalg.shear_condition(2.0)
    assert 5.0 < worst <= one * 1.01


@pytest.mark.parametrize("scale", [0.3, 3.0, 1e3, 1e6])
@pytest.mark.parametrize("features", [1, 2, 8, 64])
@pytest.mark.parametrize("build", ORTHOGONAL)
def test_orthogonal_whatever_the_weights(build, features, scale):
    layer = build(features)
    with torch.no_grad():
        layer.factors.copy_(scale * torch.randn(layer.factors.shape))
    w = layer.matrix()
    assert torch.allclose(w @ w.T, torch.eye(features), atol=2e-5)
    assert torch.linalg.det(w.double()).sub(1).abs() < 1e-4  # an even number of reflections, or a rotation


def test_orthogonal_maps_of_every_kind_are_within_reach():
    torch.manual_seed(0)
    want = torch.linalg.qr(torch.randn(5, 5, dtype=F64))[0]
    want = want * torch.linalg.det(want)  # 5 is odd: a rotation
    angle, turn = torch.linalg.eig(want)
    logarithm = (turn @ torch.diag(angle.log()) @ torch.linalg.inv(turn)).real
    layer = bj.Rotation(5).double()
    size = logarithm.norm() / linalg.skew(1e9 * logarithm).norm()  # undo the soft bound
    with torch.no_grad():
        layer.factors.copy_(logarithm / (1 - size**2).sqrt())
    assert torch.allclose(layer.matrix(), want, atol=1e-12)
    reflected = bj.Householder(5, reflections=5).double()
    vectors, rest = [], -want
    for k in range(5):  # LAPACK's own reduction, written out
        e = torch.eye(5, dtype=F64)[k]
        v = rest[:, k] - e
        vectors.append(v)
        rest = rest - 2 * torch.outer(v, v @ rest) / v.square().sum().clamp(min=1e-30)
    with torch.no_grad():
        reflected.factors.copy_(torch.stack(vectors))
    assert torch.allclose(reflected.matrix(), -want, atol=1e-12)


def test_householder_is_the_product_of_its_reflections_in_order():
    vectors = torch.randn(6, 4, dtype=F64)
    vectors[2] = 0.0  # reflects nothing
    want = torch.eye(4, dtype=F64)
    for v in vectors:
        want = want @ (torch.eye(4, dtype=F64) - 2 * torch.outer(v, v) / v.square().sum().clamp(min=1e-30))
    assert torch.allclose(linalg.reflections(vectors), want, atol=1e-14)
    assert torch.allclose(linalg.reflections(vectors.expand(3, 2, 6, 4)), want.expand(3, 2, 4, 4), atol=1e-14)


def test_factors_are_what_the_formulas_say():
    raw = torch.tensor([[0.1, 0.2], [-0.3, 0.4]], dtype=F64)
    eye = torch.eye(2, dtype=F64)
    stretch = torch.diag((2 * (raw.diagonal() / 2).tanh()).exp())
    lower = torch.tensor([[1.0, 0.0], [-0.3 / 1.09**0.5, 1.0]], dtype=F64)
    upper = torch.tensor([[1.0, 0.2 / 1.04**0.5], [0.0, 1.0]], dtype=F64)
    v, last = torch.tensor([1.0, -0.3], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    turn = -(eye - 2 * torch.outer(v, v) / v.dot(v)) @ (eye - 2 * torch.outer(last, last))
    for build, want in ((bj.LU, lower @ stretch @ upper), (bj.QR, turn @ stretch @ upper)):
        layer = build(2, max_log_scale=2.0).double()
        with torch.no_grad():
            layer.factors.copy_(raw)
        assert torch.allclose(layer.matrix(), want, atol=1e-14), build
    layer = bj.MatrixExp(2, max_log_scale=1e6).double()
    with torch.no_grad():
        layer.factors.copy_(raw)
    turn = (raw - raw.T) / 2
    turn = turn / (1 + turn.square().sum() / (8 * math.pi**2)).sqrt()
    assert torch.allclose(layer.matrix(), torch.linalg.matrix_exp(turn + (raw + raw.T) / 2), atol=1e-12)
    assert torch.allclose(layer.forward(torch.ones(2, dtype=F64))[1], raw.trace(), atol=1e-12)


@pytest.mark.parametrize("build", [*BOUNDED, *ORTHOGONAL])
def test_every_row_has_the_matrix_of_its_context(build):
    layer = randomize(build(3, 2, (8,))).double()
    x, c = torch.randn(5, 7, 3, dtype=F64), torch.randn(7, 2, dtype=F64)
    z, ladj = layer.forward(x, c)
    w = layer.matrix(c)
    assert w.shape == (7, 3, 3)
    at_zero = layer.forward(torch.zeros_like(x), c)[0]
    assert torch.allclose(z - at_zero, torch.einsum("kij,nkj->nki", w, x), atol=1e-12)
    assert torch.allclose(ladj, torch.linalg.slogdet(w).logabsdet.expand(5, 7), atol=1e-12)
    assert torch.allclose(layer.inverse(z, c)[0], x, atol=1e-12)
    frozen = copy.deepcopy(layer)
    frozen.freeze()
    assert torch.equal(frozen.forward(x, c)[0], z)


@pytest.mark.parametrize("build", [*BOUNDED, *ORTHOGONAL])
def test_frozen_gives_the_same_numbers(build):
    layer = randomize(build(5))
    frozen = copy.deepcopy(layer)
    frozen.freeze()
    x = torch.randn(100, 5)
    for a, b in ((layer.forward(x), frozen.forward(x)), (layer.inverse(x), frozen.inverse(x))):
        assert torch.allclose(a[0], b[0], atol=2e-6)
        assert torch.equal(a[1], b[1])
    assert frozen.state_dict().keys() == layer.state_dict().keys()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: bj.Permutation([0, 0, 1]), "every index"),
        (lambda: bj.Permutation([]), "every index"),
        (lambda: bj.LU(0), "at least 1"),
        (lambda: bj.LU(2, max_log_scale=float("inf")), "max_log_scale"),
        (lambda: bj.LU(2, max_shear=0.0), "max_shear"),
        (lambda: bj.QR(2, max_shear=-1.0), "max_shear"),
        (lambda: bj.MatrixExp(2, max_log_scale=0.0), "max_log_scale"),
        (lambda: bj.Householder(2, reflections=0), "reflections"),
        (lambda: bj.Rotation(0), "at least 1"),
        (lambda: bj.LU(2, -1), "context"),
        (lambda: bj.Reshape((2, 3), (5,)), "same number of elements"),
        (lambda: bj.Reshape((), (1,)), "non-empty"),
    ],
)
def test_bad_arguments(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_reshape_shapes():
    layer = bj.Reshape((2, 3), (6,))
    assert layer.latent_shape(torch.Size((2, 3))) == (6,)
    assert layer.data_shape(torch.Size((6,))) == (2, 3)
    with pytest.raises(ShapeError, match=r"\(2, 3\)"):
        layer.latent_shape(torch.Size((3, 2)))


@pytest.mark.parametrize("shape", SHAPES)
def test_flow_on_matrices_through_reshape(shape):
    core = randomize(bj.Coupling(bj.Affine(), (1, 1, 0, 1, 0, 0), hidden=(8,)))
    first = randomize(bj.Elementwise(bj.Affine(), 3))  # acts on the last dimension of the matrix
    flow = bj.Flow(bj.Chain(first, bj.Reshape((2, 3), (6,)), core), bj.StandardNormal(6)).double()
    x = torch.randn(*shape, 2, 3, dtype=torch.float64)
    z, ladj = flow.to_latent(x)
    assert z.shape == (*shape, 6)
    assert ladj.shape == shape
    back, inverse_ladj = flow.to_data(z)
    assert torch.allclose(back, x, atol=1e-13)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-13)
    assert flow.sample(shape).shape == (*shape, 2, 3)
    if x.numel():
        event = x.reshape(-1, 2, 3)[0]
        jac = torch.func.jacrev(lambda v: flow.to_latent(v.view(2, 3))[0])(event.flatten())
        assert torch.allclose(ladj.reshape(-1)[0], torch.linalg.slogdet(jac).logabsdet, atol=1e-13)
    back = bj.Flow(bj.Inverse(flow.transform), bj.StandardNormal((2, 3))).double()
    assert back.log_prob(z.detach()).shape == shape

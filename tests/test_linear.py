"""Permutation, LU, Reshape, and chains whose layers change the event shape."""

import copy

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ShapeError
from laws.cases import randomize

SHAPES = [(), (7,), (5, 7), (0,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("build", [lambda: bj.LU(4), lambda: bj.LU(4, bias=False), lambda: bj.random_permutation(4, 3)])
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
    for layer in (bj.random_permutation(4), randomize(bj.LU(4))):
        for out in (layer.forward(x)[0], layer.inverse(x)[0]):
            assert out.stride() == (1, 100), type(layer)


def test_lu_starts_at_the_identity_and_stays_conditioned():
    x = torch.randn(7, 4)
    assert torch.equal(bj.LU(4).forward(x)[0], x)
    layer = bj.LU(4, max_log_scale=1.5)
    with torch.no_grad():
        layer.factors.diagonal().copy_(torch.tensor([-1e6, 1e6, 1e30, 0.0]))
    z, ladj = layer.forward(x)
    assert torch.allclose(ladj, torch.tensor(1.5))
    assert torch.allclose(layer.inverse(z)[0], x, atol=1e-6)


def test_frozen_lu_gives_the_same_numbers():
    layer = randomize(bj.LU(5))
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

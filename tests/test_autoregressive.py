"""Autoregressive layers: dependence exactly as declared, and an incremental inverse that equals one pass per feature."""

import copy
import itertools
import random

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.nets import MaskedMLP
from bijectory.ops import masks
from laws.cases import randomize

F64 = torch.float64
DAG = ((0, 0, 0, 0, 0), (1, 0, 0, 0, 1), (0, 0, 0, 0, 0), (1, 1, 0, 0, 1), (0, 0, 1, 0, 0))
WIRINGS = {
    "default": {},
    "order": {"order": (2, 0, 3, 1, 4)},
    "dag": {"adjacency": DAG},
    "independent": {"adjacency": ((0,) * 5,) * 5},
    "one layer": {"hidden": (8,), "order": (4, 3, 2, 1, 0)},
    "linear": {"hidden": (), "order": (2, 0, 3, 1, 4)},
    "narrow": {"hidden": (2, 3), "order": (2, 0, 3, 1, 4)},
    "narrow dag": {"hidden": (1,), "adjacency": DAG},
}


def build(wiring="default", context=0, features=5, bijection=None):
    torch.manual_seed(0)
    kw = {"hidden": (16, 16), **WIRINGS[wiring]}
    return randomize(bj.Autoregressive(bijection or bj.Affine(), features, context, **kw)).double()


def inverse_by_passes(layer, z, c=None):
    """One full pass through the network per feature: the textbook inverse."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[-1]):
        phi = layer.net(x, c).unflatten(-1, (layer.bijection.n_params, -1)).movedim(-2, 0)
        x, ladj = layer.bijection.inverse(z, phi)
    return x, ladj.sum(-1)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_incremental_inverse_equals_passes(wiring, context):
    layer = build(wiring, context)
    z = torch.randn(50, 5, dtype=F64)
    c = torch.randn(50, 3, dtype=F64) if context else None
    x, ladj = layer.inverse(z, c)
    want, want_ladj = inverse_by_passes(layer, z, c)
    assert torch.allclose(x, want, atol=1e-13, rtol=1e-13)
    assert torch.allclose(ladj, want_ladj, atol=1e-13, rtol=1e-13)
    assert torch.allclose(layer.forward(x, c)[0], z, atol=1e-12)


def test_incremental_inverse_in_float32_is_as_exact_as_passes():
    layer = build("default").float()
    z = torch.randn(200, 5)
    exact = layer.double().inverse(z.double())[0]
    layer.float()
    ours, passes = layer.inverse(z)[0], inverse_by_passes(layer, z)[0]
    assert (ours - exact).abs().max() < 2 * (passes - exact).abs().max() + 1e-6


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_jacobian_has_the_declared_pattern(wiring, context):
    layer = build(wiring, context)
    c = torch.randn(context, dtype=F64) if context else None
    x = torch.randn(5, dtype=F64)
    jac = torch.func.jacrev(lambda v: layer.forward(v, c)[0])(x)
    declared = masks.adjacency_from_order(layer.order or range(5))
    if layer.adjacency is not None:
        declared = torch.tensor(layer.adjacency)
    assert torch.equal(jac != 0, declared | torch.eye(5, dtype=torch.bool))
    ladj = layer.forward(x, c)[1]
    assert torch.allclose(ladj, torch.linalg.slogdet(jac).logabsdet, atol=1e-13)


@pytest.mark.parametrize("seed", range(10))
def test_random_graphs(seed):
    rng, features = random.Random(seed), 7
    order = rng.sample(range(features), features)
    graph = torch.zeros(features, features, dtype=torch.bool)
    for (a, early), (b, late) in itertools.permutations(enumerate(order), 2):
        graph[late, early] = a < b and rng.random() < 0.4
    layer = randomize(bj.Autoregressive(bj.Affine(), features, 2, (32, 32), adjacency=graph), seed).double()
    x, c = torch.randn(features, dtype=F64), torch.randn(2, dtype=F64)
    jac = torch.func.jacrev(lambda v: layer.forward(v, c)[0])(x)
    assert torch.equal(jac != 0, graph | torch.eye(features, dtype=torch.bool))
    z, ladj = layer.forward(x.expand(9, -1), c)
    back, inverse_ladj = layer.inverse(z, c)
    assert torch.allclose(back, x.expand(9, -1), atol=1e-12)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-12)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_no_feature_is_blind_to_the_context(wiring):
    layer = build(wiring, context=3)
    x, c = torch.randn(5, dtype=F64), torch.randn(3, dtype=F64)
    for f in (layer.forward, layer.inverse):
        jac = torch.func.jacrev(lambda v, f=f: f(x, v)[0])(c)
        assert (jac != 0).all()


@pytest.mark.parametrize("context_shape", [None, (), (7,), (5, 7), (5, 1), (1,)])
def test_batch_shapes(context_shape):
    layer = build("order", 0 if context_shape is None else 3)
    c = None if context_shape is None else torch.randn(*context_shape, 3, dtype=F64)
    for shape in ((), (7,), (5, 7), (0,)):
        if shape == (0,) and context_shape not in (None, (), (1,)):
            continue
        x = torch.randn(*shape, 5, dtype=F64)
        joint = torch.broadcast_shapes(shape, context_shape or ())
        z, ladj = layer.forward(x, c)
        back, _ = layer.inverse(z, c)
        assert z.shape == back.shape == (*joint, 5)
        assert ladj.shape == joint
        assert torch.allclose(back, x.expand(*joint, 5), atol=1e-12)


def test_output_stays_feature_major():
    layer = build()
    z = torch.randn(5, 100, dtype=F64).T
    assert layer.forward(z)[0].stride() == layer.inverse(z)[0].stride() == (1, 100)


def test_inverse_is_differentiable_twice_and_vmaps():
    layer = build("dag", context=3)
    z, c = torch.randn(6, 5, dtype=F64, requires_grad=True), torch.randn(6, 3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layer.inverse, (z, c))
    assert torch.autograd.gradgradcheck(lambda z, c: layer.inverse(z, c)[0], (z[:2], c[:2]))
    rows = torch.func.vmap(lambda z, c: layer.inverse(z, c)[0])(z, c)
    assert torch.allclose(rows, layer.inverse(z, c)[0], atol=1e-13)
    jac = torch.func.vmap(torch.func.jacrev(lambda z, c: layer.inverse(z, c)[0]))(z, c)
    ladj = torch.linalg.slogdet(jac).logabsdet
    assert torch.allclose(ladj, layer.inverse(z, c)[1], atol=1e-12)


def test_inverse_gradients_reach_the_weights_as_those_of_passes():
    layer = build("order", context=3)
    z, c = torch.randn(6, 5, dtype=F64), torch.randn(6, 3, dtype=F64)
    grads = []
    for inverse in (layer.inverse, lambda z, c: inverse_by_passes(layer, z, c)):
        x, ladj = inverse(z, c)
        grads.append(torch.autograd.grad((x.sin().sum() + ladj.sum()), list(layer.parameters())))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*grads, strict=True))


def test_capture_is_whole_in_both_directions():
    layer = build("dag", context=3)
    z, c = torch.randn(6, 5, dtype=F64), torch.randn(6, 3, dtype=F64)
    for f in (layer.forward, layer.inverse):
        compiled = torch.compile(f, backend="eager", fullgraph=True)
        assert torch.allclose(compiled(z, c)[0], f(z, c)[0])


def test_every_hidden_unit_is_evaluated_once():
    layer = build("default")
    counted = []

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func is torch.nn.functional.silu:
                counted.append(out.numel())
            return out

    with Count():
        layer.inverse(torch.randn(10, 5, dtype=F64))
    assert sum(counted) == 10 * (16 + 16)


def test_context_has_its_share_of_hidden_units():
    assert (masks.share_units(128, 63, empty=True) == 0).sum() == 32
    assert masks.share_units(128, 63, empty=True).unique().numel() == 63
    assert masks.share_units(128, 62, empty=False).unique().numel() == 62


def test_frozen_weights_give_the_same_numbers():
    layer = build("narrow dag", context=3)
    frozen = copy.deepcopy(layer)
    for module in frozen.modules():
        if isinstance(module, bj.nets.Freezable):
            module.freeze()
    x, c = torch.randn(6, 5, dtype=F64), torch.randn(3, dtype=F64)
    for name in ("forward", "inverse"):
        for a, b in zip(getattr(layer, name)(x, c), getattr(frozen, name)(x, c), strict=True):
            assert torch.equal(a, b)
    plain = build("narrow dag", context=3)
    plain.load_state_dict(frozen.state_dict())
    assert torch.equal(plain.forward(x, c)[0], layer.forward(x, c)[0])


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"order": (0, 0, 1)}, "every index from 0 to 2"),
        ({"adjacency": ((0, 1, 0), (0, 0, 1), (1, 0, 0))}, "0 -> 1 -> 2 -> 0"),
        ({"adjacency": ((0, 0, 0), (0, 1, 0), (1, 0, 0))}, "1 -> 1"),
        ({"adjacency": ((0, 0), (1, 0))}, r"\(3, 3\)"),
        ({"adjacency": ((0, 0, 0),) * 3, "order": (0, 1, 2)}, "not both"),
        ({"hidden": (0,)}, "hidden"),
        ({"net": MaskedMLP(3, 5)}, "this layer needs"),
        ({"net": MaskedMLP(3, 2), "order": (2, 1, 0)}, "another graph"),
        ({"net": MaskedMLP(3, 2), "adjacency": ((0, 0, 0),) * 3}, "another graph"),
    ],
)
def test_bad_arguments(kw, words):
    with pytest.raises(ConfigError, match=words):
        bj.Autoregressive(bj.Affine(), 3, **kw)


def test_families_without_parameters_are_refused():
    with pytest.raises(ConfigError, match="n_params=0"):
        MaskedMLP(3, 0)

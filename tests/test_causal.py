"""Causal transformer layers: the mask, the cache, and three inverses that agree."""

import copy
import itertools

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, ShapeError
from bijectory.nets import Cache, CausalTransformer, ViT
from bijectory.transforms import Jacobi
from laws.cases import randomize

F64 = torch.float64
FAMILIES = [bj.Affine(), bj.Inverted(bj.Affine()), bj.RationalQuadratic(4)]


def build(tokens=5, features=2, context=0, bijection=FAMILIES[0], *, backwards=False):
    torch.manual_seed(0)
    layer = bj.Causal(bijection, tokens, features, context, width=8, heads=2, backwards=backwards)
    return randomize(layer).double()


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def inverse_by_passes(layer, z, c=None):
    """One full pass for every token: the textbook inverse."""
    z = z.flip(-2) if layer.backwards else z
    x = torch.zeros_like(z)
    for t in range(layer.tokens):
        phi = layer.net(x, c).unflatten(-1, (layer.bijection.n_params, layer.features)).movedim(-2, 0)
        x = torch.cat((x[..., :t, :], layer.bijection.inverse(z, phi)[0][..., t : t + 1, :], x[..., t + 1 :, :]), -2)
    return x.flip(-2) if layer.backwards else x


@pytest.mark.parametrize("backwards", [False, True])
def test_jacobian_is_triangular_in_tokens_and_diagonal_within_one(backwards):
    layer = build(backwards=backwards)
    jac = torch.func.jacrev(lambda v: layer.forward(v)[0])(noise(5, 2))  # (t, i, s, j)
    for t, s in itertools.product(range(5), range(5)):
        block = jac[t, :, s, :]
        earlier = s > t if backwards else s < t
        if s == t:
            assert (block.diagonal() != 0).all()
            assert torch.equal(block, torch.diag(block.diagonal())), "numbers of one token do not read each other"
        else:
            assert bool((block != 0).all()) == earlier, (t, s)
            assert bool((block == 0).all()) != earlier, (t, s)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("bijection", FAMILIES, ids=str)
def test_cached_inverse_equals_full_passes_equals_jacobi(bijection, backwards, context):
    layer = build(5, 2, context, bijection, backwards=backwards)
    z, c = noise(7, 5, 2), noise(7, 3) if context else None
    x, ladj = layer.inverse(z, c)
    assert torch.allclose(x, inverse_by_passes(layer, z, c), atol=1e-12)
    result = layer.jacobi(z, c)
    assert result.sweeps == 5
    assert torch.allclose(result.x, x, atol=1e-12)
    assert torch.allclose(result.ladj, ladj, atol=1e-12)
    assert torch.allclose(layer.forward(x, c)[0], z, atol=1e-11)


def test_each_sweep_makes_one_more_token_exact():
    layer, z = build(), noise(7, 5, 2)
    x = layer.inverse(z)[0]
    for sweeps in range(1, 6):
        partial = layer.jacobi(z, max_sweeps=sweeps)
        assert torch.allclose(partial.x[:, :sweeps], x[:, :sweeps], atol=1e-13)
        if sweeps < 5:
            assert not torch.allclose(partial.x, x, atol=1e-3)


def test_jacobi_stops_at_the_tolerance_and_says_how_far_it_went():
    torch.manual_seed(0)
    layer = bj.Causal(bj.Affine(), 12, 2, width=8, heads=2).double()  # near the identity: contracts at once
    z = noise(7, 12, 2)
    result = layer.jacobi(z, tolerance=1e-6)
    assert isinstance(result, Jacobi)
    assert 1 < result.sweeps < 12
    assert result.residual.shape == (7,)
    assert result.residual.max() <= 1e-6
    assert torch.allclose(result.x, layer.inverse(z)[0], atol=1e-5)
    assert layer.jacobi(z, tolerance=1e-2).sweeps < result.sweeps


def test_gradients_through_jacobi_equal_those_of_the_scan():
    layer, z = build(), noise(3, 5, 2)
    for call in (layer.inverse, layer.jacobi):
        layer.zero_grad()
        call(z)[0].sin().sum().backward()
        grads = [p.grad.clone() for p in layer.parameters()]
        if call == layer.inverse:
            want = grads
    for got, expected in zip(grads, want, strict=True):
        assert torch.allclose(got, expected, atol=1e-12)


def test_a_cache_is_a_value():
    """One cache, two continuations: neither disturbs the other, and the network keeps no memory."""
    net = randomize(CausalTransformer(3, 2, 1, width=8, heads=2)).double()
    first, second = noise(2, 4, 2)
    _, cache = net.begin((4,))
    before = [k.detach().clone() for k in cache.keys]
    one, longer = net.step(first, cache)
    other, _ = net.step(second, cache)
    again, _ = net.step(first, cache)
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert all(torch.equal(a, b) for a, b in zip(cache.keys, before, strict=True))
    assert isinstance(longer, Cache)
    assert longer.keys[0].shape == (4, 2, 2, 4)


@pytest.mark.parametrize("context", [0, 3])
def test_one_token(context):
    layer = build(1, 3, context)
    x, c = noise(5, 1, 3), noise(5, 3) if context else None
    z, ladj = layer.forward(x, c)
    back, inverse_ladj = layer.inverse(z, c)
    assert torch.allclose(back, x, atol=1e-12)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-12)
    assert layer.jacobi(z, c).sweeps == 1


def test_starts_near_the_identity():
    layer = bj.Causal(bj.Affine(), 4, 2, width=8, heads=2)
    assert (layer.forward(x := torch.randn(64, 4, 2))[0] - x).abs().max() < 0.1


# -- guidance ---------------------------------------------------------------------------------------------------------


def test_no_guidance_is_the_plain_inverse():
    layer, z, c, null = build(context=3), noise(7, 5, 2), noise(7, 3), torch.zeros(3, dtype=F64)
    for w, other in ((0.0, null), (2.5, c)):  # no weight, or nothing to be pushed away from
        for got, want in zip(layer.guided_inverse(z, c, other, w), layer.inverse(z, c), strict=True):
            assert torch.allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("backwards", [False, True])
def test_guided_parameters_are_extrapolated(backwards):
    """Against the equation, token by token with full passes."""
    layer, w = build(context=3, bijection=bj.Inverted(bj.Affine()), backwards=backwards), 1.5
    z, c, null = noise(7, 5, 2), noise(7, 3), noise(3, seed=5)
    order = range(4, -1, -1) if backwards else range(5)
    x, total = torch.zeros_like(z), torch.zeros(7, dtype=F64)
    for t in order:
        seen = x.flip(-2) if backwards else x
        with_class, without = ((layer.net(seen, k).flip(-2) if backwards else layer.net(seen, k)) for k in (c, null))
        mu, raw = ((1 + w) * with_class - w * without)[:, t].chunk(2, -1)
        alpha = 3 * torch.tanh(raw / 3)
        x[:, t] = mu + alpha.exp() * z[:, t]
        total += alpha.sum(-1)
    got, ladj = layer.guided_inverse(z, c, null, w)
    assert torch.allclose(got, x, atol=1e-11)
    assert torch.allclose(ladj, total, atol=1e-11)


def test_guidance_broadcasts_like_any_context():
    layer, z, null = build(context=3), noise(4, 7, 5, 2), torch.zeros(3, dtype=F64)
    c = noise(7, 3)
    want = layer.guided_inverse(z, c.expand(4, 7, 3), null, 1.0)[0]
    assert torch.allclose(layer.guided_inverse(z, c, null, 1.0)[0], want, atol=1e-12)
    assert layer.guided_inverse(z[0, 0], c, null, 1.0)[0].shape == (7, 5, 2)
    with pytest.raises(ContextError, match="context=0"):
        build().guided_inverse(z, c, null, 1.0)


# -- the networks -----------------------------------------------------------------------------------------------------


def test_vit_rows_are_planes_of_tokens():
    """Row ``(p * tokens + t) * outputs + i``: moving the input and position of a token moves its own outputs."""
    net = randomize(ViT(3, 2, 1, 2, width=8, heads=2)).double()
    swap = [1, 0, 2]
    x = noise(5, 3, 2)
    want = net(x.flatten(-2)).unflatten(-1, (2, 3, 1))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.trunk.position.copy_(net.trunk.position[swap])
    got = twin(x[:, swap].flatten(-2)).unflatten(-1, (2, 3, 1))
    assert torch.allclose(got, want[:, :, swap], atol=1e-12)
    jac = torch.func.jacrev(net)(x[0].flatten())
    assert (jac != 0).all(), "every token reads every other"


def test_a_head_of_zero_starts_at_zero():
    assert not ViT(3, 2, 1, 2, width=8, heads=2, head_scale=0.0)(torch.randn(5, 6)).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bj.Causal(bj.Exp(), 3, 2), "use Elementwise"),
        (lambda: bj.Causal(bj.Affine(), 3, 2, width=9, heads=2), "use heads=1"),
        (lambda: bj.Causal(bj.Affine(), 0, 2), "tokens=0"),
        (lambda: bj.Causal(bj.Affine(), 3, 2, net=CausalTransformer(3, 1, 2)), r"= \(3, 1, 2, 0\), this layer"),
        (lambda: build().jacobi(noise(5, 2), max_sweeps=0), "max_sweeps=0"),
        (lambda: build().jacobi(noise(5, 2), tolerance=-1.0), "tolerance=-1.0"),
        (lambda: bj.Patchify((1, 4, 6), 4), r"use one of \[1, 2\]"),
        (lambda: bj.Patchify((4, 6), 2), "channels, height, width"),
    ],
)
def test_bad_arguments_name_the_remedy(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# -- patches ----------------------------------------------------------------------------------------------------------


def test_patches_follow_in_reading_order():
    layer, x = bj.Patchify((3, 4, 6), 2), torch.randn(5, 3, 4, 6)
    z, ladj = layer(x)
    assert z.shape == (5, 6, 12)
    assert torch.equal(ladj, torch.zeros(5))
    for row, column in itertools.product(range(2), range(3)):
        patch = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(z[:, 3 * row + column], patch.flatten(1))
    assert torch.equal(layer.inverse(z)[0], x)


def test_patchify_knows_its_shapes():
    layer = bj.Patchify((3, 4, 6), 2)
    assert layer.latent_shape(torch.Size((3, 4, 6))) == (6, 12)
    assert layer.data_shape(torch.Size((6, 12))) == (3, 4, 6)
    for call, shape in ((layer.latent_shape, (3, 6, 4)), (layer.data_shape, (12, 6))):
        with pytest.raises(ShapeError, match=r"\(3, 4, 6\)|\(6, 12\)"):
            call(torch.Size(shape))

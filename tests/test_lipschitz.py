"""Operator norms against dense linear algebra, bounds that hold for any weights, activations and pushed tangents."""

import itertools
import math

import pytest
import torch
from torch.func import jacrev

from bijectory.errors import ConfigError
from bijectory.nets import (
    CLipSwish,
    Contraction,
    LipschitzConv,
    LipschitzDense,
    LipschitzDenseNet,
    LipschitzNet,
    LipSwish,
    Pointwise,
)
from bijectory.ops import lipschitz as norms


def conv_matrix(weight, size):
    """The whole operator as a matrix."""
    eye = torch.eye(weight.shape[1] * math.prod(size), dtype=weight.dtype).reshape(-1, weight.shape[1], *size)
    return torch.nn.functional.conv2d(eye, weight, padding=weight.shape[-1] // 2).flatten(1)


@pytest.mark.parametrize("size", [(4, 4), (5, 6), (2, 3), (1, 1), (9, 8)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_fourier_blocks_bound_the_padded_convolution(size, kernel):
    weight = torch.randn(3, 2, kernel, kernel, dtype=torch.float64)
    true = torch.linalg.matrix_norm(conv_matrix(weight, size), ord=2)
    blocks = norms.fourier_blocks(weight, size)
    bound = norms.spectral_norm(blocks)
    assert bound >= true * (1 - 1e-12)
    if kernel == 1:
        torch.testing.assert_close(bound, true)
    if kernel == 3 and min(size) > 3:
        assert bound <= 1.2 * true
    assert bound <= norms.gram_bound(blocks) * (1 + 1e-12) <= 1.01 * bound


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 1), (5, 4, 6), (5, 6, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_spectral_norm_and_its_derivatives_are_those_of_singular_values(shape, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()
    norm, want = norms.spectral_norm(weight), torch.linalg.matrix_norm(weight, ord=2).amax()
    assert norm.dtype == want.dtype
    torch.testing.assert_close(norm, want)
    torch.testing.assert_close(*(torch.autograd.grad(n, weight, retain_graph=True) for n in (norm, want)))
    if dtype == torch.float64:
        assert torch.autograd.gradgradcheck(norms.spectral_norm, weight)
        transformed = torch.func.grad(norms.spectral_norm)(weight.detach())
        torch.testing.assert_close(transformed, torch.autograd.grad(norm, weight)[0])


@pytest.mark.parametrize("scale", [0.0, 1e-15, 1e15])
def test_spectral_norm_of_matrices_that_are_out_of_the_ordinary(scale):
    weight = (scale * torch.eye(4)).requires_grad_()  # singular values all alike: any pair of vectors is as good
    norm = norms.spectral_norm(weight)
    assert abs(norm.item() - scale) <= 1e-6 * scale + 1e-30
    (slope,) = torch.autograd.grad(norm, weight)
    assert slope.isfinite().all()
    if scale:
        torch.testing.assert_close((slope * weight).sum(), norm)


def test_gram_bound_tightens_from_above():
    weight = torch.randn(30, 20, dtype=torch.float64)
    true = torch.linalg.matrix_norm(weight, ord=2)
    ratios = [float(norms.gram_bound(weight, n) / true) for n in range(1, 9)]
    assert all(a >= b >= 1 - 1e-12 for a, b in itertools.pairwise(ratios))
    assert ratios[-1] < 1 + 1e-4
    assert float(norms.gram_bound(torch.zeros(3, 2))) < 1e-30
    assert torch.isfinite(norms.gram_bound(1e30 * torch.ones(3, 2)))


NORMS = [(1, 1), (1, 2), (1, math.inf), (2, 2), (2, math.inf), (math.inf, math.inf), (3, 3), (1.5, 2.5), (math.inf, 2)]


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_induced_norms_bound_and_are_reached_where_they_should(p, q):
    weight = torch.randn(4, 3, dtype=torch.float64)
    signs = torch.tensor([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=torch.float64)
    candidates = [torch.eye(3, dtype=torch.float64), signs, torch.randn(20_000, 3, dtype=torch.float64)]
    if q == math.inf and p > 1:  # where Hoelder's inequality is an equality, row by row
        dual = 1.0 if p == math.inf else p / (p - 1)
        candidates.append(weight.sign() * weight.abs() ** (dual - 1))
    x = torch.cat(candidates)
    ratio = torch.linalg.vector_norm(x @ weight.T, q, dim=1) / torch.linalg.vector_norm(x, p, dim=1)
    bound = norms.induced_norm(weight, p, q)
    assert ratio.max() <= bound * (1 + 1e-12)
    if p == 1 or q == math.inf or p == q == 2:
        assert ratio.max() >= bound * (1 - 1e-2)


@pytest.mark.parametrize("act", [LipSwish(), LipSwish(20.0), CLipSwish(), CLipSwish(start=7.0)], ids=repr)
def test_published_constants_of_lipswish(act):
    x = torch.linspace(-30, 30, 200_001, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    act = act.double()
    slopes = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in act(x).unbind(-1)]
    length = torch.stack(slopes).square().sum(0).sqrt()
    assert 0.999 < length.max() <= 1
    y, t = act.push(x, torch.ones(1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(t.squeeze(0), torch.cat(slopes, -1))
    assert torch.equal(y, act(x))


def test_lipswish_starts_where_it_is_told():
    assert torch.nn.functional.softplus(LipSwish().beta).item() == pytest.approx(0.5)
    assert torch.nn.functional.softplus(CLipSwish(start=40.0).beta).item() == pytest.approx(40.0)
    with pytest.raises(ConfigError, match="start"):
        LipSwish(0.0)
    with pytest.raises(ConfigError, match="from the right"):
        CLipSwish(1)


NETS = {
    "dense": lambda: LipschitzNet((3,), 2, (6, 5), 0.8),
    "linear": lambda: LipschitzNet((3,), 2, (), 0.8),
    "clipswish": lambda: LipschitzNet((3,), 2, (6, 5), 0.8, "clipswish"),
    "tanh": lambda: LipschitzNet((3,), 2, (6,), 0.8, "tanh"),
    "sigmoid": lambda: LipschitzNet((3,), 2, (6,), 0.8, "sigmoid"),
    "elu": lambda: LipschitzNet((3,), 2, (6,), 0.8, "elu"),
    "mixed": lambda: LipschitzNet((3,), 2, (6, 5), 0.8, orders=(math.inf, 2, math.inf, math.inf)),
    "gram": lambda: LipschitzNet((3,), 2, (6, 5), 0.8, method="gram"),
    "conv": lambda: LipschitzNet((2, 3, 2), 2, (4, 3), 0.8),
    "conv-gram": lambda: LipschitzNet((2, 3, 2), 2, (4,), 0.8, kernels=(5, 1), method="gram"),
    "idense": lambda: LipschitzDenseNet((3,), 2, (4, 4), 0.8),
    "idense-tanh": lambda: LipschitzDenseNet((3,), 2, (4, 4), 0.8, "tanh"),
    "idense-conv": lambda: LipschitzDenseNet((2, 3, 2), 2, (4, 4), 0.8),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_networks_contract_whatever_the_weights(name, scale):
    net = NETS[name]().double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(k), dtype=p.dtype))
    x, c = torch.randn(200, *net.shape, dtype=torch.float64), torch.randn(200, 2, dtype=torch.float64)
    value, j = net.jacobian(x, c)
    torch.testing.assert_close(value, net(x, c))
    norm = torch.linalg.matrix_norm(j, ord=net.order)
    assert norm.max() <= net.lipschitz * (1 + 1e-12)
    for i in range(3):
        want = jacrev(lambda v, i=i: net(v, c[i]).flatten())(x[i]).flatten(1)
        torch.testing.assert_close(j[i], want)


def test_a_linear_network_reaches_its_constant():
    net = LipschitzNet((3,), 0, (), 0.8).double()
    torch.nn.init.normal_(net.layers[0].weight, std=10)
    j = net.jacobian(torch.zeros(3, dtype=torch.float64))[1]
    torch.testing.assert_close(torch.linalg.matrix_norm(j, ord=2), torch.tensor(0.8, dtype=torch.float64))


@pytest.mark.parametrize(
    "build", [lambda m: LipschitzDense(9, 7, method=m), lambda m: LipschitzConv(3, 2, 3, (5, 4), method=m)]
)
def test_power_iteration_is_pure_until_updated(build):
    layer = build("power").double()
    torch.nn.init.normal_(layer.weight, std=3)
    size = (5, 4)
    matrix = layer.weight if layer.weight.dim() == 2 else conv_matrix(layer.weight, size)
    true = torch.linalg.matrix_norm(matrix, ord=2)
    start, before = layer.u.clone(), layer.norm()
    assert torch.equal(layer.norm(), before)
    assert torch.equal(layer.u, start)
    assert before <= true * (1 + 1e-12)
    for _ in range(40):
        layer.update()
    torch.testing.assert_close(layer.norm(), true, rtol=1e-4, atol=0)
    (grad,) = torch.autograd.grad(layer.norm(), layer.weight)
    (want,) = torch.autograd.grad(torch.linalg.matrix_norm(matrix, ord=2), layer.weight)
    torch.testing.assert_close(grad, want, rtol=0.05, atol=0.01)
    other = build("exact").double()
    other.update()
    assert other.u is None


def test_a_contraction_updates_all_its_layers():
    net = LipschitzNet((3,), 0, (8,), method="power")
    before = [layer.u.clone() for layer in net.layers]
    net.update()
    assert not any(torch.equal(u, layer.u) for u, layer in zip(before, net.layers, strict=True))


def test_freezing_scales_the_weights_once():
    layer = LipschitzDense(5, 4, bound=0.5)
    x = torch.randn(3, 5)
    want = layer(x)
    layer.freeze()
    torch.testing.assert_close(layer(x), want)
    assert layer.bounded_weight() is layer.weight
    frozen = layer.weight.clone()
    layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.weight, frozen)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LipschitzDense(2, 2, bound=0.0), "bound must be"),
        (lambda: LipschitzDense(2, 2, method="svd"), "use one of"),
        (lambda: LipschitzDense(2, 2, domain=0.5), "norms start at 1"),
        (lambda: LipschitzDense(2, 2, domain=1, method="power"), "use 'exact'"),
        (lambda: LipschitzConv(2, 2, 2, (4, 4)), "kernel must be odd"),
        (lambda: LipschitzNet((2,), lipschitz=1.0), "between 0 and 1"),
        (lambda: LipschitzNet((2, 2)), "shape must be"),
        (lambda: LipschitzNet((2,), context=-1), "context"),
        (lambda: LipschitzNet((2,), hidden=(0,)), "at least 1"),
        (lambda: LipschitzNet((2,), activation="relu"), "lipswish"),
        (lambda: LipschitzNet((2,), hidden=(4,), orders=(1, 2)), "takes 2 only|take 3 of them"),
        (lambda: LipschitzNet((2,), hidden=(4,), orders=(1, 2, 2)), "the last like the first"),
        (lambda: LipschitzNet((2,), hidden=(4,), activation="clipswish", orders=(1, 2, 1)), "clipswish"),
        (lambda: LipschitzNet((2, 4, 4), hidden=(4,), kernels=(3,)), "kernels needs 2"),
        (lambda: LipschitzDenseNet((2,), hidden=()), "at least one hidden layer"),
        (lambda: Pointwise("relu"), "tanh"),
    ],
)
def test_wrong_arguments_are_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_contraction_is_abstract():
    with pytest.raises(TypeError):
        Contraction()


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)], ids=["dense", "convolutions"])
@pytest.mark.parametrize("activation", ["lipswish", "clipswish", "tanh", "sigmoid", "elu"])
def test_cotangents_are_pulled_back_as_autograd_does(shape, activation):
    net = LipschitzNet(shape, 2, (5, 4), activation=activation, beta=2.0).double()
    x, c, v = (torch.randn(s, dtype=torch.float64) for s in ((6, *shape), (6, 2), (3, 6, *shape)))
    (value, pull), (want, pull_want) = net.pullback(x, c), Contraction.pullback(net, x, c)
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(pull(v), pull_want(v))
    weight = net.layers[0].weight
    slopes = [torch.autograd.grad(p(v).square().sum(), weight)[0] for p in (pull, pull_want)]
    torch.testing.assert_close(*slopes)

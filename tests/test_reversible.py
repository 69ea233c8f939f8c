"""Reversible chains: gradients of the plain chain, and memory that does not grow with depth."""

import copy

import pytest
import torch
from torch.func import functional_call

import bijectory as bj
from laws.cases import randomize

F64 = torch.float64


def vectors(context=0, layers=6):
    masks = ((True, True, False), (False, False, True))
    return bj.Chain(
        *(t for k in range(layers) for t in (bj.LU(3), bj.Coupling(bj.Affine(), masks[k % 2], context, (8,))))
    )


def images(context=0, layers=4):
    couplings = (bj.ImageCoupling(bj.Affine(), 4, swap=k % 2 == 1, context=context, hidden=6) for k in range(layers))
    steps = (t for k, q in enumerate(couplings) for t in (bj.ActNorm(4, event_dim=3), bj.Conv1x1(4, k), q))
    return bj.Chain(bj.Squeeze(), *steps)


CHAINS = {"vectors": (vectors, (3,)), "images": (images, (1, 4, 4))}


def gradients(transform, way, x, c):
    """Values, and gradients of a generic score with respect to inputs, context and weights."""
    leaves = [t.clone().requires_grad_() for t in (x, c) if t is not None]
    y, ladj = getattr(transform, way)(*leaves)
    score = y.sin().sum() + (ladj * torch.arange(1.0, 1 + ladj.numel(), dtype=ladj.dtype).reshape(ladj.shape)).sum()
    return [y, ladj, *torch.autograd.grad(score, [*leaves, *transform.parameters()])]


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("way", ["forward", "inverse"])
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_are_those_of_the_plain_chain(name, way, context):
    build, event = CHAINS[name]
    plain = randomize(build(context)).double()
    event = event if way == "forward" else plain.latent_shape(torch.Size(event))
    x, c = torch.randn(5, 1, *event, dtype=F64), torch.randn(7, context, dtype=F64) if context else None
    want = gradients(plain, way, x, c)
    got = gradients(bj.Reversible(plain), way, x, c)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_flow_of_it_has_the_density_of_the_plain_one(compiled):
    plain = bj.Flow(randomize(vectors()), bj.StandardNormal(3)).double()
    flow = bj.Flow(bj.Reversible(plain.transform), plain.base)
    x = torch.randn(7, 3, dtype=F64)
    if compiled:
        flow = flow.compiled()
    weights = list(flow.parameters())
    assert torch.allclose(flow.log_prob(x), plain.log_prob(x), rtol=1e-12)
    found = torch.autograd.grad(flow.log_prob(x).sum(), weights)
    want = torch.autograd.grad(plain.log_prob(x).sum(), list(plain.parameters()))
    for a, b in zip(found, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
    result = bj.fit(flow.float(), x.float(), config=bj.FitConfig(epochs=2, compile="always", progress=False))
    assert result.steps == 2


def test_float32_gradients_agree_to_rounding_at_depth_32():
    torch.manual_seed(0)
    plain = vectors(layers=32)
    x = torch.randn(64, 3)
    for a, b in zip(
        gradients(bj.Reversible(plain), "forward", x, None), gradients(plain, "forward", x, None), strict=True
    ):
        assert (a - b).abs().max() <= 1e-4 * (1 + b.abs().max())


def test_any_single_transform_is_one_step():
    plain = bj.Inverse(randomize(vectors(layers=1))).double()
    x = torch.randn(5, 3, dtype=F64)
    for a, b in zip(
        gradients(bj.Reversible(plain), "forward", x, None), gradients(plain, "forward", x, None), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-10)


def test_layers_may_share_weights_and_be_frozen():
    layer, fixed = bj.LU(3), bj.LU(3).requires_grad_(requires_grad=False)
    plain = randomize(bj.Chain(layer, fixed, layer)).double()
    assert len(list(plain.parameters())) == 4
    x = torch.randn(5, 3, dtype=F64)
    grads = []
    for t in (bj.Reversible(plain), plain):
        z, ladj = t(x)
        (z.square().sum() + ladj.sum()).backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
        t.zero_grad()
    assert all(p.grad is None for p in fixed.parameters())
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_weights_put_in_by_a_functional_call_count():
    plain = randomize(vectors(layers=2)).double()
    other = {
        f"transform.{n}": p.detach().clone().requires_grad_()
        for n, p in randomize(copy.deepcopy(plain), 1).named_parameters()
    }
    x = torch.randn(5, 3, dtype=F64)
    z, ladj = functional_call(bj.Reversible(plain), other, (x,))
    got = torch.autograd.grad(z.square().sum() + ladj.sum(), list(other.values()))
    z, ladj = functional_call(plain, {n.removeprefix("transform."): p for n, p in other.items()}, (x,))
    want = torch.autograd.grad(z.square().sum() + ladj.sum(), list(other.values()))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_weights_changed_before_backward_are_noticed():
    chain = bj.Reversible(vectors(layers=2))
    z, _ = chain(torch.randn(5, 3))
    with torch.no_grad():
        next(chain.parameters()).add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_autocast_recomputes_in_the_same_precision():
    plain = randomize(images())
    x = torch.randn(2, 1, 4, 4)
    grads = []
    for t in (bj.Reversible(plain), plain):
        t.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            z, ladj = t(x)
        (z.float().square().sum() + ladj.sum()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in plain.parameters()]))
    assert (grads[0] - grads[1]).norm() < 0.1 * grads[1].norm()


def saved_bytes(transform, x):
    """Bytes that the graph of one forward pass keeps, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in transform.parameters()}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        transform(x)
    return sum(n for n, _ in kept.values())


@pytest.mark.parametrize("name", CHAINS)
def test_memory_does_not_grow_with_depth(name):
    build, event = CHAINS[name]
    x = torch.randn(32, *event)
    plain = [saved_bytes(build(layers=n), x) for n in (2, 8)]
    flat = [saved_bytes(bj.Reversible(build(layers=n)), x) for n in (2, 8, 32)]
    assert plain[1] > 3 * plain[0]
    assert flat == [flat[0]] * 3
    assert flat[0] <= 2 * x.nbytes


@pytest.mark.parametrize("context", [0, 2])
def test_recipes_offer_it(context):
    kw = {"levels": 4, "scales": 2, "steps": 2, "hidden": 4}
    torch.manual_seed(0)
    plain = randomize(bj.glow((1, 4, 4), context, **kw), scale=0.15).double()
    again = bj.glow((1, 4, 4), context, reversible=True, **kw).double()
    again.load_state_dict(dict(zip(again.state_dict(), plain.state_dict().values(), strict=True)))
    x, c = 4 * torch.rand(5, 1, 4, 4, dtype=F64), torch.randn(5, context, dtype=F64) if context else None
    for flow in (plain, again):
        flow.log_prob(x, c).sum().backward()
    assert torch.allclose(plain.log_prob(x, c), again.log_prob(x, c))
    for a, b in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-9)

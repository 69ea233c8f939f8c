"""The recursion of a stack of ridges against one layer after the other."""

import pytest
import torch
from torch.autograd import forward_ad

import bijectory as bj
from bijectory.ops import ridge
from bijectory.ops.ridge import planar_ridges
from bijectory.ops.ridge_scan import ridge_scan
from bijectory.testing import randomize
from bijectory.transforms.amortized import raw_parameters


def one_by_one(x, layer):
    """The maps as they are written down, differentiable by autograd alone."""
    ridges = planar_ridges if isinstance(layer, bj.Planar) else layer._ridges
    u, w, b, one_plus, *_ = ridges(raw_parameters(layer.phi, None, None, 1))
    total = x.new_zeros(len(x))
    for k in range(len(u)):
        t = torch.tanh(x @ w[k].T + b[k])
        x = x + t @ u[k].T
        total = total + (1 + (one_plus[k] - 1) * (1 - t.square())).log().sum(-1)
    return x, total


CASES = {
    "one feature": lambda: bj.Planar(1, layers=5),
    "one block": lambda: bj.Planar(3, layers=7),
    "three blocks": lambda: bj.Planar(2, layers=40),
    "two ridges": lambda: bj.Sylvester(5, kind="orthogonal", rank=2, layers=9),
}


@pytest.fixture
def _always(monkeypatch):
    """The recursion for few features and numbers too."""
    monkeypatch.setattr(ridge, "_SCAN_FEATURES", 1)
    monkeypatch.setattr(ridge, "_SCAN_NUMBERS", 1)


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_a_stack_is_its_layers_one_by_one(build, monkeypatch):
    layer = randomize(build(), 0, 0.7).double()
    scans = []
    monkeypatch.setattr(ridge, "ridge_scan", lambda *a: scans.append(len(a[0])) or ridge_scan(*a))
    x = torch.randn(6, layer.features, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    got, want = layer(x), one_by_one(x, layer)
    assert sum(scans) == layer.layers * (getattr(layer, "rank", None) or 1), "all ridges go through the recursion"
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(layer.encode(x), want[0])
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], want[0])
    bent = []
    for z, ladj in (got, want):
        first = torch.autograd.grad(z.sin().sum() + ladj.sum(), wanted, create_graph=True)
        bent.append((*first, *torch.autograd.grad(sum(v.square().sum() for v in first), wanted)))
    torch.testing.assert_close(*bent)


@pytest.mark.parametrize("features", [15, 16])
def test_only_where_it_pays(features, monkeypatch):
    layer = randomize(bj.Planar(features, layers=4), 0, 0.3)
    scans = []
    monkeypatch.setattr(ridge, "ridge_scan", lambda *a: scans.append(len(a[0])) or ridge_scan(*a))
    for rows in (0, (1 << 14) // 16 - 1, (1 << 14) // 15 + 1):
        scans.clear()
        x = torch.randn(rows, features)
        torch.testing.assert_close(layer(x), one_by_one(x, layer))
        assert bool(scans) == (features == 16 and rows * features >= 1 << 14)


@pytest.mark.usefixtures("_always")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # raised inside torch by forward mode
def test_transformed_calls_go_layer_by_layer(monkeypatch):
    layer = randomize(bj.Planar(3, layers=6), 0, 0.7).double()
    monkeypatch.setattr(ridge, "ridge_scan", None)
    x = torch.randn(4, 3, dtype=torch.float64)
    want = one_by_one(x, layer)[0]
    torch.testing.assert_close(torch.func.vmap(lambda v: layer(v)[0])(x), want)
    with forward_ad.dual_level():
        torch.testing.assert_close(layer(forward_ad.make_dual(x, torch.ones_like(x)))[0], want)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_only_blocks_below_the_diagonal_are_read_and_only_they_get_gradients(size):
    start = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    coupling = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    block = torch.arange(6) // size
    below = block.unsqueeze(1) > block
    t = ridge_scan(start, coupling, size)
    torch.testing.assert_close(t, torch.tanh(start + (coupling * below) @ t))
    g = torch.randn_like(t)
    kept = g.clone()
    slopes = torch.autograd.grad(t, (start, coupling), g)
    assert torch.equal(g, kept)
    assert (slopes[1][~below] == 0).all()
    assert torch.autograd.gradcheck(lambda a, m: ridge_scan(a, m, size), (start, coupling))
    assert torch.autograd.gradgradcheck(lambda a, m: ridge_scan(a, m, size), (start, coupling))

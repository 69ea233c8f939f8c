"""Runs in native kernels: equal to the plain layers, in derivatives too; used where they can be, only there."""

import copy
import pickle

import pytest
import torch

import bijectory as bj
from bijectory.nets import MLP, MaskedMLP
from bijectory.ops import layers as native_layers
from bijectory.ops import native as native_module
from bijectory.ops.layers import ACTIVATIONS, plain
from bijectory.transforms import fused
from bijectory.transforms.chain import sink_of, use_native
from bijectory.transforms.fused import Run, can_fuse, fuse, one_by_one
from kernel_support import close, derivatives

pytestmark = [
    pytest.mark.skipif(native_module.compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]
HALF = (True, True, False, False, False)
ORDER = (3, 0, 4, 1, 2)
MIXED = (False, True, False, True, True)
SPLINE, AFFINE = bj.RationalQuadratic(4, 3.0), bj.Affine()


def coupling(bijection=SPLINE, mask=HALF, context=0, hidden=(20, 33), activation="silu"):
    moved = len(mask) - sum(mask)
    return bj.Coupling(
        bijection, mask, context, net=MLP(sum(mask), bijection.n_params * moved, hidden, context, activation)
    )


def autoregressive(bijection=SPLINE, context=0, hidden=(20, 33), **graph):
    return bj.Autoregressive(bijection, 5, context, net=MaskedMLP(5, bijection.n_params, hidden, context, **graph))


CHAINS = {
    "affine couplings": lambda: [coupling(AFFINE), coupling(AFFINE, MIXED)],
    "spline couplings": lambda: [coupling(), coupling(mask=MIXED)],
    "couplings with context": lambda: [coupling(context=2), coupling(AFFINE, MIXED, 2)],
    "linear tails": lambda: [coupling(bj.RationalQuadratic(3, 1.0, "linear"))],
    "circular": lambda: [coupling(bj.RationalQuadratic(3, 1.0, "circular"))],
    "one hidden layer": lambda: [coupling(hidden=(7,)), autoregressive(AFFINE, hidden=(16,))],
    "four hidden layers": lambda: [coupling(hidden=(7, 9, 17, 3)), autoregressive(hidden=(16, 8, 40, 8))],
    "autoregressive": lambda: [autoregressive(AFFINE), autoregressive(order=(4, 3, 2, 1, 0))],
    "any order": lambda: [autoregressive(order=(2, 0, 4, 1, 3))],
    "autoregressive with context": lambda: [
        autoregressive(context=2),
        autoregressive(AFFINE, 2, order=(4, 3, 2, 1, 0)),
    ],
    "inverse": lambda: [bj.Inverse(autoregressive(AFFINE)), bj.Inverse(bj.Inverse(coupling())), bj.Inverse(coupling())],
    "linear": lambda: [bj.LU(5), coupling(), bj.QR(5), bj.QR(5), bj.Householder(5), bj.Inverse(bj.LU(5))],
    "elementwise": lambda: [bj.Elementwise(AFFINE, 5), coupling(), bj.Inverse(bj.Elementwise(bj.Affine(1.0), 5))],
    "rotations": lambda: [bj.Rotation(5), bj.Permutation(ORDER), coupling(), bj.Inverse(bj.Permutation(ORDER))],
}
for name in ACTIVATIONS:
    CHAINS[f"activation {name}"] = lambda a=name: [coupling(activation=a), coupling(AFFINE, MIXED, activation=a)]


def pair(name, dtype=torch.float64):
    """A plain chain and the same in kernels."""
    torch.manual_seed(0)
    chain = bj.Chain(*CHAINS[name]()).to(dtype)
    bj.testing.randomize(chain, seed=1, scale=0.4)
    fast = copy.deepcopy(chain)
    assert use_native(fast)
    assert [type(step) for step in fast._steps] == [Run]
    return chain, fast


def inputs(chain, batch, dtype=torch.float64):
    g = torch.Generator().manual_seed(2)
    x = 1.5 * torch.randn(*batch, 5, generator=g, dtype=torch.float64)
    c = torch.randn(*batch, 2, generator=g, dtype=torch.float64) if chain.context else None
    return x.to(dtype), None if c is None else c.to(dtype)


@pytest.mark.parametrize("way", ["forward", "inverse"])
@pytest.mark.parametrize("name", CHAINS)
def test_equal_to_the_layers_one_by_one(name, way):
    """Values and first derivatives, for one row, a part of a block, several blocks, several groups of blocks."""
    chain, fast = pair(name)
    for rows in (0, 1, 7, 64, 70, 64 * 9 + 3):
        x, c = inputs(chain, (rows,))
        with torch.no_grad():
            close(getattr(fast, way)(x, c), getattr(chain, way)(x, c), 1e-12)
        close(derivatives(fast, way, x, c), derivatives(chain, way, x, c), 1e-11)


@pytest.mark.parametrize("name", CHAINS)
def test_single_precision(name):
    """As close to float64 as the plain layers are, within a factor."""
    wide, _ = pair(name)
    chain, fast = pair(name, torch.float32)
    x, c = inputs(wide, (65,))  # the last block is a single row
    exact = [t for t in derivatives(wide, "forward", x, c) if t is not None]
    narrow = [
        [t for t in derivatives(f, "forward", x.float(), None if c is None else c.float()) if t is not None]
        for f in (fast, chain)
    ]
    for a, b, e in zip(*narrow, exact, strict=True):
        ours, theirs = (((t.double() - e).abs().max() / (1 + e.abs().max())) if e.numel() else 0 for t in (a, b))
        assert ours < 4 * theirs + 5e-6, (ours, theirs)


@pytest.mark.parametrize("name", ["spline couplings", "autoregressive with context", "linear"])
def test_computing_the_sums_again_changes_nothing(name, monkeypatch):
    chain, fast = pair(name)
    x, c = inputs(chain, (150,))
    kept = derivatives(fast, "forward", x, c)
    monkeypatch.setattr(native_layers, "KEEP", 0)
    close(derivatives(fast, "forward", x, c), kept, 1e-14)


def test_shapes_strides_and_broadcasting():
    chain, fast = pair("couplings with context")
    x, c = inputs(chain, (3, 4))
    cases = [
        (x, c),
        (x[0, 0], c[0, 0]),
        (x, c[0, 0]),
        (x[0, 0], c),
        (x[:, :1], c[:1]),
        (x.transpose(0, 1), c.transpose(0, 1)),
        (x.flip(-1)[..., :5], c),
        (x[:0], c[:0]),
    ]
    for xx, cc in cases:
        close(fast.forward(xx, cc), chain.forward(xx, cc), 1e-12)
        close(fast.inverse(xx, cc), chain.inverse(xx, cc), 1e-12)
        assert torch.equal(fast.encode(xx, cc), fast.forward(xx, cc)[0])
        assert torch.equal(fast.decode(xx, cc), fast.inverse(xx, cc)[0])
    close(derivatives(fast, "forward", x, c[:1]), derivatives(chain, "forward", x, c[:1]), 1e-11)


@pytest.mark.parametrize("name", ["couplings with context", "autoregressive", "linear", "linear tails"])
def test_second_derivatives(name):
    """The plain formula of a run is the layers, and is what is differentiated twice."""
    chain, fast = pair(name)
    x, c = inputs(chain, (2,))
    x = (0.6 * x).clamp(-0.9, 0.9)  # a spline has no second derivative at its knots, a tail none at its border
    results = []
    for f in (fast, chain):
        xx = x.clone().requires_grad_()
        y, ladj = f.forward(xx, c)
        (g,) = torch.autograd.grad((y.sin().sum() + ladj.sum()), xx, create_graph=True)
        (g.square().sum()).backward()
        results.append([xx.grad, *(p.grad for p in f.parameters())])
    close(*results, 1e-9)
    (run,) = fast._steps
    for way in ("forward", "inverse"):
        program, sources = run.jobs[way]
        if not program.sweeps:
            tensors, ladj = sources(c, x.shape[:-1])
            y, total = plain(program, x, tensors)
            close((y, total if ladj is None else total + ladj), getattr(chain, way)(x, c), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_log_density_with_its_normal_base_is_one_call(name, dtype):
    """Values, first derivatives and those of the gradient, against the plain layers and their base."""
    chain, fast = pair(name, dtype)
    flows = [bj.Flow(t, bj.StandardNormal(5).to(dtype)) for t in (fast, chain)]
    swept = fast._native_run.jobs["score"][0].sweeps  # what is inverted level by level carries no derivatives
    for rows in (0, 1, 64 * 9 + 3):
        x, c = inputs(chain, (rows,), dtype)
        with torch.no_grad():
            assert fast._native_run.score(x, c) is not None
            close([flows[0].log_prob(x, c)], [flows[1].log_prob(x, c)], 1e-12 if dtype == torch.float64 else 2e-5)
        if dtype == torch.float64:
            assert (fast._native_run.score(x.clone().requires_grad_(), c) is None) == swept
            close(derivatives(flows[0], "log_prob", x, c), derivatives(flows[1], "log_prob", x, c), 1e-11)
    if dtype == torch.float64:
        x = (0.6 * inputs(chain, (2,))[0]).clamp(-0.9, 0.9).requires_grad_()
        c = inputs(chain, (2,))[1]
        second = []
        for flow in flows:
            (g,) = torch.autograd.grad(flow.log_prob(x, c).sum(), x, create_graph=True)
            second.append(torch.autograd.grad(g.square().sum(), [x, *flow.parameters()], allow_unused=True))
        close(*second, 1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_frozen_copies_in_kernels(name):
    chain, _ = pair(name)
    flow = bj.Flow(chain, bj.StandardNormal(5).double())
    fast = flow.frozen().compiled()
    for rows in (1, 70):
        x, c = inputs(chain, (rows,))
        close([fast.log_prob(x, c)], [flow.log_prob(x, c).detach()], 1e-11)
        for way in ("to_latent", "to_data"):
            close(getattr(fast, way)(x, c), [t.detach() for t in getattr(flow, way)(x, c)], 1e-11)


def test_other_bases_and_batches_of_a_log_density():
    chain, fast = pair("couplings with context")
    x, c = inputs(chain, (3, 4))
    for base in (bj.StandardNormal(5).double(), bj.DiagonalNormal(5).double(), bj.StudentT(5).double()):
        ours, theirs = (bj.Flow(t, base) for t in (fast, chain))
        for xx, cc in ((x, c), (x[0, 0], c[0, 0]), (x[:, :1], c[0]), (x.mT.contiguous().mT, c)):
            close([ours.log_prob(xx, cc)], [theirs.log_prob(xx, cc)], 1e-12)
    with pytest.raises(bj.errors.ContextError, match="context"):
        bj.Flow(fast, bj.StandardNormal(5).double()).log_prob(x)


class Shifted(bj.Chain):
    """A chain of somebody else's, which is more than its layers."""

    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z + 1, ladj


def test_chains_that_are_more_than_their_layers_are_asked_themselves():
    chain = Shifted(*pair("affine couplings")[0])
    flow = bj.Flow(chain, bj.StandardNormal(5).double())
    x, _ = inputs(chain, (9,))
    close([flow.compiled().log_prob(x)], [flow.log_prob(x)], 1e-12)


def test_what_is_not_plain_goes_layer_by_layer(monkeypatch):
    calls = []
    real = fused.run
    monkeypatch.setattr(fused, "run", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    _, fast = pair("autoregressive", torch.float32)
    x, _ = inputs(fast, (6,), torch.float32)
    fast.forward(x)
    fast.forward(x.requires_grad_())
    with torch.no_grad():
        fast.inverse(x)
    assert len(calls) == 3
    fast.inverse(x)  # derivatives of a sweep
    torch.func.vmap(lambda v: fast.forward(v)[0])(x.detach())
    torch.func.jvp(lambda v: fast.forward(v)[0], (x.detach(),), (torch.ones_like(x),))
    with torch.autocast("cpu", torch.bfloat16):
        fast.forward(x)
    fast.to(torch.bfloat16).forward(x.detach().bfloat16())
    assert len(calls) == 3
    with pytest.raises(RuntimeError, match="dtype"):
        fast.forward(x)


def test_a_bad_row_spoils_no_other():
    for name in ("spline couplings", "autoregressive", "linear"):
        _, fast = pair(name, torch.float32)
        x, _ = inputs(fast, (70,), torch.float32)
        good = fast.forward(x)
        bad = x.clone()
        bad[3, 0], bad[66, 4] = float("nan"), float("inf")
        seen = fast.forward(bad)
        keep = [i for i in range(70) if i not in (3, 66)]
        for a, b in zip(seen, good, strict=True):
            assert torch.equal(a[keep], b[keep])
        assert seen[1][3].isnan() or seen[0][3].isnan().any()


def test_threads_share_the_blocks(monkeypatch):
    _, fast = pair("spline couplings", torch.float32)
    x, _ = inputs(fast, (64 * 7 + 5,), torch.float32)
    one = derivatives(fast, "forward", x, None)
    monkeypatch.setattr(native_layers, "LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = derivatives(fast, "forward", x, None)
    assert all(torch.equal(a, b) for a, b in zip(one[:3], three[:3], strict=True))
    close(three, one, 1e-6)


def test_weights_are_followed_and_guarded():
    chain, fast = pair("spline couplings")
    x, _ = inputs(chain, (9,))
    for f in (chain, fast):
        with torch.no_grad():
            for p in f.parameters():
                p.mul_(1.3)
    close(fast.forward(x), chain.forward(x), 1e-12)
    fast.load_state_dict(pair("spline couplings")[0].state_dict())
    close(fast.forward(x), pair("spline couplings")[0].forward(x), 1e-12)
    y, _ = fast.forward(x)
    with torch.no_grad():
        next(fast.parameters()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_copies_run_their_own_weights(tmp_path):
    torch.manual_seed(0)
    flow = bj.nsf_ar(3, 2, layers=2, hidden=(16,), bins=4)
    bj.testing.randomize(flow, seed=0, scale=0.3)
    x, c = torch.randn(20, 3), torch.randn(20, 2)
    fast = flow.compiled()
    for again in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.frozen(), flow.frozen().compiled()):
        torch.testing.assert_close(again.log_prob(x, c), flow.log_prob(x, c), rtol=1e-4, atol=1e-4)
        steps = [step for step in again.transform._steps if isinstance(step, Run)]
        assert steps
        (owned,) = {id(m) for m in again.modules()} & {id(layer) for layer in steps[0].layers[-1:]}
        with torch.no_grad():
            for p in again.parameters():
                p.zero_()
        assert not torch.allclose(again.log_prob(x, c), flow.log_prob(x, c), atol=1e-2), owned
    bj.save(flow.compiled(), tmp_path)
    assert bj.load(tmp_path).transform._steps is None


def test_what_can_be_fused():
    assert not any(isinstance(s, Run) for s in fuse([bj.LU(5), bj.Elementwise(bj.Affine(), 5)]))
    assert not can_fuse(bj.Coupling(bj.Shift(), HALF))
    assert not can_fuse(bj.Coupling(bj.Affine(None), HALF))
    assert not can_fuse(bj.Coupling(bj.RationalQuadratic(4, precision="float64"), HALF))
    assert not can_fuse(bj.Coupling(bj.RationalQuadratic(65), HALF))
    assert not can_fuse(coupling(activation="gelu"))
    assert not can_fuse(coupling(hidden=()))
    assert not can_fuse(coupling(hidden=(4,) * 8))
    assert not can_fuse(bj.LU(5, context=2))
    assert not can_fuse(bj.Elementwise(bj.Affine(), 5, context=2))
    assert not can_fuse(bj.Planar(5, context=2))
    assert not can_fuse(autoregressive(hidden=(3,)))  # narrower than the number of sets of parents
    chain = [[False] * 5 for _ in range(5)]
    for i in range(1, 5):
        chain[i][i - 1] = True
    assert not can_fuse(autoregressive(adjacency=chain))  # limits are not enough to say what a row reads
    steps = fuse([bj.LU(5), bj.Elementwise(bj.Affine(None), 5), bj.Permutation([1, 0, 2, 3, 4]), coupling()])
    assert [type(s) for s in steps] == [bj.LU, bj.Elementwise, Run]
    x = torch.randn(3, 5)
    layers = [bj.LU(5), coupling()]
    close(one_by_one(layers, "forward", x, None), bj.Chain(*layers).forward(x), 0)


# ---- gradients past the graph --------------------------------------------------------------------------------------------


def sunk(chain, base=None):
    """A flow in kernels whose gradients go to a sink, and the sink; the flow without."""
    flow = bj.Flow(chain, bj.StandardNormal(5).double() if base is None else base)
    fast = copy.deepcopy(flow)
    assert use_native(fast)
    return fast, sink_of(fast.transform), flow


def pulled(flow, x, c, sink=None, extra=None):
    """Gradients of all weights and of the context."""
    c = None if c is None else c.clone().requires_grad_()
    flow.zero_grad()
    if sink is not None:
        sink.clear()
    loss = -(flow.log_prob(x, c) * torch.linspace(0.5, 2, len(x), dtype=x.dtype)).sum()
    (loss if extra is None else loss + extra(flow)).backward()
    if sink is not None:
        sink.close()
    return [None if c is None else c.grad, *(None if p.grad is None else p.grad.clone() for p in flow.parameters())]


@pytest.mark.parametrize("name", [n for n in CHAINS if n not in ("inverse", "rotations")])
def test_a_sink_takes_the_gradients_that_the_graph_would(name, monkeypatch):
    chain, _ = pair(name)
    fast, sink, flow = sunk(chain)
    x, c = inputs(chain, (64 * 9 + 3,))
    want = pulled(flow, x, c)
    for _ in range(2):  # a second step starts from zero
        close(pulled(fast, x, c, sink), want, 1e-11)
    trained = {id(p) for p in fast.parameters()}
    assert {id(t) for t in sink.weights} <= trained
    assert all(t.grad.untyped_storage().data_ptr() == sink.flat.untyped_storage().data_ptr() for t in sink.weights)
    monkeypatch.setattr(native_layers, "LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    close(pulled(fast, x, c, sink), want, 1e-11)


def test_what_else_depends_on_a_weight_adds_to_its_sink():
    shared = coupling()
    bj.testing.randomize(shared, seed=1, scale=0.4)
    fast, sink, flow = sunk(bj.Chain(shared, bj.Permutation(ORDER), shared, coupling(mask=MIXED)).double())
    x, _ = inputs(fast.transform, (70,))
    for extra in (None, lambda f: sum(p.square().sum() for p in f.parameters())):
        close(pulled(fast, x, None, sink, extra), pulled(flow, x, None, extra=extra), 1e-11)


def test_what_stays_with_the_graph():
    seen = []
    fast, sink, flow = sunk(
        bj.Chain(bj.LU(5), coupling(), coupling(mask=MIXED)).double(), bj.DiagonalNormal(5).double()
    )
    first, hooked, *_ = list(fast.transform[1].parameters())
    hooked.register_hook(lambda g: seen.append(g.clone()))
    first.requires_grad_(False)
    sink.release()
    sink = sink_of(fast.transform)
    x, _ = inputs(fast.transform, (9,))
    want = pulled(flow, x, None)
    found = pulled(fast, x, None, sink)
    names = [n for n, _ in fast.named_parameters()]
    for name, p, a, b in zip(names, fast.parameters(), found[1:], want[1:], strict=True):
        if p is first:
            assert a is None
        else:
            close([a], [b], 1e-11)
        assert (id(p) in {id(t) for t in sink.weights}) == (
            name.startswith(("transform.transforms.1.net", "transform.transforms.2.net"))
            and p is not first
            and p is not hooked
        )
    assert len(seen) == 1
    with torch.autocast("cpu", torch.bfloat16):  # layer by layer, into the same memory
        narrow = copy.deepcopy(flow).float()
        use_native(narrow)
        low = sink_of(narrow.transform)
        close(pulled(narrow, x.float(), None, low), pulled(copy.deepcopy(flow).float(), x.float(), None), 5e-2)
    sink.release()
    assert all(p.grad is None for p in sink.weights)
    first.requires_grad_(True)
    close(pulled(fast, x, None), want, 1e-11)


def test_a_sink_is_good_for_one_backward_and_not_for_copies():
    fast, sink, flow = sunk(bj.Chain(coupling(), coupling(mask=MIXED)).double())
    x, _ = inputs(fast.transform, (9,))
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        close(pulled(again, x, None), pulled(flow, x, None), 1e-11)
        assert not sink.flat.any()
    xx = x.clone().requires_grad_()
    weights = list(fast.parameters())
    assert not sink.is_open
    found, want = (torch.autograd.grad(f.log_prob(x).sum(), list(f.parameters())) for f in (fast, flow))
    close(found, want, 1e-11)  # as ever
    sink.clear()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(fast.log_prob(x).sum(), weights)
    with pytest.raises(bj.errors.FlowError, match="deepcopy"):
        torch.autograd.grad(fast.log_prob(xx).sum(), xx, create_graph=True)
    mixed = bj.Chain(bj.Chain(coupling(AFFINE)), bj.Chain(coupling(AFFINE)).double(), bj.Chain(coupling(AFFINE)))
    assert use_native(mixed)
    assert {t.dtype for t in sink_of(mixed).weights} == {torch.float32}
    assert len(sink_of(mixed).weights) == 12
    assert sink_of(bj.Chain(coupling())) is None  # it runs in no kernels
    assert sink_of(bj.Chain(bj.Radial(5))) is None

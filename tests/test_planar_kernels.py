"""Stacks of planar maps in native kernels: equal to the plain layer, in derivatives too; used where they can be."""

import copy
import math
import pickle

import pytest
import torch

import bijectory as bj
from bijectory.ops import layers as native_layers
from bijectory.ops import native as native_module
from bijectory.ops.layers import plain
from bijectory.transforms import fused
from bijectory.transforms.chain import has_native, plain_layers, use_native
from bijectory.transforms.fused import Run
from kernel_support import close, derivatives

pytestmark = [
    pytest.mark.skipif(native_module.compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]
WAYS = ["forward", "inverse"]
DTYPES = [torch.float64, torch.float32]


def pair(features, layers, dtype=torch.float64, scale=0.7):
    """A plain stack and the same in kernels."""
    torch.manual_seed(0)
    stack = bj.testing.randomize(bj.Planar(features, layers=layers), seed=1, scale=scale).to(dtype)
    fast = copy.deepcopy(stack)
    assert use_native(fast)
    return stack, fast


def points(*shape, dtype=torch.float64):
    return (1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("features", [1, 2, 7])
@pytest.mark.parametrize("layers", [1, 3, 16])
def test_equal_to_the_plain_layer(features, layers, dtype, way):
    """Values and first derivatives, for one event, a part of a block, several blocks, several groups of blocks."""
    stack, fast = pair(features, layers, dtype)
    tolerance = 1e-13 if dtype == torch.float64 else 3e-6
    for batch in ((), (7,), (3, 5), (0,), (65,), (130,), (64 * 9 + 3,)):
        x = points(*batch, features, dtype=dtype)
        with torch.no_grad():
            close(getattr(fast, way)(x), getattr(stack, way)(x), tolerance)
        close(derivatives(fast, way, x), derivatives(stack, way, x), 5 * tolerance)


@pytest.mark.parametrize("features", [20, 50])
def test_many_features_and_maps(features):
    stack, fast = pair(features, 70, scale=0.2)
    for way in WAYS:
        close(derivatives(fast, way, points(70, features)), derivatives(stack, way, points(70, features)), 1e-11)


def test_strides():
    stack, fast = pair(4, 5)
    x = points(6, 3, 8)
    cases = [
        x[..., ::2],
        x[..., :4].transpose(0, 1),
        x[0, ..., :4].T.contiguous().T,
        x[:, 0, 4:],
        x[0, :1, :4].expand(9, 4),
    ]
    for xx in cases:
        for way in WAYS:
            close(getattr(fast, way)(xx), getattr(stack, way)(xx), 1e-13)
        assert torch.equal(fast.encode(xx), fast.forward(xx)[0])
        assert torch.equal(fast.decode(xx), fast.inverse(xx)[0])
    g = points(4, 9).T
    for f, seen in ((fast, []), (stack, [])):
        z = f.forward(x[0, :, :4].repeat(3, 1))[0]
        seen += torch.autograd.grad(z, [f.phi], g)
    close(derivatives(fast, "forward", cases[2]), derivatives(stack, "forward", cases[2]), 1e-13)


@pytest.mark.parametrize("acts_on", ["data", "noise"])
def test_a_whole_flow_is_one_run(acts_on):
    flow = bj.testing.randomize(bj.planar(3, layers=6, acts_on=acts_on), seed=0, scale=0.5).double()
    assert has_native(flow)
    fast = flow.compiled()
    assert [type(step) for step in fast.transform._steps] == [Run]
    x = points(70, 3)
    for way in WAYS:
        close(derivatives(fast.transform, way, x), derivatives(flow.transform, way, x), 1e-12)
    seen = []
    for f in (flow, fast):
        f.zero_grad()
        draws, log_q = f.rsample_and_log_prob(40, generator=torch.Generator().manual_seed(3))
        (log_q + draws.square().sum(-1)).mean().backward()
        seen.append([draws.detach(), log_q.detach(), *(p.grad for p in f.parameters())])
    close(*seen[::-1], 1e-12)
    plain_layers(fast)
    assert fast.transform._steps is None


def test_a_stack_without_a_chain(tmp_path):
    """The flow's whole transform, and within layers that know no kernels."""
    for transform in (bj.Planar(2, layers=3), bj.Inverse(bj.Planar(2, layers=3))):
        flow = bj.testing.randomize(bj.Flow(transform, bj.StandardNormal(2)), seed=0, scale=0.5).double()
        fast = flow.compiled()
        stack = next(m for m in fast.modules() if isinstance(m, bj.Planar))
        assert isinstance(stack._native_run, Run)
        x = points(9, 2)
        for again in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.frozen()):
            close([again.log_prob(x), *again.to_data(x)], [flow.log_prob(x), *flow.to_data(x)], 1e-13)
            own = next(m for m in again.modules() if isinstance(m, bj.Planar))
            with torch.no_grad():
                own.phi.zero_()
            assert torch.equal(again.to_latent(x)[0], x), "a copy runs its own weights"
        bj.save(fast, tmp_path)
        assert next(m for m in bj.load(tmp_path).modules() if isinstance(m, bj.Planar))._native_run is None
        plain_layers(fast)
        assert stack._native_run is None


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives(way):
    stack, fast = pair(3, 4)
    results = []
    for f in (fast, stack):
        xx = points(5, 3).requires_grad_()
        y, ladj = getattr(f, way)(xx)
        first = torch.autograd.grad(y.sin().sum() + ladj.sum(), (xx, f.phi), create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(v.square().sum() for v in first), (xx, f.phi))])
    close(*results, 1e-11)
    program, sources = fast._native_run.jobs[way]
    close(plain(program, points(5, 3), sources(None, torch.Size([5]))[0]), getattr(stack, way)(points(5, 3)), 1e-13)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("raw", [-1e6, -300.0, -3.0, 0.0, 3.0, 300.0, 1e6])
def test_near_the_constraint_single_precision_is_as_exact_as_the_plain_layer(raw, way):
    """Of the product w.u before the constraint; both against the same numbers in float64."""
    stack = bj.Planar(2, layers=1)
    with torch.no_grad():
        stack.phi.copy_(torch.tensor([[raw, 0.3, 1.0, -0.5, 0.2]]))
    x = torch.cat((points(60, 2), 8 * points(60, 2))).float()
    if way == "inverse":
        x = x * max(1.0, math.sqrt(abs(raw)))
    exact = derivatives(copy.deepcopy(stack).double(), way, x.double())
    fast = copy.deepcopy(stack)
    use_native(fast)
    for a, b, e in zip(derivatives(fast, way, x), derivatives(stack, way, x), exact, strict=True):
        ours, theirs = (float(((t.double() - e).abs() / (1 + e.abs())).max()) for t in (a, b))
        assert ours <= 4 * theirs + 2e-6, (ours, theirs)
    if abs(raw) <= 300:
        close(derivatives(copy.deepcopy(fast).double(), way, x.double()), exact, 1e-10)


def test_roots_over_all_slopes():
    """One map of one feature, whose inverse is the root: from a flat spot to a cliff, from the origin to far away."""
    r = torch.cat((torch.zeros(1), torch.logspace(-12, 8, 2000, dtype=torch.float64))).double()
    r = torch.cat((-r.flip(0), r)).unsqueeze(1)
    for dtype in DTYPES:
        eps = torch.finfo(dtype).eps
        for a in (-1e12, -1e6, -1e3, -10.0, -1e-3, 0.0, 1e-9, 1.0, 1e3, 1e6):
            stack = bj.Planar(1, layers=1).to(dtype)
            with torch.no_grad():
                stack.phi.copy_(torch.tensor([[a, 1.0, 0.0]]))
                fast = copy.deepcopy(stack)
                use_native(fast)
                x, ladj = fast.inverse(r.to(dtype))
                wide, _ = copy.deepcopy(stack).double()(x.double())
            assert x.isfinite().all()
            assert ladj.isfinite().all()
            size = (1 + r.abs()) * (1 + max(a, 0)) + abs(
                a
            )  # x is a difference from r, whose last place goes up the cliff
            assert (wide - r.to(dtype)).abs().le(4 * eps * size).all()
    with torch.no_grad():
        bad = fast.inverse(torch.tensor([[math.nan], [math.inf], [1.0]]))
    assert bad[0][:2].isnan().all()
    assert bad[0][2].isfinite().all()


def test_a_bad_row_spoils_no_other():
    _, fast = pair(3, 4, torch.float32)
    x = points(70, 3, dtype=torch.float32)
    bad = x.clone()
    bad[3, 0], bad[66, 2] = math.nan, math.nan
    keep = [i for i in range(70) if i not in (3, 66)]
    for way in WAYS:
        seen, good = getattr(fast, way)(bad), getattr(fast, way)(x)
        for a, b in zip(seen, good, strict=True):
            assert torch.equal(a[keep], b[keep])
        assert seen[0][[3, 66]].isnan().any(-1).all()
        assert seen[1][[3, 66]].isnan().all()


def test_computing_the_tanh_again_changes_nothing(monkeypatch):
    _, fast = pair(3, 5)
    for way in WAYS:
        kept = derivatives(fast, way, points(150, 3))
        with monkeypatch.context() as patch:
            patch.setattr(native_layers, "KEEP", 0)
            close(derivatives(fast, way, points(150, 3)), kept, 1e-13)


def test_threads_share_the_blocks(monkeypatch):
    _, fast = pair(3, 5)
    x = points(64 * 7 + 5, 3)
    for way in WAYS:
        one = derivatives(fast, way, x)
        with monkeypatch.context() as patch:
            patch.setattr(native_layers, "LEAST", 1)
            patch.setattr(torch, "get_num_threads", lambda: 3)
            three = derivatives(fast, way, x)
        assert all(torch.equal(a, b) for a, b in zip(one[:3], three[:3], strict=True))
        close(three, one, 1e-13)


def test_what_is_not_plain_runs_plain(monkeypatch):
    calls = []
    real = fused.run
    monkeypatch.setattr(fused, "run", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    stack, fast = pair(3, 4, torch.float32)
    x = points(6, 3, dtype=torch.float32)
    for way in WAYS:
        getattr(fast, way)(x)
        getattr(fast, way)(x.clone().requires_grad_())
    fast.encode(x), fast.decode(x)
    assert len(calls) == 6
    close([torch.func.vmap(lambda v: fast.forward(v)[0])(x)], [stack.forward(x)[0]], 1e-6)
    torch.func.jvp(lambda v: fast.forward(v)[0], (x,), (torch.ones_like(x),))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast.forward(x)[0], stack.forward(x)[0])
    assert torch.equal(fast.to(torch.bfloat16).forward(x.bfloat16())[0], stack.to(torch.bfloat16)(x.bfloat16())[0])
    assert len(calls) == 6
    assert not has_native(bj.Planar(3, context=2))
    assert not use_native(bj.Planar(3, context=2))

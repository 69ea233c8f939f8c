"""Continuous flows in native kernels: equal to the plain solve, in derivatives too; used where they can be, only there."""

import copy
import math
import pickle

import pytest
import torch

import bijectory as bj
from bijectory.nets import TimeMLP
from bijectory.ops import field as native_field
from bijectory.ops import native as native_module
from bijectory.ops.field import SMOOTH
from bijectory.ops.tableaus import TABLEAUS
from bijectory.training.compilation import Compilation
from bijectory.transforms import fused_field
from bijectory.transforms.chain import has_native, plain_layers, use_native
from bijectory.transforms.fused_field import can_solve
from kernel_support import close, derivatives

pytestmark = [
    pytest.mark.skipif(native_module.compiler() is None, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]
WAYS = ("forward", "inverse")


def pair(d=2, context=0, hidden=(16, 16), activation="tanh", method="rk4", steps=3, dtype=torch.float64, **keywords):
    """A plain layer and the same in kernels."""
    torch.manual_seed(0)
    field = TimeMLP(d, context, hidden, activation, frequencies=2)
    layer = bj.testing.randomize(bj.Continuous(field, method, steps, **keywords), seed=1, scale=0.4).to(dtype)
    fast = copy.deepcopy(layer)
    assert use_native(fast)
    return layer, fast


def inputs(layer, *batch, dtype=torch.float64):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(*batch, layer.field.features, generator=g, dtype=torch.float64).to(dtype)
    return x, torch.randn(*batch, layer.context, generator=g, dtype=torch.float64).to(dtype) if layer.context else None


@pytest.fixture
def calls(monkeypatch):
    """Counts what goes through the kernels."""
    counted, real = [], fused_field.run
    monkeypatch.setattr(fused_field, "run", lambda *a, **k: (counted.append(1), real(*a, **k))[1])
    return counted


@pytest.mark.parametrize("method", TABLEAUS)
@pytest.mark.parametrize("hidden", [(16,), (16, 16), (24, 8)])
def test_equal_to_the_plain_solve(method, hidden, calls):
    """Values and first derivatives in both directions, with and without the trace; less and more rows than a block."""
    layer, fast = pair(3, 2, hidden, method=method, steps=2)
    for rows in (7, 65):
        x, c = inputs(layer, rows)
        for way in ("forward", "inverse", "encode", "decode"):
            close(derivatives(fast, way, x, c), derivatives(layer, way, x, c), 1e-12)
    assert len(calls) == 8


@pytest.mark.parametrize("d", [1, 2, 5, 18])
@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("hidden", [(16,), (33, 20)])
def test_activations_and_numbers_of_features(d, activation, hidden):
    layer, fast = pair(d, 0, hidden, activation)
    for rows in (1, 64, 130):
        x, _ = inputs(layer, rows)
        with torch.no_grad():
            for way in WAYS:
                close(getattr(fast, way)(x), getattr(layer, way)(x), 1e-12)
        close(derivatives(fast, "forward", x, None), derivatives(layer, "forward", x, None), 1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("hidden", [(16,), (16, 16), (24, 8)])
def test_single_precision(hidden, activation, way):
    """As close to float64 as the plain solve is, within a factor."""
    wide, _ = pair(5, 2, hidden, activation, "tsit5")
    narrow = pair(5, 2, hidden, activation, "tsit5", dtype=torch.float32)
    x, c = inputs(wide, 100)
    exact = derivatives(wide, way, x, c)
    plain, ours = (derivatives(f, way, x.float(), c.float()) for f in narrow)
    for a, b, e in zip(ours, plain, exact, strict=True):
        errors = [((t.double() - e).abs().max() / (1 + e.abs().max())) for t in (a, b)]
        assert a.dtype == torch.float32
        assert errors[0] < 4 * errors[1] + 2e-6, errors


def test_large_and_small_inputs_of_activations():
    """Where they are linear or saturate, float32 loses no more than in the plain solve, and nothing overflows."""
    for activation in SMOOTH:
        wide, _ = pair(2, 0, (16, 16), activation, "euler", 1)
        plain, fast = pair(2, 0, (16, 16), activation, "euler", 1, torch.float32)
        for scale in (1e-6, 1e-3, 30.0, 1e4):
            x, _ = inputs(wide, 40)
            exact = derivatives(wide, "forward", scale * x, None)
            found = [derivatives(f, "forward", (scale * x).float(), None) for f in (fast, plain)]
            for a, b, e in zip(*found, exact, strict=True):
                errors = [((t.double() - e).abs().max() / (1 + e.abs().max())) for t in (a, b)]
                assert errors[0] < 4 * errors[1] + 2e-6, (activation, scale, errors)


def test_many_hidden_layers_solve_for_the_point_alone(calls):
    layer, fast = pair(3, 2, (9, 20, 16))
    x, c = inputs(layer, 70)
    for way in ("encode", "decode"):
        close(derivatives(fast, way, x, c), derivatives(layer, way, x, c), 1e-12)
    assert len(calls) == 2
    close(derivatives(fast, "forward", x, c), derivatives(layer, "forward", x, c), 1e-12)
    assert len(calls) == 2


@pytest.mark.parametrize("hidden", [(16,), (16, 16)])
def test_shapes_strides_and_broadcasting(hidden, calls):
    layer, fast = pair(3, 2, hidden)
    x, c = inputs(layer, 3, 4)
    cases = [
        (x, c),
        (x[0, 0], c[0, 0]),
        (x, c[0, 0]),
        (x[0, 0], c),
        (x[:, :1], c[:1]),
        (x.transpose(0, 1), c.transpose(0, 1)),
        (x.flip(-1), c),
        (x[:0], c[:0]),
        (x[0].mT.contiguous().mT, c[0]),
    ]
    for xx, cc in cases:
        for way in ("forward", "inverse", "encode", "decode"):
            close(derivatives(fast, way, xx, cc), derivatives(layer, way, xx, cc), 1e-12)
        with torch.no_grad():
            for way in WAYS:
                close(getattr(fast, way)(xx, cc), getattr(layer, way)(xx, cc), 1e-12)
    assert len(calls) == 6 * len(cases)
    z, ladj = fast.forward(x.detach().requires_grad_(), c)  # cotangents of stride 0, and of one result alone
    close(torch.autograd.grad(z.sum(), fast.parameters(), retain_graph=True, allow_unused=True),
          torch.autograd.grad(layer.forward(x, c)[0].sum(), layer.parameters(), allow_unused=True), 1e-12)  # fmt: skip
    close(torch.autograd.grad(ladj.sum(), fast.parameters(), allow_unused=True),
          torch.autograd.grad(layer.forward(x, c)[1].sum(), layer.parameters(), allow_unused=True), 1e-12)  # fmt: skip


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize(("hidden", "context"), [((6,), 0), ((6, 5), 2), ((6, 5), 0), ((6,), 2)])
def test_second_derivatives(hidden, context, activation):
    layer, fast = pair(2, context, hidden, activation)
    x, c = inputs(layer, 5)
    for way in ("forward", "encode"):
        results = []
        for f in (fast, layer):
            xx = x.clone().requires_grad_()
            found = getattr(f, way)(xx, c)
            y, ladj = found if isinstance(found, tuple) else (found, torch.zeros(()))
            (g,) = torch.autograd.grad(y.sin().sum() + ladj.sum(), xx, create_graph=True)
            f.zero_grad()
            g.square().sum().backward()
            results.append([xx.grad, *(p.grad for p in f.parameters())])
        close(*results, 1e-10)


def test_what_is_not_plain_takes_the_plain_solve(calls):
    layer, fast = pair(dtype=torch.float32)
    x, _ = inputs(layer, 6, dtype=torch.float32)
    fast.forward(x)
    fast.encode(x.requires_grad_())
    with torch.no_grad():
        fast.inverse(x)
    fast.log_det(x)
    assert len(calls) == 4
    x = x.detach()
    close(torch.func.vmap(lambda v: fast.forward(v)[0])(x), layer.forward(x)[0], 1e-6)
    torch.func.jvp(lambda v: fast.forward(v)[0], (x,), (torch.ones_like(x),))
    fast.forward_with_costs(x)
    fast.evaluations(x)
    with torch.autocast("cpu", torch.bfloat16):
        fast.forward(x)
    copy.deepcopy(fast).to(torch.bfloat16).forward(x.bfloat16())
    exported = torch.export.export(bj.Flow(fast, bj.StandardNormal(2)), (x,)).module()
    close([exported(x)], [bj.Flow(layer, bj.StandardNormal(2)).log_prob(x)], 1e-5)
    for change in ({"gradient": "checkpoint"}, {"steps": None}, {"method": "reversed"}):
        other = copy.deepcopy(fast)
        for name, value in change.items():
            setattr(other, name, value)
        if "method" not in change:
            other.method = "tsit5"
            other.forward(x)
    assert len(calls) == 4
    with pytest.raises(RuntimeError, match="dtype"):
        fast.forward(x.double())
    mixed = copy.deepcopy(fast)
    mixed.field.net.layers[1].double()
    with pytest.raises(RuntimeError, match="dtype"):
        mixed.forward(x)
    assert len(calls) == 4
    with torch.device("meta"):
        fast.encode(x)
    assert len(calls) == 5


def test_what_the_kernels_know():
    assert can_solve(TimeMLP(2), joint=True)
    assert can_solve(TimeMLP(2, hidden=(4, 4, 4)), joint=False)
    assert not can_solve(TimeMLP(2, hidden=(4, 4, 4)), joint=True)
    assert not can_solve(TimeMLP(2, hidden=(4,) * 8), joint=False)
    assert not can_solve(TimeMLP(2, hidden=()), joint=False)
    assert not can_solve(TimeMLP(2, activation="gelu"), joint=False)
    assert not use_native(bj.Continuous(TimeMLP(2), steps=None))
    assert not use_native(bj.Continuous(TimeMLP(2), gradient="adjoint"))
    assert has_native(bj.cnf(2))
    assert not has_native(bj.cnf(2), solves=False)
    assert not has_native(bj.cnf(2, hidden=(4, 4, 4)))
    assert not has_native(bj.Continuous(TimeMLP(2), trace="hutchinson"))
    estimated = bj.Continuous(TimeMLP(2, hidden=(8,)), trace="hutchinson")  # its point alone is solved in kernels
    fast = copy.deepcopy(estimated)
    assert use_native(fast)
    x = torch.randn(5, 2)
    close([fast.encode(x), *fast.forward(x)], [estimated.encode(x), *estimated.forward(x)], 1e-5)


def test_on_and_off(calls):
    flow = bj.Flow(bj.Chain(pair(dtype=torch.float32)[0], bj.Standardize(2)), bj.StandardNormal(2))
    x = torch.randn(4, 2)
    use_native(flow)
    flow.log_prob(x)
    assert len(calls) == 1
    plain_layers(flow)
    flow.log_prob(x)
    assert len(calls) == 1
    bj.cnf(2, hidden=(8,)).compiled().log_prob(x)
    assert len(calls) == 2


def test_a_bad_row_spoils_no_other():
    _, fast = pair(dtype=torch.float32)
    x, _ = inputs(fast, 70, dtype=torch.float32)
    good = fast.forward(x)
    bad = x.clone()
    bad[3, 0], bad[66, 1], bad[69, 0] = float("nan"), float("inf"), float("nan")
    seen = fast.forward(bad)
    keep = [i for i in range(70) if i not in (3, 66, 69)]
    for a, b in zip(seen, good, strict=True):
        assert torch.equal(a[keep], b[keep])
    assert seen[1][3].isnan()
    assert seen[0][69].isnan().any()


def test_threads_share_the_blocks(monkeypatch):
    layer, fast = pair(3, 2, dtype=torch.float32)
    x, c = inputs(layer, 64 * 4 + 5, dtype=torch.float32)
    one = derivatives(fast, "forward", x, c)
    monkeypatch.setattr(native_field, "WORTH", 0)
    native_field._program.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = derivatives(fast, "forward", x, c)
    native_field._program.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(one[:4], three[:4], strict=True))
    close(three, one, 1e-6)


def test_weights_are_followed_and_guarded():
    layer, fast = pair()
    x, _ = inputs(layer, 9)
    for f in (layer, fast):
        with torch.no_grad():
            for p in f.parameters():
                p.mul_(1.3)
    close(fast.forward(x), layer.forward(x), 1e-12)
    y, _ = fast.forward(x)
    with torch.no_grad():
        fast.field.net.head.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_part_of_the_weights_frozen():
    layer, fast = pair()
    x, _ = inputs(layer, 9)
    for f in (layer, fast):
        f.requires_grad_(requires_grad=False)
        f.field.net.head.bias.requires_grad_()
    for way in WAYS:
        results = [f.field.net.head.bias for f in (fast, layer)]
        grads = [
            torch.autograd.grad(getattr(f, way)(x)[1].sum(), p) for f, p in zip((fast, layer), results, strict=True)
        ]
        close(*grads, 1e-12)
        assert not getattr(fast.eval(), way)(x)[0].is_leaf


def test_copies_run_their_own_weights(tmp_path, calls):
    torch.manual_seed(0)
    flow = bj.testing.randomize(bj.cnf(3, 2, hidden=(8, 8)), seed=0, scale=0.3)
    x, c = torch.randn(20, 3), torch.randn(20, 2)
    expected = flow.log_prob(x, c)
    fast = flow.compiled()
    copies = [fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.frozen(), flow.frozen().compiled()]
    for number, again in enumerate(copies):
        torch.testing.assert_close(again.log_prob(x, c), expected, rtol=1e-5, atol=1e-5)
        assert len(calls) == number + 1
    with torch.no_grad():
        for p in copies[1].parameters():
            p.zero_()
    assert not torch.allclose(copies[1].log_prob(x, c), expected, atol=1e-2)
    torch.testing.assert_close(fast.log_prob(x, c), expected, rtol=1e-5, atol=1e-5)
    bj.save(fast, tmp_path)
    again = bj.load(tmp_path)
    assert again.transform._kernels is None
    torch.testing.assert_close(again.log_prob(x, c), expected, rtol=1e-5, atol=1e-5)


def test_matching_reads_the_field_alone():
    """There is nothing for the kernels in it, and ``compile="always"`` compiles it as a whole as ever."""
    flow = bj.cnf(2, hidden=(8, 8))
    for objective, found in ((bj.nll, "plain steps ahead"), (bj.objectives.FlowMatching(), "no kernels")):
        compilation = Compilation("auto", flow, objective)
        assert not compilation.begin(1, 256, math.inf, earlier=None)
        assert found in compilation.why


def test_fit_trains_in_kernels(calls):
    torch.manual_seed(0)
    flow = bj.cnf(2, hidden=(8, 8), steps=2)
    bj.fit(flow, torch.randn(200, 2), config=bj.FitConfig(epochs=2, compile="always"))
    assert calls
    assert flow.transform._kernels is None

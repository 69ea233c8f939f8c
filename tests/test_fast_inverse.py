"""Jacobi and Gauss-Seidel-Jacobi inverses of autoregressive layers: equal to the incremental one, and never in the way."""

import copy

import pytest
import torch
from torch.autograd import forward_ad

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.ops.eager import is_plain
from laws.cases import randomize

F64 = torch.float64
ITERATIVE = ["jacobi", "gauss-seidel-jacobi"]


def build(features=40, context=0, bijection=None, method="auto", seed=0, **kw):
    torch.manual_seed(seed)
    layer = bj.Autoregressive(bijection or bj.Affine(), features, context, (48, 48), inverse_method=method, **kw)
    return randomize(layer, seed).double()


@pytest.fixture
def iterations(monkeypatch):
    """Counts how often a layer iterates."""
    calls = []
    iterate = bj.nets.MaskedMLP.iterate

    def counted(self, *args, **kw):
        calls.append(kw["block"])
        return iterate(self, *args, **kw)

    monkeypatch.setattr(bj.nets.MaskedMLP, "iterate", counted)
    return calls


@pytest.mark.parametrize("family", [bj.Affine(), bj.RationalQuadratic(4, 3.0), bj.SinhArcsinh()], ids=str)
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("method", ITERATIVE)
def test_iterations_equal_the_incremental_inverse(method, context, family):
    layer = build(context=context, bijection=family)
    z = torch.randn(5, 7, 40, dtype=F64)
    c = torch.randn(7, 3, dtype=F64) if context else None
    with torch.no_grad():
        want, want_ladj = layer.inverse(z, c)
        got = layer.solve_inverse(z, c, method=method)
    # Products are summed in another order by other processors, and the steepest of these maps multiply a rounding by 1e8.
    loose = 1e5 if isinstance(family, bj.SinhArcsinh) else 1.0
    assert torch.allclose(got.x, want, rtol=1e-11 * loose, atol=1e-11 * loose)
    assert torch.allclose(got.ladj, want_ladj, rtol=1e-10 * loose, atol=1e-10 * loose)
    assert got.residual.shape == (5, 7)
    assert got.residual.max() < 1e-10
    assert got.sweeps < 40 * (1 if method == "jacobi" else 3)


@pytest.mark.parametrize("method", ["incremental", *ITERATIVE])
@pytest.mark.parametrize("shape", [(), (7,), (5, 7), (0,)])
def test_batch_shapes(shape, method):
    layer = build(20)
    z = torch.randn(*shape, 20, dtype=F64)
    with torch.no_grad():
        x, ladj, sweeps, residual = layer.solve_inverse(z, method=method)
        want = layer.solve_inverse(z, method="incremental")
    assert x.shape == z.shape
    assert ladj.shape == residual.shape == shape
    assert sweeps >= 1
    assert torch.allclose(x, want.x, atol=1e-11)
    assert torch.allclose(ladj, want.ladj, atol=1e-11)


def test_each_sweep_makes_one_more_level_exact_whatever_the_guess():
    order = (3, 0, 4, 1, 5, 2)
    layer = build(6, order=order)
    z = torch.randn(50, 6, dtype=F64)
    with torch.no_grad():
        want = layer.inverse(z)[0][:, list(order)]
        for k in range(1, 7):
            got = layer.solve_inverse(z, method="jacobi", tolerance=0.0, max_sweeps=k)
            assert got.sweeps == k
            error = (got.x[:, list(order)] - want).abs().amax(0)
            assert (error[:k] < 1e-13).all()
            assert k > 3 or (error[k:] > 1e-9).all()
        assert layer.solve_inverse(z, method="jacobi", max_sweeps=2).residual.max() > 1e-6


def test_graph_of_few_levels_needs_few_sweeps():
    graph = torch.zeros(30, 30, dtype=torch.bool)
    graph[10:20, :10] = graph[20:, 10:20] = True  # three levels
    torch.manual_seed(0)
    layer = randomize(bj.Autoregressive(bj.Affine(), 30, hidden=(32,), adjacency=graph)).double()
    with torch.no_grad():
        z = torch.randn(9, 30, dtype=F64)
        got = layer.solve_inverse(z, method="jacobi", tolerance=0.0)
        assert got.sweeps <= 3
        assert torch.allclose(got.x, layer.solve_inverse(z, method="incremental").x, atol=1e-13)


def test_looser_tolerance_takes_fewer_sweeps_and_has_a_larger_residual():
    layer, z = build(), torch.randn(20, 40, dtype=F64)
    with torch.no_grad():
        loose, tight = (layer.solve_inverse(z, method="jacobi", tolerance=t) for t in (1e-2, 1e-12))
    assert loose.sweeps < tight.sweeps
    assert tight.residual.max() < 1e-11 < loose.residual.max() < 1e-1


@pytest.mark.parametrize(("features", "rows", "blocks"), [(40, 8, [40]), (40, 8192, []), (6, 1, [])])
def test_auto_iterates_for_few_rows_of_many_features(iterations, features, rows, blocks):
    layer = build(features)
    with torch.no_grad():
        layer.inverse(torch.randn(rows, features, dtype=F64))
    assert iterations == blocks


def test_gradients_come_by_the_incremental_inverse(iterations):
    layer = build(20, context=3, method="jacobi")
    z, c = torch.randn(4, 20, dtype=F64), torch.randn(4, 3, dtype=F64)
    x, ladj = layer.inverse(z, c)
    grads = torch.autograd.grad(x.sin().sum() + ladj.sum(), list(layer.parameters()))
    assert all(g.any() for g in grads)
    assert not iterations
    frozen = copy.deepcopy(layer).requires_grad_(requires_grad=False)
    for leaves in ((z.clone().requires_grad_(), c), (z, c.clone().requires_grad_())):
        assert torch.autograd.gradcheck(frozen.inverse, leaves, fast_mode=True)
    assert not iterations
    frozen.inverse(z, c)
    assert iterations == [20]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # forward mode inside torch
def test_captured_and_transformed_calls_never_iterate(iterations):
    layer = build(6, context=3, method="jacobi").requires_grad_(requires_grad=False)
    z, c = torch.randn(4, 6, dtype=F64), torch.randn(4, 3, dtype=F64)
    with torch.no_grad():
        want = layer.inverse(z, c)
    iterations.clear()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z, c: layer.inverse(z, c)[0]))(z, c)
    assert torch.allclose(torch.linalg.slogdet(jacobian).logabsdet, want[1], atol=1e-11)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer.inverse(forward_ad.make_dual(z, torch.ones_like(z)), c)[0]).tangent
    assert torch.allclose(tangent, jacobian.sum(-1), atol=1e-11)
    with torch.no_grad():
        rows = torch.func.vmap(lambda z, c: layer.inverse(z, c)[0])(z, c)
        captured = torch.compile(layer.inverse, backend="eager", fullgraph=True)(z, c)
        on_meta = copy.deepcopy(layer).to("meta").inverse(z.to("meta"), c.to("meta"))
    assert torch.allclose(rows, want[0], atol=1e-11)
    assert torch.allclose(captured[0], want[0], atol=1e-11)
    assert on_meta[0].shape == z.shape
    assert not iterations


class Back(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        return self.layer.inverse(z)[0]


def test_exports_with_a_free_batch():
    layer = build(4, method="jacobi").requires_grad_(requires_grad=False)
    z, batch = torch.randn(6, 4, dtype=F64), torch.export.Dim("batch", min=2, max=4096)
    with torch.no_grad():
        program = torch.export.export(Back(layer), (z,), dynamic_shapes=({0: batch},))
        assert torch.allclose(program.module()(z[:3]), layer.inverse(z[:3])[0], atol=1e-11)


def test_guess_that_overflows_falls_back_to_the_incremental_inverse(iterations):
    layer = bj.Autoregressive(bj.Affine(80.0), 3, hidden=(), inverse_method="jacobi")
    with torch.no_grad():
        weight, bias = torch.zeros(2, 3, 3), torch.zeros(2, 3)  # shifts, log-scales
        bias[0, 0] = 100.0  # x0 = z0 - 100
        weight[1, 1, 0] = -10.0  # x1 = z1 exp(10 x0), from the guess x0 = 100 nearly infinite,
        weight[0, 2, 1] = 1e5  # x2 = z2 - 1e5 x1, from the same guess infinite
        layer.net.head.weight.copy_(weight.flatten(0, 1))
        layer.net.head.bias.copy_(bias.flatten())
        z = torch.tensor([100.0, 1.0, 2.0])
        assert layer.solve_inverse(z, method="jacobi").x.isnan().any()
        x, ladj = layer.inverse(z)
    assert len(iterations) == 2
    assert torch.allclose(x, torch.tensor([0.0, 1.0, 2.0 - 1e5]))
    assert ladj == 0


def test_iteration_that_overflows_falls_back_and_rows_keep_to_themselves(iterations):
    layer = build(30, method="jacobi").float()
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(40.0)
        z = torch.randn(8, 30)
        want = layer.solve_inverse(z, method="incremental")
        got = layer.inverse(z)
        # The first features, before roundings (of another order on other processors) are multiplied beyond all measure.
        assert torch.allclose(got[0][:, :3], want.x[:, :3], rtol=1e-4)
        assert (got[0].abs() > 1e6).any()
        assert iterations
        tame = build(30, method="jacobi")
        z = torch.randn(8, 30, dtype=F64)
        clean = tame.inverse(z)[0]
        z[3, 7] = torch.nan
        spoiled = tame.inverse(z)[0]
    keep = torch.arange(8) != 3
    assert torch.allclose(spoiled[keep], clean[keep], atol=1e-12)
    assert spoiled[3, 7:].isnan().all()


def test_flow_samples_by_iteration_and_agrees_with_its_density(iterations):
    torch.manual_seed(0)
    flow = randomize(bj.maf(40, layers=2, hidden=(48,)), scale=0.2).double()
    x = flow.sample(16)
    assert iterations == [40, 40]
    x, log_prob = flow.rsample_and_log_prob(16)  # with gradients
    assert len(iterations) == 2
    assert torch.allclose(log_prob, flow.log_prob(x), atol=1e-9)


def test_method_is_stored(tmp_path):
    flow = bj.Flow(build(3, method="jacobi").float(), bj.StandardNormal(3))
    bj.save(flow, tmp_path / "flow")
    assert bj.load(tmp_path / "flow").transform.inverse_method == "jacobi"


def test_plain_means_that_values_may_be_read():
    x, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    assert is_plain(x)
    assert is_plain(x, (None, x))
    assert not is_plain(x, (leaf,))
    assert not is_plain(leaf)
    with torch.no_grad():
        assert is_plain(leaf)
    seen = []
    torch.func.vmap(lambda v: seen.append(is_plain(v)) or v)(torch.ones(3, 2))
    assert seen == [False]


@pytest.mark.parametrize(
    ("kw", "words"),
    [
        ({"method": "newton"}, "jacobi"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"max_sweeps": 0}, "max_sweeps"),
        ({"method": "jacobi"}, "no_grad"),
    ],
)
def test_bad_arguments(kw, words):
    with pytest.raises(ConfigError, match=words):
        build(3).solve_inverse(torch.zeros(3, dtype=F64), **kw)
    with pytest.raises(ConfigError, match="incremental"):
        bj.Autoregressive(bj.Affine(), 3, inverse_method="newton")

"""Native kernels: equal to the plain operations in every tail, direction and dtype; used where they can be, only there."""

import copy
import pickle
import shutil

import pytest
import torch

import bijectory as bj
from bijectory.ops import native as native_module
from bijectory.ops.native import is_native, library, native
from bijectory.ops.spline import SplineGrid, rational_quadratic, rational_quadratic_inverse
from bijectory.training import compilation as compilation_module
from bijectory.training.compilation import Compilation
from bijectory.transforms import fused
from bijectory.transforms.chain import has_native, use_native
from bijectory.transforms.regions import RegionWarning

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
needs_compiler = pytest.mark.skipif(native_module.compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """A cache of this module's own, so that the compilation is tested too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIJECTORY_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


@pytest.fixture
def _forget():
    """Nothing loaded before and after."""
    for cached in (library, native_module.function):
        cached.cache_clear()
    yield
    for cached in (library, native_module.function):
        cached.cache_clear()


def case(tails, bins, dtype, *, rows=70, features=3, spread=1.0):
    g = torch.Generator().manual_seed(bins)
    grid = SplineGrid(bins, 2.0, tails)
    x = torch.randn(features, rows, generator=g, dtype=torch.float64) * 1.5
    x[0, : min(6, rows)] = torch.tensor([2.0, -2.0, 1e6, -1e6, 0.0, -0.0])[:rows]
    phi = torch.randn(grid.n_params, features, rows, generator=g, dtype=torch.float64) * spread
    return x.t().to(dtype), phi.transpose(1, 2).to(dtype), grid


def results(f, x, phi, grid):
    x, phi = x.detach().clone().requires_grad_(), phi.detach().clone().requires_grad_()
    y, ladj = f(x, phi, grid)
    w = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    ((y * w).sum() + (ladj * w.flip(0)).sum()).backward()
    return [t.detach() for t in (y, ladj, x.grad, phi.grad)]


@needs_compiler
@pytest.mark.parametrize("f", [rational_quadratic, rational_quadratic_inverse])
@pytest.mark.parametrize("tails", ["identity", "linear", "circular"])
@pytest.mark.parametrize("bins", [2, 3, 8])
def test_equal_to_the_plain_operations(f, tails, bins):
    """In float64 to rounding; in float32 as close to float64 as the plain operations, within a factor."""
    x, phi, grid = case(tails, bins, torch.float64)
    truth = results(f, x, phi, grid)
    with native():
        assert is_native(x, phi, grid)
        for ours, plain in zip(results(f, x, phi, grid), truth, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10 + 1e-13 * float(plain.abs().max()))
    x, phi, grid = case(tails, bins, torch.float32)
    keep = x.abs() < 100
    plain = results(f, x, phi, grid)
    with native():
        ours = results(f, x, phi, grid)
    for a, b, exact in zip(ours, plain, truth, strict=True):
        errors = [((v.double() - exact).abs() / (1 + exact.abs()))[..., keep].max() for v in (a, b)]
        assert errors[0] < 4 * errors[1] + 1e-6, errors


@needs_compiler
def test_extremes():
    grid = SplineGrid(8, 2.0)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.3, 1.9999999, -2.0])
    for scale in (0.0, 30.0, 1e4):
        phi = torch.randn(grid.n_params, 6, generator=torch.Generator().manual_seed(0)) * scale
        for f in (rational_quadratic, rational_quadratic_inverse):
            with native():
                y, ladj = f(x, phi, grid)
            assert y.isnan().tolist() == [True] + [False] * 5
            torch.testing.assert_close(y, f(x, phi, grid)[0], rtol=1e-4, atol=1e-5, equal_nan=True)
            assert ladj[1:].isfinite().all()
    phi = torch.zeros(grid.n_params, 6)
    with native():
        y, ladj = rational_quadratic(x, phi, grid)
        torch.testing.assert_close(y, x, equal_nan=True)
        assert ladj[1:].abs().max() < 1e-6
        bad = phi.clone()
        bad[2, 3] = float("nan")
        assert rational_quadratic(x, bad, grid)[0][3].isnan()


@needs_compiler
def test_a_split_over_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(native_module, "SHARE", 100)
    x, phi, grid = case("identity", 4, torch.float32, rows=333)
    with native():
        one = results(rational_quadratic, x, phi, grid)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        three = results(rational_quadratic, x, phi, grid)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@needs_compiler
def test_second_derivatives_are_those_of_the_plain_operations():
    x, phi, grid = case("linear", 3, torch.float64, rows=4)
    x = (x.clamp(-1.9, 1.9) * 0.9).contiguous()
    with native():
        for f in (rational_quadratic, rational_quadratic_inverse):
            inputs = (x[:2].clone().requires_grad_(), phi[:, :2].clone().requires_grad_())
            assert torch.autograd.gradcheck(lambda a, p, f=f: f(a, p, grid), inputs)
            assert torch.autograd.gradgradcheck(lambda a, p, f=f: f(a, p, grid), inputs)


@needs_compiler
def test_what_is_not_plain_takes_the_plain_operations():
    x, phi, grid = case("identity", 3, torch.float32)
    with native():
        assert not is_native(x, phi[..., :1], grid)  # broadcast
        assert not is_native(x.double(), phi, grid)
        assert not is_native(x.half(), phi.half(), grid)
        assert not is_native(x, phi, grid._replace(double=True))
        assert not is_native(x.to("meta"), phi.to("meta"), grid)
        assert not is_native(x, torch.zeros(3 * 65 - 1, *x.shape), grid._replace(bins=65))
        f = lambda v, p: rational_quadratic(v, p, grid)[0]
        torch.testing.assert_close(torch.func.vmap(f, in_dims=(0, 1))(x, phi), f(x, phi), rtol=1e-5, atol=1e-5)
        tangent = torch.func.jvp(lambda v: f(v, phi), (x,), (torch.ones_like(x),))[1]
    assert not is_native(x, phi, grid)
    torch.testing.assert_close(tangent, rational_quadratic(x, phi, grid)[1].exp(), rtol=1e-3, atol=1e-4)


def small(seed=0):
    torch.manual_seed(seed)
    return bj.nsf(3, layers=2, hidden=(8,), bins=4)


@pytest.fixture
def calls(monkeypatch):
    """Native calls: of runs of layers, and of single splines."""
    seen = []
    for module, name in ((native_module, "_call"), (fused, "run")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=real, n=name, **k: (seen.append(n), f(*a, **k))[1])
    return seen


@needs_compiler
def test_a_compiled_flow_is_the_flow(tmp_path, calls):
    flow = small()
    bj.testing.randomize(flow, seed=0, scale=0.3)
    fast, x = flow.compiled(), torch.randn(50, 3)
    for a, b in zip(fast.to_latent(x) + fast.to_data(x), flow.to_latent(x) + flow.to_data(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert calls == ["run"] * 2
    g = [torch.Generator().manual_seed(1) for _ in range(2)]
    torch.testing.assert_close(fast.sample(9, generator=g[0]), flow.sample(9, generator=g[1]), rtol=1e-4, atol=1e-5)
    calls.clear()
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), fast.frozen(), flow.frozen().compiled()):
        torch.testing.assert_close(again.log_prob(x), flow.log_prob(x), rtol=1e-4, atol=1e-4)
    assert calls == ["run"] * 4
    bj.save(fast, tmp_path)
    assert not bj.load(tmp_path).transform._kernels
    assert not flow.transform._kernels


@needs_compiler
def test_splines_with_other_conditioners(calls):
    """What is no run of whole layers still computes its splines in kernels."""
    torch.manual_seed(0)
    nets = [torch.nn.Linear(2, 46), torch.nn.Linear(2, 46)]
    for net in nets:
        net.forward = lambda x, c, f=net.forward: f(x)
    masks = [(True, True, False, False), (False, False, True, True)]
    layers = [bj.Coupling(bj.RationalQuadratic(8), m, net=net) for m, net in zip(masks, nets, strict=True)]
    flow = bj.Flow(bj.Chain(*layers), bj.StandardNormal(4))
    bj.testing.randomize(flow, seed=0, scale=0.3)
    fast, x = flow.compiled(), torch.randn(7, 4)
    for a, b in zip(fast.to_latent(x) + fast.to_data(x), flow.to_latent(x) + flow.to_data(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert calls == ["_call"] * 4


def test_nothing_to_compile_is_said():
    with pytest.warns(RegionWarning, match="nothing that the kernels know in Chain, Elementwise, Radial"):
        assert not bj.radial(2).compiled().transform._kernels
    assert not use_native(bj.radial(2))
    assert not has_native(bj.radial(2))


@pytest.mark.usefixtures("_forget")
def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    flow = small()
    with pytest.warns(RegionWarning, match="going on without: there is no C\\+\\+ compiler; install g\\+\\+") as seen:
        fast = flow.compiled()
    assert len(seen) == 1
    assert torch.equal(fast.log_prob(torch.zeros(2, 3)), flow.log_prob(torch.zeros(2, 3)))


@needs_compiler
@pytest.mark.usefixtures("_forget")
def test_a_compiler_that_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("BIJECTORY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native_module, "FLAGS", ("-O3", "-std=c++17", "-no-such-flag"))
    with pytest.raises(OSError, match=r"could not compile kernels\.cpp"):
        library()
    assert list(tmp_path.iterdir()) == []


@needs_compiler
@pytest.mark.usefixtures("_forget")
def test_compiled_once_for_a_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("BIJECTORY_CACHE_DIR", str(tmp_path))
    library()
    (made,) = tmp_path.iterdir()
    library.cache_clear()
    before = made.stat().st_mtime_ns
    library()
    assert [p.stat().st_mtime_ns for p in tmp_path.iterdir()] == [before]


# ---- in fit ----------------------------------------------------------------------------------------------------------


def config(**values):
    return bj.FitConfig(progress=False, **{"epochs": 2, "batch_size": 20, **values})


def rows():
    return torch.randn(90, 3, generator=torch.Generator().manual_seed(0))


@needs_compiler
def test_fit_gives_the_same(tmp_path, calls):
    expected = bj.fit(small(), rows(), config=config())
    assert not calls
    result = bj.fit(small(), rows(), config=config(compile="always"))
    assert result.best_val == pytest.approx(expected.best_val, abs=1e-4)
    assert len(calls) >= 10
    assert not result.model.transform._kernels

    # A continued run equals an uninterrupted one bit for bit.
    class StopAt(bj.Callback):
        def on_step(self, run):
            return run.step == 4

    bj.fit(small(), rows(), config=config(compile="always", out=tmp_path / "a"), callbacks=[StopAt()])
    parts = bj.fit(small(), rows(), config=config(compile="always", out=tmp_path / "a", resume=True))
    assert (parts.steps, parts.best_val) == (result.steps, result.best_val)
    assert all(torch.equal(a, b) for a, b in zip(parts.model.parameters(), result.model.parameters(), strict=True))


def test_models_without_splines_are_compiled_as_a_whole(monkeypatch):
    calls = []

    def count(f, **_):
        calls.append(f)
        return f

    monkeypatch.setattr(torch, "compile", count)
    bj.fit(bj.radial(3, layers=2), rows(), config=config(compile="always", epochs=1))
    assert calls == [bj.nll]


def test_an_error_in_the_backward_pass_gives_plain_steps(monkeypatch):
    """A compiler makes the backward pass when it is first needed."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise RuntimeError("no backward\nlong trace")

    monkeypatch.setattr(torch, "compile", lambda f, **_: lambda *args: Fails.apply(f(*args)))
    torch.manual_seed(0)
    expected = bj.fit(bj.radial(3, layers=1), rows(), config=config())
    torch.manual_seed(0)
    with pytest.warns(RegionWarning, match="going on without: no backward$") as seen:
        result = bj.fit(bj.radial(3, layers=1), rows(), config=config(compile="always"))
    assert len(seen) == 1
    assert result.best_val == expected.best_val


def feed(compilation, seconds, steps, ahead):
    for _ in range(steps):
        compilation.after_step(seconds, ahead)


def watch(model=None):
    model = small() if model is None else model
    return model, Compilation("auto", model, bj.nll, progress=True)


@needs_compiler
def test_auto_compiles_long_runs_and_keeps_what_is_faster(capsys):
    steps, settle = compilation_module.STEPS, compilation_module.SETTLE
    enough = 1.01 * compilation_module.WORTH * compilation_module.SECONDS
    for left in (enough, -enough / 0.01):  # seconds, or steps
        model, compilation = watch()
        feed(compilation, 0.01, steps - 1, left)
        assert not compilation.active
        feed(compilation, 0.01, 1, left)
        assert compilation.active
        assert model.transform._kernels
        feed(compilation, 0.005, settle + steps, left)
        assert (compilation.active, compilation.phase) == (True, "done")
        compilation.stop()
        assert not model.transform._kernels
    assert "compiled: 5.00 ms a step instead of 10.00, kept" in capsys.readouterr().err
    model, compilation = watch()
    feed(compilation, 0.01, 2 * steps + settle, enough)  # no faster
    assert not compilation.active
    assert not model.transform._kernels
    assert "taken back" in capsys.readouterr().err
    for model, left in ((small(), 0.9 * enough), (bj.radial(2), 1e6)):
        _, compilation = watch(model)
        feed(compilation, 0.01, steps, left)
        feed(compilation, 0.01, 100, 1e6)  # decided once
        assert not compilation.active


def test_auto_without_a_compiler_warns_once(monkeypatch):
    def missing(model):
        raise OSError("there is no C++ compiler")

    monkeypatch.setattr(compilation_module, "use_native", missing)
    model, compilation = watch()
    with pytest.warns(RegionWarning, match="no C\\+\\+ compiler") as seen:
        feed(compilation, 0.01, 200, 1e6)
    assert len(seen) == 1
    assert not model.transform._kernels


def test_auto_on_a_short_fit_changes_nothing():
    expected = bj.fit(small(), rows(), config=config(epochs=10))
    result = bj.fit(small(), rows(), config=config(epochs=10, compile="auto"))
    assert result.best_val == expected.best_val

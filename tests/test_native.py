"""Native kernels: equal to the plain operations in every tail, direction and dtype; used where they can be, only there."""

import copy
import math
import pickle
import shutil

import pytest
import torch

import bijectory as bj
from bijectory.ops import native as native_module
from bijectory.ops.native import is_native, library, native
from bijectory.ops.spline import rational_quadratic
from bijectory.training import compilation as compilation_module
from bijectory.training.compilation import Compilation, step_seconds
from bijectory.transforms import fused
from bijectory.transforms import sink as sink_module
from bijectory.transforms.chain import has_native, use_native
from bijectory.transforms.regions import RegionWarning
from spline_support import BOTH, case, check_extremes, check_float64, float32_errors, results, small

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


@needs_compiler
@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize("tails", ["identity", "linear", "circular"])
@pytest.mark.parametrize("bins", [2, 3, 8])
def test_equal_to_the_plain_operations(f, tails, bins):
    """In float64 to rounding; in float32 as close to float64 as the plain operations, within a factor."""
    x, phi, grid = case(tails, bins, torch.float64)
    with native():
        assert is_native(x, phi, grid)
    truth = check_float64(f, x, phi, grid)
    for ours, plain in float32_errors(f, *case(tails, bins, torch.float32), truth):
        assert ours.max() < 4 * plain.max() + 1e-6


@needs_compiler
def test_extremes():
    check_extremes()


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
        for f in BOTH:
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


@pytest.fixture
def calls(monkeypatch):
    """Native calls: of runs of layers, and of single splines."""
    seen = []
    for module, name in ((native_module, "_call"), (fused, "run"), (sink_module, "run")):
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


@needs_compiler
def test_gradients_of_a_fit_go_past_the_graph(monkeypatch):
    steps, real = [], sink_module.Sink.clear
    monkeypatch.setattr(sink_module.Sink, "clear", lambda sink: (steps.append(1), real(sink)))

    def fitted(objective=bj.nll, callbacks=(), **settings):
        torch.manual_seed(0)
        flow = bj.real_nvp(3, layers=2, hidden=(16,))
        return bj.fit(flow, rows(), objective=objective, callbacks=callbacks, config=config(**settings))

    want = fitted(compile="never", clip_norm=0.5, ema_decay=0.9)
    assert not steps
    found = fitted(compile="always", clip_norm=0.5, ema_decay=0.9)
    assert len(steps) == found.steps
    for a, b in zip(found.model.parameters(), want.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert a.grad is None  # nothing of the fit's is kept
    fitted(lambda model, batch: bj.nll(model, batch), compile="always")  # may differentiate as it likes: all as ever
    assert len(steps) == found.steps

    del steps[:]
    for gradient in ("total", "path"):
        losses = []
        for compiled in ("never", "always"):
            torch.manual_seed(0)
            flow = bj.planar(3, layers=3, acts_on="noise")
            free = bj.ReverseKL(lambda x: -x.square().sum(-1), gradient=gradient)
            losses.append(bj.fit(flow, rows(), objective=free, config=config(compile=compiled)).best_val)
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(steps) == 2 * found.steps
    del steps[:]

    class Freeze(bj.Callback):
        def on_step(self, run):
            run.model.log_prob(rows()).sum().backward()  # between steps all is as ever
            if run.step == 3:
                self.frozen = [(p.requires_grad_(False), p.detach().clone()) for p in list(run.model.parameters())[:2]]

    freeze = Freeze()
    fitted(callbacks=[freeze], compile="always", weight_decay=0.1)
    assert len(steps) == 3
    assert all(torch.equal(p, then) for p, then in freeze.frozen)  # not even decayed


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


def decide(steps=1e9, *, model=None, mode="auto", budget=math.inf, earlier=None):
    """What is decided, without compiling anything."""
    model = small() if model is None else model
    compilation = Compilation(mode, model, bj.nll)
    active = compilation.begin(steps, 256, budget, earlier=earlier)
    assert active == compilation.active
    compilation.stop()
    return active, compilation.why


@pytest.fixture
def _uncompiled(monkeypatch):
    monkeypatch.setattr(compilation_module, "use_native", has_native)


@pytest.mark.usefixtures("_uncompiled")
def test_auto_counts_the_work_ahead():
    step, enough = step_seconds(small(), 256), compilation_module.WORTH * compilation_module.SECONDS
    assert decide(1.01 * enough / step)[0]
    assert not decide(0.99 * enough / step)[0]
    # Whichever of steps and clock ends the run first.
    assert decide(math.inf, budget=1.01 * enough)[0]
    assert not decide(budget=0.99 * enough)[0]
    assert not decide(0.99 * enough / step, budget=1e9)[0]
    assert "s of plain steps ahead, worth it from 20 s" in decide()[1]


@pytest.mark.usefixtures("_uncompiled")
def test_modes():
    assert decide(1, mode="always")[0]
    assert not decide(mode="never")[0]
    assert not decide(mode="never", earlier=True)[0]
    assert decide(1, mode="always", earlier=False)[0]
    assert decide(1, earlier=True) == (True, "as the run began")
    assert decide(earlier=False) == (False, "as the run began")
    assert decide(model=bj.radial(2)) == (False, "there are no kernels for this model")
    assert decide(model=small().double())[0]


def test_auto_without_a_compiler_warns_once(monkeypatch):
    def missing(model):
        raise OSError("there is no C++ compiler")

    monkeypatch.setattr(compilation_module, "use_native", missing)
    expected = bj.fit(small(), rows(), config=config(epochs=20))
    monkeypatch.setattr(compilation_module, "SECONDS", 0.0)
    with pytest.warns(RegionWarning, match="no C\\+\\+ compiler") as seen:
        result = bj.fit(small(), rows(), config=config(epochs=20, compile="auto"))
    assert len(seen) == 1
    assert result.best_val == expected.best_val
    assert result.compilation == "plain steps: compile failed: there is no C++ compiler"


def test_auto_on_a_short_fit_changes_nothing(calls, capsys):
    expected = bj.fit(small(), rows(), config=config(epochs=10))
    result = bj.fit(small(), rows(), config=config(epochs=10, compile="auto").replace(progress=True))
    assert not calls
    assert result.best_val == expected.best_val
    assert result.compilation.startswith("plain steps: about ")
    assert result.compilation in capsys.readouterr().err


class StopAt4(bj.Callback):
    def on_step(self, run):
        return run.step == 4


@needs_compiler
@pytest.mark.parametrize("native_first", [False, True])
def test_a_continued_run_goes_on_as_it_began(tmp_path, monkeypatch, calls, native_first):
    """Bit for bit, though what would be decided now is the other way."""

    def cost(*, pays):
        monkeypatch.setattr(compilation_module, "SECONDS", 0.0 if pays else 1e9)

    cost(pays=native_first)
    whole = bj.fit(small(), rows(), config=config(epochs=4, compile="auto"))
    assert bool(calls) == native_first
    for again in ("auto", "never", "always"):
        out = tmp_path / again
        cost(pays=native_first)
        bj.fit(small(), rows(), config=config(epochs=4, compile="auto", out=out), callbacks=[StopAt4()])
        cost(pays=not native_first)
        calls.clear()
        parts = bj.fit(small(), rows(), config=config(epochs=4, compile=again, out=out, resume=True))
        kept = native_first if again == "auto" else again == "always"
        assert bool(calls) == kept
        assert (parts.steps, parts.best_val) == (whole.steps, pytest.approx(whole.best_val, abs=1e-4))
        if kept == native_first:
            assert parts.best_val == whole.best_val
            assert all(
                torch.equal(a, b) for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True)
            )


def test_a_run_that_had_to_go_plain_stays_plain(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_module, "SECONDS", 0.0)
    monkeypatch.setattr(compilation_module, "use_native", lambda model: True)
    failed = []

    class Fails(bj.Callback):
        def on_step(self, run):
            if run.step == 2 and not failed:
                failed.append(1)
                handles.append(run.model.register_forward_hook(self.fail))
            return run.step == 4

        def fail(self, *_):
            handles.pop().remove()
            raise RuntimeError("bad kernel")

    handles = []
    settings = {"epochs": 4, "compile": "auto", "out": tmp_path / "run"}
    with pytest.warns(RegionWarning, match="going on without: bad kernel"):
        stopped = bj.fit(small(), rows(), config=config(**settings), callbacks=[Fails()])
    assert stopped.compilation == "plain steps: compile failed: bad kernel"
    assert (
        bj.fit(small(), rows(), config=config(**settings, resume=True)).compilation == "plain steps: as the run began"
    )

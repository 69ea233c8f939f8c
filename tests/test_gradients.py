"""Captured steps and reduced precision: what a graph may hold, that it changes nothing, and what autocast leaves alone.

Without a GPU a tape stands for the CUDA graph: it records every operation of a step with the tensors that it read and
wrote, and repeats them on the same memory, with all numbers from Python as they were. That is what a graph does, short of
its kernels.
"""

import math
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bijectory as bj
from bijectory.errors import CheckpointError, ConfigError, DtypeError
from bijectory.objectives import Batch, nll
from bijectory.training import gradients as gradients_module
from bijectory.training.compilation import Compilation
from bijectory.training.gradients import Gradients, graphable
from bijectory.training.update import Update
from bijectory.transforms import chain as chain_module
from bijectory.transforms.regions import RegionWarning

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Tape(TorchDispatchMode):
    """Operations in order, with their arguments and results."""

    def __init__(self):
        super().__init__()
        self.steps, self.replays = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nlong trace")
        self.steps.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self.steps:
            read = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.untyped_storage().data_ptr() not in read:
                    old.copy_(new)


@pytest.fixture
def tapes(monkeypatch):
    """A GPU, or tapes in the place of its graphs; the tapes made so far."""
    made = []
    if DEVICE == "cuda":
        inner = gradients_module.capture
        monkeypatch.setattr(gradients_module, "capture", lambda f, device: (made.append(None), inner(f, device))[1])
        return made

    def capture(function, device):
        tape = Tape()
        with tape:
            result = function()
        made.append(tape)
        return result, torch.no_grad()(tape.replay)

    for module in (gradients_module, chain_module):  # then no kernels of the CPU either, which no tape records
        monkeypatch.setattr(module, "on_gpu", lambda device: True)
    monkeypatch.setattr(gradients_module, "warm_up", lambda function, device: [function() for _ in range(3)])
    monkeypatch.setattr(gradients_module, "capture", capture)
    return made


def flow(seed=0, **more):
    torch.manual_seed(seed)
    return bj.real_nvp(3, layers=2, hidden=(8,), **more).to(DEVICE)


def rows(n=90):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def config(**values):
    return bj.FitConfig(progress=False, **{"epochs": 3, "batch_size": 20, **values})


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


# ---- captured steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_captured_steps_are_the_plain_ones(tapes, weighted):
    """Bit for bit: schedule, clipping, average, a last batch that is smaller, and the share of weighted batches."""
    weight = torch.rand(90, generator=torch.Generator().manual_seed(1)) + 0.1 if weighted else None
    data = (rows(), None, weight)
    plain = bj.fit(flow(), data, config=config(ema_decay=0.9, clip_norm=1.0))
    fast = bj.fit(flow(), data, config=config(ema_decay=0.9, clip_norm=1.0, compile="always"))
    assert len(tapes) == 1
    assert [r["train_loss"] for r in fast.history] == pytest.approx([r["train_loss"] for r in plain.history], rel=1e-6)
    if DEVICE == "cpu":
        assert tapes[0].replays == 3 * 4 - 1 + 1  # full batches, the first of them plain; one more for the comparison
        assert same(plain.model, fast.model)


def test_with_a_context(tapes):
    data = (rows(), torch.randn(90, 2, generator=torch.Generator().manual_seed(1)))
    plain = bj.fit(flow(context=2), data, config=config())
    fast = bj.fit(flow(context=2), data, config=config(compile="always"))
    assert len(tapes) == 1
    assert fast.best_val == pytest.approx(plain.best_val, abs=1e-5)
    assert DEVICE == "cuda" or same(plain.model, fast.model)


@pytest.mark.usefixtures("tapes")
def test_the_guard_still_sees_every_step(monkeypatch):
    """A bad step changes no parameter; after too many the best weights come back, into the memory that the graph reads."""
    from bijectory.training import guard

    monkeypatch.setattr(guard, "MAX_STREAK", 2)
    x = rows(100)
    x[::3] *= 1e30  # finite rows whose density is not
    runs = [bj.fit(flow(), x, config=config(compile=mode, validation_fraction=0)) for mode in ("never", "always")]
    assert runs[0].skipped == runs[1].skipped > 0
    assert runs[0].stop_reason == runs[1].stop_reason
    assert DEVICE == "cuda" or same(runs[0].model, runs[1].model)


def test_a_bad_batch_is_skipped_in_a_captured_step(tapes):
    x = torch.cat([rows(80), torch.full((1, 3), 1e30)])
    runs = [
        bj.fit(flow(), x, config=config(compile=mode, epochs=8, validation_fraction=0)) for mode in ("never", "always")
    ]
    assert 0 < runs[0].skipped == runs[1].skipped < runs[0].steps
    assert len(tapes) >= 1
    assert DEVICE == "cuda" or same(runs[0].model, runs[1].model)


def test_captured_again_when_parameters_change(tapes):
    class Freeze(bj.Callback):
        def on_step(self, run):
            if run.step == 5:
                next(iter(run.model.parameters())).requires_grad_(requires_grad=False)

    runs = [bj.fit(flow(), rows(), config=config(compile=mode), callbacks=[Freeze()]) for mode in ("never", "always")]
    assert len(tapes) == 2
    assert DEVICE == "cuda" or same(runs[0].model, runs[1].model)


def test_what_cannot_be_captured_is_said_once(tapes):
    """An operation that reads a value, as an adaptive solver does: one warning, plain steps, nothing else changed."""

    class Reads(bj.Elementwise):
        def forward(self, x, c=None):
            self.log = getattr(self, "log", 0) + 1
            return super().forward(x * (1.0 if x.sum().item() < 1e9 else 2.0), c)

    def model():
        torch.manual_seed(0)
        return bj.Flow(bj.Chain(Reads(bj.Affine(), 3)), bj.StandardNormal(3)).to(DEVICE)

    plain = bj.fit(model(), rows(), config=config())
    with pytest.warns(RegionWarning, match="capturing the step failed, going on without: ") as seen:
        fast = bj.fit(model(), rows(), config=config(compile="always"))
    assert len(seen) == 1
    assert tapes == []
    assert fast.best_val == plain.best_val


@pytest.mark.usefixtures("tapes")
def test_what_python_computes_is_found_out():
    """A graph would freeze it, so a captured step that disagrees with a plain one on other rows is not used."""

    class Counts(bj.Elementwise):
        def forward(self, x, c=None):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x * self.calls, c)

    model = bj.Flow(bj.Chain(Counts(bj.Affine(), 3)), bj.StandardNormal(3)).to(DEVICE)
    with pytest.warns(RegionWarning, match="it gives .* where a plain step gives") as seen:
        bj.fit(model, rows(), config=config(compile="always"))
    assert len(seen) == 1


@pytest.mark.usefixtures("tapes")
def test_capturing_leaves_random_states_and_buffers_alone():
    class Noisy(bj.Elementwise):
        def __init__(self):
            super().__init__(bj.Affine(), 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x, c=None):
            if self.training:
                self.seen += 1
                torch.rand(1, device=x.device)
            return super().forward(x, c)

    results = []
    for capture in (False, True):
        torch.manual_seed(0)
        model = bj.Flow(bj.Chain(Noisy()), bj.StandardNormal(3)).to(DEVICE)
        x = rows(20).to(DEVICE)
        step = gradients_of(model, x)
        step(nll, Batch(x), 1.0, capture=capture)
        assert (step.graph is not None) == capture
        results.append((model.transform[0].seen.item(), torch.rand(1, device=DEVICE).item()))
    assert results[0] == results[1] == (1.0, results[0][1])


def gradients_of(model, x):
    params = list(model.parameters())
    return Gradients(model, params, Batch(x), "full", Update(torch.optim.AdamW(params), params))


def test_only_the_likelihood_of_exact_flows_is_captured(tapes):
    assert graphable(flow(), nll)
    assert not graphable(flow(), lambda model, batch: nll(model, batch))
    assert not graphable(bj.residual(2, layers=1, ladj="roulette"), nll)
    assert not graphable(bj.ffjord(2, layers=1), nll)
    assert not graphable(torch.nn.Linear(2, 2), nll)
    bj.fit(flow(), rows(), config=config())
    assert tapes == []


class Devices(TorchDispatchMode):
    """Which devices the tensors of all operations are on."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found |= {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
        return out


@pytest.mark.parametrize("recipe", ["nsf", "nsf_ar", "real_nvp", "maf", "gin", "planar", "tarflow", "glow"])
def test_a_step_reads_no_value_and_makes_nothing_on_the_cpu(recipe, monkeypatch):
    """On a device without values, where reading one raises: what a capture would refuse."""
    for module in list(sys.modules.values()):  # the ways of plain calls, which such tensors do not take by themselves
        if module.__name__.startswith("bijectory.") and hasattr(module, "is_direct"):
            monkeypatch.setattr(module, "is_direct", lambda x: True)
    event = (3, 8, 8) if recipe == "glow" else 4
    model = getattr(bj, recipe)(event).to("meta")
    x = torch.empty(16, *(event if isinstance(event, tuple) else (event,)), device="meta")
    step = gradients_of(model, x)
    with Devices() as devices:
        step.plain(nll, Batch(x), 1.0)
    assert devices.found == {"meta"}


def test_nothing_is_captured_on_a_cpu():
    cpu = flow().cpu()
    assert not graphable(cpu, nll)
    assert not Compilation("always", cpu, nll).captures


@pytest.mark.usefixtures("tapes")
def test_auto_captures_long_runs():
    for budget, earlier, captures in ((1e6, None, True), (1e-6, None, False), (1e-6, True, True), (1e6, False, False)):
        compilation = Compilation("auto", flow(), nll)
        compilation.begin(math.inf, 20, budget, earlier=earlier)
        assert compilation.captures == captures


# ---- precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [bj.real_nvp, bj.nsf, bj.maf])
def test_bf16_trains_float32_parameters(recipe):
    def model():
        torch.manual_seed(0)
        return recipe(3, layers=2, hidden=(32,)).to(DEVICE)

    seen = []

    def watched(m, batch):
        loss = nll(m, batch)
        seen.append((loss.dtype, torch.is_autocast_enabled(DEVICE)))
        return loss

    x = rows(400) * torch.tensor([1.0, 3.0, 0.3]) + 1
    full = bj.fit(model(), x, config=config(epochs=10, batch_size=64))
    half = bj.fit(model(), x, config=config(epochs=10, batch_size=64, precision="bf16"), objective=watched)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in half.model.parameters() if p.grad is not None} == {torch.float32}
    assert set(seen) == {(torch.float32, True), (torch.float32, False)}  # training, and validation in full precision
    assert half.history[-1]["train_loss"] != full.history[-1]["train_loss"]
    assert half.best_val == pytest.approx(full.best_val, abs=0.05)
    assert half.best_val < half.history[0]["val_loss"] - 0.1


def test_bf16_and_captured(tapes):
    runs = [bj.fit(flow(), rows(), config=config(compile=mode, precision="bf16")) for mode in ("never", "always")]
    assert len(tapes) == 1
    assert runs[1].best_val == pytest.approx(runs[0].best_val, abs=1e-3)
    assert math.isfinite(runs[1].best_val)
    assert DEVICE == "cuda" or same(runs[0].model, runs[1].model)


def test_precision_is_checked_and_part_of_a_run(tmp_path):
    with pytest.raises(DtypeError, match=r"precision='bf16' is for float32 models, this one holds torch.float64"):
        bj.fit(flow().double(), rows().double(), config=config(precision="bf16"))
    with pytest.raises(ConfigError, match="precision='half' is not valid"):
        config(precision="half")

    class Stop(bj.Callback):
        def on_step(self, run):
            return run.step == 2

    bj.fit(flow(), rows(), config=config(out=tmp_path), callbacks=[Stop()])
    with pytest.raises(CheckpointError, match="precision was 'full', is now 'bf16'"):
        bj.fit(flow(), rows(), config=config(out=tmp_path, resume=True, precision="bf16"))

"""The training loop: exact weighting, guard, early stopping, averaging, budgets, bad input."""

import functools
import json
import math
import random
import sys
import threading
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.objectives import Batch, nll
from bijectory.training import Callback, Data, FitConfig, fit
from bijectory.training import data as data_module
from bijectory.training import progress as progress_module

quiet = functools.partial(FitConfig, progress=False)


def rows(n=60, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def flow(d=2, context=0, seed=0):
    torch.manual_seed(seed)
    return bj.real_nvp(d, context, layers=2, hidden=(8,))


class Gaussian(nn.Module):
    """A module that knows nothing of flows: N(mean, 1), with a switch that spoils its output."""

    def __init__(self, d=2):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(d))
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.bad = 0, ()

    def forward(self, x, c=None):
        if self.training:
            spoil = math.nan if self.calls in self.bad else 0.0
            self.calls += 1
            self.seen += x.mean().detach() + spoil
            x = x + spoil
        return -0.5 * (x - self.mean).square().sum(-1)


class Watch(Callback):
    def __init__(self, look):
        self.look, self.seen = look, []

    def on_step(self, run):
        self.seen.append(self.look(run))


# ---- what is optimised --------------------------------------------------------------------------------------------------


def test_weights_equal_duplicated_rows():
    x, k = rows(7).double(), torch.tensor([1, 2, 0, 3, 1, 1, 2])
    model = flow().double()
    twice = x.repeat_interleave(k, 0)
    assert torch.allclose(nll(model, Batch(x, None, k.double() * 0.3)), nll(model, Batch(twice)), rtol=1e-12)
    a, b = (
        fit(flow().double(), d, config=quiet(epochs=20, lr=1e-2, validation_fraction=0, batch_size=99)).model
        for d in ((x, None, k.double()), twice)
    )
    assert all(torch.allclose(p, q, atol=1e-8) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epoch_of_gradients_is_the_gradient_of_the_whole(weighted):
    """The small last batch counts as many rows as it has, a light one what its rows weigh."""
    x, w = rows(23), torch.rand(23, generator=torch.Generator().manual_seed(1)) if weighted else None
    watch = Watch(lambda run: (run.model.mean.grad.clone(), run.model.mean.detach().clone()))
    config = quiet(epochs=1, batch_size=8, lr=1e-12, clip_norm=None, validation_fraction=0)
    result = fit(Gaussian(), (x, None, w), config=config, callbacks=[watch])
    total = sum(g for g, _ in watch.seen) * 8 / 23
    model = Gaussian()
    loss = nll(model, Batch(x, None, w))
    loss.backward()
    assert len(watch.seen) == 3
    assert torch.allclose(total, model.mean.grad, atol=1e-6)
    assert result.history[0]["train_loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_every_epoch_has_the_loss_of_its_own_steps():
    seen = []

    def objective(model, batch):
        loss = nll(model, batch)
        seen.append(loss.item() * len(batch.x))
        return loss

    config = quiet(epochs=3, batch_size=8, lr=0.1, warmup_steps=0, validation_fraction=0)
    result = fit(Gaussian(), rows(23) + 5, objective=objective, config=config)
    means = [sum(seen[k : k + 3]) / 23 for k in (0, 3, 6)]
    assert [record["train_loss"] for record in result.history] == pytest.approx(means, rel=1e-12)
    assert means[0] > means[1] + 0.1 > means[2] + 0.2


def test_noise_follows_from_the_seed_alone():
    def objective(model, batch):
        noise = torch.randn(batch.x.shape) + np.random.normal() + random.gauss(0, 1)
        return nll(model, batch._replace(x=batch.x + noise))

    found = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(state)
        np.random.seed(state)
        random.seed(state)
        result = fit(Gaussian(), rows(), objective=objective, config=quiet(epochs=2, seed=seed))
        found.append((result.model.mean.tolist(), result.best_val))
    assert found[0] == found[1] != found[2]


def test_conditional_flow_learns_and_is_deterministic():
    c = rows(600, 1, seed=1)
    x = 2 * c + 0.1 * rows(600, 1)
    config = quiet(epochs=30, lr=1e-2, batch_size=64, warmup_steps=10)
    first = fit(flow(1, 1), (x, c), config=config)
    exact = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.1)
    assert first.best_val < exact + 0.25 < first.history[0]["val_loss"]
    assert not first.model.training
    second = fit(flow(1, 1), (x, c), config=config)
    assert all(torch.equal(p, q) for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True))
    other = fit(flow(1, 1), (x, c), config=config.replace(seed=1))
    assert other.best_val != first.best_val


def test_global_generators_are_left_alone():
    model = flow()
    states = lambda: (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
    before = states()
    fit(model, rows(), config=quiet(epochs=1))
    assert before == states()


def test_any_module_and_any_objective():
    net = nn.Linear(3, 1).double()
    x = rows(200, 3).double()
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]).double()
    squares = lambda m, b: (m(b.x) - b.c).square().mean()
    result = fit(net, (x, y), objective=squares, config=quiet(epochs=60, lr=0.05, batch_size=50))
    assert result.best_val < 1e-3


def test_explicit_validation_rows_and_chunks(monkeypatch):
    monkeypatch.setattr(sys.modules["bijectory.training.fit"], "CHUNK", 10)
    sizes, x_val = [], rows(25, seed=3)

    def objective(model, batch):
        if not model.training:
            sizes.append(len(batch.x))
        return nll(model, batch)

    w_val = torch.arange(25.0)
    result = fit(flow(), Data(rows(8), None, None, x_val, None, w_val), objective=objective,
                 config=quiet(epochs=1, batch_size=4))  # fmt: skip
    assert sizes == [10, 10, 5]
    assert result.best_val == pytest.approx(nll(result.model, Batch(x_val, None, w_val)).item(), abs=1e-5)


def test_one_validation_row_and_two_rows():
    result = fit(flow(), rows(2), config=quiet(epochs=3))
    assert result.stop_reason == "completed"
    assert math.isfinite(result.best_val)


def test_rows_pass_through_a_flow_only_if_a_layer_looks_at_them(monkeypatch):
    seen = []
    real = bj.Flow.initialize
    monkeypatch.setattr(bj.Flow, "initialize", lambda self, x, c=None: (seen.append(len(x)), real(self, x, c))[1])
    plain = lambda: bj.real_nvp(2, layers=2, hidden=(8,))
    fit(plain(), rows(), config=quiet(epochs=1))
    assert seen == []
    norm = bj.ActNorm(2)
    fit(bj.Flow(bj.Chain(*plain().transform, bj.Chain(norm)), bj.StandardNormal(2)), rows() * 9, config=quiet(epochs=1))
    assert seen == [54]
    assert norm.initialised


def test_initialize_is_called_once_with_training_rows():
    class Start(Gaussian):
        def initialize(self, x, c=None):
            self.given = (*getattr(self, "given", ()), len(x))
            with torch.no_grad():
                self.mean.copy_(x.mean(0))

    model = Start()
    fit(model, rows(50), config=quiet(epochs=2))
    assert model.given == (45,)


# ---- what is returned ---------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best():
    x, x_val = rows(20, 4), rows(20, 4, seed=9)
    config = quiet(epochs=400, lr=0.03, patience=10, batch_size=20, warmup_steps=0, schedule="constant")
    result = fit(flow(4), Data(x, x_val=x_val), config=config)
    values = [r["val_loss"] for r in result.history]
    assert result.stop_reason == "early_stopping"
    assert result.best_val == min(values) < values[-1]
    assert values[result.best_epoch - 1] == result.best_val
    assert result.steps == result.best_epoch + 200  # a patience of 10 epochs, each counting as 20 steps at least
    assert nll(result.model, Batch(x_val)).item() == pytest.approx(result.best_val, abs=1e-6)


def test_average_is_validated_and_returned():
    decay, x, x_val = 0.8, rows(40), rows(10, seed=4)
    shadows = [Gaussian().mean.detach().clone()]

    def follow(run):
        t = len(shadows) - 1
        beta = min(decay, (1 + t) / (10 + t))
        shadows.append(beta * shadows[-1] + (1 - beta) * run.model.mean.detach())

    config = quiet(epochs=4, ema_decay=decay, batch_size=10, lr=0.05, validation_fraction=0)
    last = fit(Gaussian(), x, config=config, callbacks=[Watch(follow)])
    assert torch.allclose(last.model.mean, shadows[-1], atol=1e-6)
    del shadows[1:]
    result = fit(Gaussian(), Data(x, x_val=x_val), config=config, callbacks=[Watch(follow)])
    model = Gaussian()
    for k, record in enumerate(result.history, 1):
        model.mean.data.copy_(shadows[4 * k])
        assert record["val_loss"] == pytest.approx(nll(model.eval(), Batch(x_val)).item(), abs=1e-6)
    assert torch.allclose(result.model.mean, shadows[4 * result.best_epoch], atol=1e-6)


def test_callback_stops_and_the_last_weights_come_back_before_any_validation():
    seen = []

    class Stop(Callback):
        def on_start(self, run):
            seen.append("start")

        def on_step(self, run):
            return run.step == 2

        def on_epoch(self, run, record):
            seen.append("epoch")

        def on_stop(self, run, result):
            seen.append(result.stop_reason)

    result = fit(Gaussian(), rows(100), config=quiet(batch_size=10, warmup_steps=0), callbacks=[Stop()])
    assert (result.stop_reason, result.steps, seen) == ("callback", 2, ["start", "callback"])
    assert result.model.mean.abs().min() > 1e-4
    assert math.isnan(result.best_val)


# ---- non-finite steps ---------------------------------------------------------------------------------------------------


def finite(run):
    return all(bool(t.isfinite().all()) for t in run.model.state_dict().values())


@pytest.mark.parametrize("bad", [(0,), (5,), (3, 4, 5), tuple(range(4, 13))])
def test_spoiled_activations_are_skipped_and_counted(bad):
    model, watch = Gaussian(), Watch(finite)
    model.bad = bad
    result = fit(model, rows(100) + 1, config=quiet(epochs=5, batch_size=10, lr=0.1, warmup_steps=0), callbacks=[watch])
    assert result.skipped == len(bad) == sum(r["skipped"] for r in result.history)
    assert all(watch.seen)
    assert result.stop_reason == "completed"
    assert result.model.mean.mean() > 0.5


def test_spoiled_gradients_are_skipped():
    model, watch = Gaussian(), Watch(finite)
    model.mean.register_hook(lambda g: g * math.inf if model.calls % 4 == 2 else g)
    result = fit(model, rows(40), config=quiet(epochs=4, batch_size=9), callbacks=[watch])
    assert result.skipped == 4
    assert all(watch.seen)


def test_huge_gradients_do_not_poison_the_moments():
    model = Gaussian()
    model.mean.register_hook(lambda g: g * 1e25 if model.calls == 3 else g)
    watch = Watch(lambda run: all(bool(v.isfinite().all()) for s in run.optimizer.state.values() for v in s.values()))
    result = fit(model, rows(40), config=quiet(epochs=4, batch_size=9, clip_norm=None), callbacks=[watch])
    assert result.skipped == 1
    assert all(watch.seen)


def test_long_gradients_are_shortened_before_the_step():
    """All of them by one factor, to a joint norm of ``clip_norm``; what is shorter is left as it is."""
    moments = lambda run: [run.optimizer.state[p]["exp_avg"].clone() for p in run.model.parameters()]
    first_step = {}
    for longest in (None, 0.5, 1e6):
        watch = Watch(lambda run: ([p.grad.clone() for p in run.model.parameters()], moments(run)))
        config = quiet(epochs=2, batch_size=60, clip_norm=longest, validation_fraction=0)
        fit(flow(), 20 * rows(60), config=config, callbacks=[watch])
        first_step[longest] = watch.seen[0]
    whole = first_step[None][0]
    norm = torch.cat([g.flatten() for g in whole]).norm()
    assert norm > 5
    for longest, factor in ((None, 1.0), (0.5, 0.5 / norm), (1e6, 1.0)):
        for g, moment, full in zip(*first_step[longest], whole, strict=True):
            assert torch.allclose(g, factor * full, rtol=1e-5)
            assert torch.allclose(moment, 0.1 * g, rtol=1e-5), "the optimiser saw another gradient"


def test_ten_bad_steps_restore_the_best_and_three_restores_end_the_fit():
    model = Gaussian()
    model.bad = range(20, 10**9)
    watch = Watch(lambda run: (run.step, run.restores, run.lr_scale, run.model.mean.detach().clone(), run.best["mean"]))
    result = fit(model, rows(100) + 1, config=quiet(epochs=50, batch_size=9, lr=0.1, warmup_steps=0), callbacks=[watch])
    assert result.stop_reason == "non_finite"
    assert result.steps == 20 + 4 * 10
    assert "step 59, 9 rows, loss nan: first non-finite output in model (Gaussian)" in result.report
    by_step = {s: rest for s, *rest in watch.seen}
    assert by_step[29][:2] == [0, 1.0]
    assert by_step[30][:2] == [1, 0.5]
    assert by_step[50][:2] == [3, 0.125]
    assert torch.equal(by_step[30][2], by_step[30][3])
    assert not torch.equal(by_step[29][2], by_step[29][3])
    assert finite(type("Run", (), {"model": result.model}))
    assert torch.equal(result.model.mean, by_step[30][3])


def test_poisoned_parameters_come_back_and_no_checkpoint_is_not_finite(tmp_path):
    class Poison(Callback):
        def on_step(self, run):
            if run.step == 25:
                with torch.no_grad():
                    run.model.mean.fill_(math.nan)

    with pytest.warns(UserWarning, match="not saved: the state is not finite"):
        result = fit(Gaussian(), rows(100) + 1, callbacks=[Poison()],
                     config=quiet(epochs=8, batch_size=9, out=tmp_path, checkpoint_every=0))  # fmt: skip
    assert result.skipped == 10
    assert result.model.mean.isfinite().all()


def test_diagnosis_names_the_layer():
    class Broken(nn.Module):
        def forward(self, x):
            return x * math.nan

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), Broken()

        def forward(self, x, c=None):
            return self.second(self.first(x)).sum(-1)

    result = fit(Model(), rows(40), config=quiet(epochs=80))
    assert result.stop_reason == "non_finite"
    assert "second (Broken)" in result.report
    assert "first.weight" in result.report


# ---- length and rate ----------------------------------------------------------------------------------------------------


def test_time_budget_ends_the_run_and_drives_the_cosine():
    watch = Watch(lambda run: (run.seconds, run.optimizer.param_groups[0]["lr"]))
    result = fit(flow(), rows(500), callbacks=[watch],
                 config=quiet(time_budget=0.5, patience=None, batch_size=50, warmup_steps=0))  # fmt: skip
    assert result.stop_reason == "time_budget"
    assert 0.5 <= result.seconds < 5
    (_, start), (_, end) = watch.seen[1], watch.seen[-1]
    assert start > 0.5e-3
    assert end < start / 2 or len(watch.seen) < 5
    assert result.history[-1]["step"] == result.steps  # the annealed weights are validated too


def test_plateau_halves():
    x = rows(30)
    config = quiet(
        epochs=800, schedule="plateau", plateau_patience=2, patience=None, lr=0.5, warmup_steps=0, batch_size=99
    )
    result = fit(Gaussian(), Data(x, x_val=x.clone()), config=config)
    rates = [r["lr"] for r in result.history]
    assert rates[0] == 0.5
    assert rates[-1] <= 0.125
    assert set(rates) <= {0.5 * 0.5**k for k in range(20)}


# ---- surroundings -------------------------------------------------------------------------------------------------------


def test_works_outside_the_main_thread():
    out = []
    thread = threading.Thread(target=lambda: out.append(fit(flow(), rows(), config=quiet(epochs=1)).stop_reason))
    thread.start()
    thread.join()
    assert out == ["completed"]


def test_progress_is_on_stderr_and_can_be_silent(capsys):
    fit(flow(), rows(), config=FitConfig(epochs=2))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "epoch 1  step 1  train " in shown.err
    assert "completed after 2 steps" in shown.err
    fit(flow(), rows(), config=quiet(epochs=2))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_its_cursor_back_after_an_error(capsys, monkeypatch):
    class Fails(Callback):
        def on_step(self, run):
            raise RuntimeError("no")

    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    with pytest.raises(RuntimeError, match="no"):
        fit(flow(), rows(), config=FitConfig(epochs=2), callbacks=[Fails()])
    shown = capsys.readouterr().err
    assert "\x1b[?25l" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_the_bar_moves_ten_times_a_second_at_most_and_with_every_epoch(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    updates = []
    bar = progress_module.Progress(lambda run: 0.5)
    monkeypatch.setattr(bar.bar, "update", lambda task, **fields: updates.append((clock[0], fields["step"])))
    run = types.SimpleNamespace(step=0, best_epoch=1)
    for step in range(1, 101):  # a hundred steps in a quarter of a second
        run.step, clock[0] = step, step * 0.0025
        bar.on_step(run)
    assert [step for _, step in updates] == [1, 41, 81]
    record = {"epoch": 1, "step": 100, "train_loss": 0.0, "val_loss": None, "lr": 0.1, "seconds": 0.25, "skipped": 0}
    bar.on_epoch(run, record)
    assert updates[-1][1] == 100


def test_metrics_are_json_lines(tmp_path):
    result = fit(flow(), rows(), config=quiet(epochs=3, out=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert list(lines[0]) == ["epoch", "step", "train_loss", "val_loss", "lr", "seconds", "skipped"]


def test_compile_gives_the_same_and_falls_back(monkeypatch):
    """Models without splines; what the others do is in test_native."""
    affine = lambda: bj.Flow(bj.Chain(bj.LU(2)), bj.StandardNormal(2))
    plain = fit(affine(), rows(), config=quiet(epochs=2, batch_size=20))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        fast = fit(affine(), rows(), config=quiet(epochs=2, batch_size=20, compile="always"))
    assert fast.best_val == pytest.approx(plain.best_val, abs=1e-6)

    def no_compiler(function, **_):
        def call(*_):
            raise RuntimeError("no compiler\nlong trace")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match="compile failed, going on without: no compiler$") as seen:
        slow = fit(affine(), rows(), config=quiet(epochs=2, batch_size=20, compile="always"))
    assert len(seen) == 1
    assert slow.best_val == plain.best_val


def test_split_is_seeded_disjoint_and_complete():
    x = torch.arange(40.0)[:, None]
    parts = [data_module.prepare(x, quiet(seed=s, validation_fraction=0.25), torch.device("cpu")) for s in (0, 0, 1)]
    (a, av), (b, bv), (_, cv) = parts
    assert torch.equal(a.x, b.x)
    assert torch.equal(av.x, bv.x)
    assert not torch.equal(av.x, cv.x)
    assert len(av) == 10
    assert sorted(torch.cat([a.x, av.x]).flatten().tolist()) == x.flatten().tolist()


@pytest.mark.parametrize("gathered", [1, 100, 1 << 18])
@pytest.mark.parametrize("start", [0, 3, 7, 10])
def test_batches_are_the_rows_in_order_wherever_they_begin(monkeypatch, gathered, start):
    monkeypatch.setattr(data_module, "GATHERED", gathered)
    x = torch.randn(97, 3, generator=torch.Generator().manual_seed(0))
    for c, weight in ((None, None), (x[:, :1], x[:, 0].abs())):
        made = data_module.Rows.make(x, c, weight)
        order = torch.randperm(97, generator=torch.Generator().manual_seed(1))
        found = list(made.batches(order, 10, start))
        assert len(found) == 10 - start
        for batch, rows_ in zip(found, order.split(10)[start:], strict=True):
            for ours, whole in zip(batch, (x, c, weight), strict=True):
                assert (ours is None) == (whole is None)
                assert whole is None or torch.equal(ours, whole[rows_])
        # Rounding in a product may hang on where a batch lies, so a continued epoch has them where they were.
        all_of_them = list(made.batches(order, 10, 0))[start:]
        assert [b.x.data_ptr() % 64 for b in found] == [b.x.data_ptr() % 64 for b in all_of_them]

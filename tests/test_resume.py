"""A continued run equals an uninterrupted one, bit for bit."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.objectives import nll
from bijectory.training import Callback, FitConfig, fit
from bijectory.training.checkpoint import Checkpoints

N = 75  # 67 training rows: 8 full batches and one of 3


def noisy(model, batch):
    """An objective that draws from every global generator."""
    noise = torch.randn(batch.x.shape) * 0.01 + np.random.normal() * 1e-3 + random.gauss(0, 1e-3)
    return nll(model, batch._replace(x=batch.x + noise))


def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(N, 3, generator=g), torch.randn(N, 2, generator=g), torch.rand(N, generator=g)


def model():
    torch.manual_seed(0)
    flow = bj.real_nvp(3, 2, layers=2, hidden=(8,))
    matrix = next(p for p in flow.parameters() if p.dim() == 2 and p.numel() > 1)
    matrix.data = matrix.data.T.contiguous().T  # factors of a matrix often lie in memory column by column
    return flow


def config(**changes):
    base = {"epochs": 5, "batch_size": 8, "lr": 1e-2, "warmup_steps": 3, "ema_decay": 0.9, "patience": None}
    return FitConfig(**{**base, "progress": False, **changes})


class StopAt(Callback):
    def __init__(self, step, how):
        self.step, self.how = step, how

    def on_step(self, run):
        if run.step != self.step:
            return False
        if self.how == "raise":
            raise KeyboardInterrupt
        if self.how != "return":
            os.kill(os.getpid(), self.how)
        return self.how == "return"


def stopped(out, step=20, **changes):
    """A run that stopped at a step; returns its config with resume on."""
    run = config(out=out, **changes)
    fit(model(), data(), config=run, callbacks=[StopAt(step, "return")])
    return run.replace(resume=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


REASONS = {"return": "callback", "raise": "interrupted", signal.SIGINT: "interrupted", signal.SIGTERM: "interrupted"}


@pytest.mark.parametrize("how", list(REASONS))
def test_resume_is_exact_at_any_step(tmp_path, how):
    changes = {"plateau_patience": 1, "schedule": "plateau"} if how == "raise" else {}
    whole = fit(model(), data(), objective=noisy, config=config(**changes))
    for step in [*random.Random(str(how)).sample(range(1, 45), 4), 9, 44]:
        run = config(**changes, out=tmp_path / str(step))
        first = fit(model(), data(), objective=noisy, config=run, callbacks=[StopAt(step, how)])
        assert (first.stop_reason, first.steps) == (REASONS[how], step)
        second = fit(model(), data(), objective=noisy, config=run.replace(resume=True))
        assert same(whole.model.state_dict(), second.model.state_dict())
        assert timeless(whole.history) == timeless(second.history)
        assert (whole.best_epoch, whole.best_val, whole.steps) == (second.best_epoch, second.best_val, second.steps)
        lines = (run.out / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == len(whole.history)


def test_resume_after_many_stops_and_skipped_steps(tmp_path):
    """Counters of the guard survive too: bad steps in a row are counted across a stop."""

    def spoiled(model, batch):
        return noisy(model, batch) * (math.nan if model.training and 12 <= next(calls) < 24 else 1.0)

    calls = iter(range(10**6))
    whole = fit(model(), data(), objective=spoiled, config=config())
    assert whole.skipped == 12
    calls, run = iter(range(10**6)), config(out=tmp_path)
    for step in (5, 15, 21, 22, 30):
        fit(model(), data(), objective=spoiled, config=run, callbacks=[StopAt(step, "return")])
        run = run.replace(resume=True)
    parts = fit(model(), data(), objective=spoiled, config=run)
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert timeless(whole.history) == timeless(parts.history)
    assert (whole.skipped, whole.best_val) == (parts.skipped, parts.best_val)


def test_resume_from_the_previous_checkpoint_is_exact(tmp_path):
    whole = fit(model(), data(), config=config())
    run = stopped(tmp_path, checkpoint_every=0)
    newest = tmp_path / "checkpoint" / "step-000000020.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="truncated.*last good one, step 19"):
        second = fit(model(), data(), config=run)
    assert same(whole.model.state_dict(), second.model.state_dict())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert timeless(lines) == timeless(whole.history)


def test_early_stopping_counts_across_a_stop(tmp_path):
    changes = {"epochs": 200, "patience": 1, "lr": 0.05, "schedule": "constant"}
    whole = fit(model(), data(), config=config(**changes))
    assert whole.stop_reason == "early_stopping"
    run = stopped(tmp_path, whole.steps - 5, **changes)
    second = fit(model(), data(), config=run)
    assert (second.stop_reason, second.steps, second.best_epoch) == ("early_stopping", whole.steps, whole.best_epoch)
    assert same(whole.model.state_dict(), second.model.state_dict())


def test_more_epochs_than_planned(tmp_path):
    run = stopped(tmp_path)
    assert fit(model(), data(), config=run).stop_reason == "completed"
    again = fit(model(), data(), config=run)
    assert (again.steps, len(again.history)) == (45, 5)
    longer = fit(model(), data(), config=run.replace(epochs=7))
    assert (longer.steps, len(longer.history)) == (63, 7)


def test_seconds_are_counted_across_parts(tmp_path):
    run = config(epochs=None, time_budget=0.3, out=tmp_path)
    first = fit(model(), data(), config=run)
    assert first.stop_reason == "time_budget"
    again = fit(model(), data(), config=run.replace(resume=True))
    assert (again.steps, again.stop_reason) == (first.steps, "time_budget")
    longer = fit(model(), data(), config=run.replace(resume=True, time_budget=first.seconds + 0.1))
    times = [record["seconds"] for record in longer.history]
    assert len(times) > len(first.history)
    assert times == sorted(times)
    assert longer.steps > first.steps
    assert longer.seconds >= first.seconds + 0.1


def test_initialize_is_not_called_on_resume(tmp_path):
    flow = model()
    run = stopped(tmp_path)
    flow.initialize = lambda *_: pytest.fail("called")
    fit(flow, data(), config=run)


@pytest.mark.parametrize(
    ("build", "rows", "changes", "words"),
    [
        (model, data, {"lr": 2e-2, "seed": 5}, ["lr was 0.01, is now 0.02", "seed was 0, is now 5"]),
        (model, lambda: (data()[0] + 1, *data()[1:]), {}, ["the data (x)"]),
        (model, lambda: (data()[0], data()[1], data()[2] * 2), {}, ["the data (weight)"]),
        (lambda: bj.real_nvp(3, 2, layers=3, hidden=(8,)), data, {}, ["another model", "is now float32"]),
        (lambda: bj.real_nvp(3, 2, layers=2, hidden=(9,)), data, {}, ["was float32(8, ", "is now float32(9, "]),
        (lambda: bj.real_nvp(3, 2, layers=2, hidden=(8,)).double(), lambda: tuple(t.double() for t in data()), {},
         ["the data (c, weight, x)"]),
        (lambda: bj.Flow(bj.Inverse(model().transform), bj.StandardNormal(3)), data, {}, ["another model"]),
        (lambda: halved(model()), data, {}, ["gives a loss of", "built with other settings"]),
    ],
)  # fmt: skip
def test_another_run_is_refused(tmp_path, build, rows, changes, words):
    run = stopped(tmp_path)
    with pytest.raises(CheckpointError) as info:
        fit(build(), rows(), config=run.replace(**changes))
    for word in words:
        assert word in str(info.value)
    assert fit(model(), data(), config=run).stop_reason == "completed"  # and the run is unharmed


def halved(flow):
    """The same parameters under another formula."""
    plain = flow.base.log_prob
    flow.base.log_prob = lambda z, c=None: plain(0.5 * z, c)
    return flow


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    run = stopped(tmp_path).replace(resume=False)
    with pytest.raises(CheckpointError, match=r"unfinished run \(step 20\); pass resume=True"):
        fit(model(), data(), config=run)
    fit(model(), data(), config=run.replace(resume=True))
    fresh = fit(model(), data(), config=run.replace(epochs=2))  # a finished one is
    assert (fresh.steps, len((tmp_path / "metrics.jsonl").read_text().splitlines())) == (18, 2)


def test_nothing_to_resume(tmp_path):
    with pytest.warns(UserWarning, match="no checkpoint in .*starting from the beginning"):
        result = fit(model(), data(), config=config(out=tmp_path, resume=True))
    assert result.stop_reason == "completed"


def test_metrics_after_a_crash(tmp_path):
    run = stopped(tmp_path)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"epoch": 3, "step": 27}\n{"epoch": 4, "st')  # lines beyond the checkpoint, the last cut off
    result = fit(model(), data(), config=run)
    assert [json.loads(line) for line in path.read_text().splitlines()] == result.history


def test_other_threads_are_reported(tmp_path, monkeypatch):
    run = stopped(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    with pytest.warns(UserWarning, match="not be exact bit for bit: threads was .*, is now 99"):
        fit(model(), data(), config=run)


def test_handlers_are_put_back():
    mine = lambda *_: None
    before = signal.signal(signal.SIGTERM, mine), signal.getsignal(signal.SIGINT)
    try:
        fit(model(), data(), config=config(epochs=1))
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (mine, before[1])
    finally:
        signal.signal(signal.SIGTERM, before[0])


def test_second_signal_acts_at_once(tmp_path):
    class Twice(Callback):
        def on_step(self, run):
            # To this thread, and while it sleeps: two that come at once, or between other threads' turns, may merge.
            for seconds in (0.3, 0.9):
                send = threading.Timer(seconds, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
                send.daemon = True
                send.start()
            time.sleep(10)

    start = time.monotonic()
    result = fit(model(), data(), config=config(out=tmp_path), callbacks=[Twice()])
    assert time.monotonic() - start < 5
    assert (result.stop_reason, result.signal, result.steps) == ("interrupted", signal.SIGINT, 1)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import test_resume as t
from pathlib import Path
run = t.config(epochs=60, out=Path({out!r}), checkpoint_every=0.01, resume={resume}, progress=True, keep=2)
result = t.fit(t.model(), t.data(), objective=t.noisy, config=run)
sys.exit(0 if result.signal is None else 128 + result.signal)
"""


def start(out, *, resume):
    script = SCRIPT.format(path=sys.path, out=str(out), resume=resume)
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def test_killed_and_terminated_processes_go_on(tmp_path):
    """kill -9, then SIGTERM, then to the end: the same weights as in one go."""
    whole = fit(model(), data(), objective=noisy, config=config(epochs=60))
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        done = Checkpoints(tmp_path / "checkpoint", 2).steps()
        child = start(tmp_path, resume=bool(done))
        while (Checkpoints(tmp_path / "checkpoint", 2).steps() or [0])[0] < (done or [0])[0] + 20:
            time.sleep(0.005)
            assert child.poll() is None, child.communicate()
        child.send_signal(number)
        _, shown = child.communicate(timeout=30)
        assert child.returncode == code
        if number != signal.SIGKILL:
            assert "go on with resume=True" in shown
    result = fit(model(), data(), objective=noisy, config=config(epochs=60, out=tmp_path, resume=True))
    assert same(whole.model.state_dict(), result.model.state_dict())
    assert timeless(whole.history) == timeless(result.history)

"""A continued run equals an uninterrupted one, bit for bit."""

import os
import random
import signal

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.objectives import nll
from bijectory.training import Callback, FitConfig, fit

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
    return bj.real_nvp(3, 2, layers=2, hidden=(8,))


def config(**changes):
    base = {"epochs": 5, "batch_size": 8, "lr": 1e-2, "warmup_steps": 3, "ema_decay": 0.9, "patience": None}
    return FitConfig(progress=False, **{**base, **changes})


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


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


REASONS = {"return": "callback", "raise": "interrupted", signal.SIGINT: "interrupted", signal.SIGTERM: "interrupted"}


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("how", list(REASONS))
def test_resume_is_exact_at_any_step(tmp_path, how, schedule):
    whole = fit(model(), data(), objective=noisy, config=config(schedule=schedule))
    for step in [*random.Random(str(how)).sample(range(1, 45), 4), 9, 44]:
        run = config(schedule=schedule, out=tmp_path / str(step))
        first = fit(model(), data(), objective=noisy, config=run, callbacks=[StopAt(step, how)])
        assert (first.stop_reason, first.steps) == (REASONS[how], step)
        second = fit(model(), data(), objective=noisy, config=run.replace(resume=True))
        assert same(whole.model.state_dict(), second.model.state_dict())
        assert timeless(whole.history) == timeless(second.history)
        assert (whole.best_epoch, whole.best_val, whole.steps) == (second.best_epoch, second.best_val, second.steps)
        lines = (run.out / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == len(whole.history)

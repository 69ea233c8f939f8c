"""Learning rate and length of a run as pure functions of the settings."""

import pytest

from bijectory.training import FitConfig
from bijectory.training.schedule import Schedule


def test_rates():
    rate = lambda step, total=1000, elapsed=0.0, scale=1.0, **kw: Schedule(
        FitConfig(lr=1.0, warmup_steps=9, **kw), total
    )(step, elapsed, scale)
    assert rate(0) == pytest.approx(0.1)
    assert rate(8) == pytest.approx(0.9)
    assert rate(9) == 1.0
    assert rate(9 + 991 // 2) == pytest.approx(0.5, abs=0.01)
    assert rate(999) < 1e-4
    assert rate(500, schedule="constant", scale=0.25) == 0.25
    assert rate(500, None, 5.0, time_budget=10.0) == pytest.approx(0.5)
    assert rate(100, 1000, 10.0, time_budget=10.0) == pytest.approx(0.0)
    assert rate(0, 20) == pytest.approx(1 / 3)  # warm-up is at most a tenth of the run


def test_default_length():
    config = FitConfig()
    assert config.total_steps(1) == 2000
    assert config.total_steps(1000) == 100_000
    assert FitConfig(epochs=3).total_steps(7) == 21
    assert FitConfig(time_budget=3).total_steps(7) is None

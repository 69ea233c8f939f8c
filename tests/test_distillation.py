"""Distillation: the divergence it reports, what it learns, and the run folder it leaves."""

import numpy as np
import pandas as pd
import pytest
import torch

from bijectory.apps import TableFlow, distill, distill_table, fit_table, load_rows
from bijectory.apps.distillation import speedup
from bijectory.densities import DiagonalNormal, Flow, StandardNormal
from bijectory.errors import CheckpointError, ConfigError, ContextError
from bijectory.io import load_metadata
from bijectory.recipes import cnf, real_nvp
from bijectory.training import FitConfig
from bijectory.transforms import Standardize

STILL = FitConfig(epochs=1, lr=1e-12, progress=False)


def normal(loc, scale):
    """A flow of known density whose weights hardly move."""
    return Flow(Standardize(2, [loc] * 2, [scale] * 2), DiagonalNormal(2))


def test_divergence_is_the_one_of_two_normals():
    teacher, student = normal(1.0, 2.0), normal(0.0, 1.0)
    found = distill(teacher, student, draws=100, fresh=20_000, config=STILL)
    expected = 2 * (np.log(1 / 2) + (4 + 1) / 2 - 1 / 2)  # KL(N(1, 2) || N(0, 1)), two features
    assert abs(found.divergence - expected) < 4 * found.standard_error
    assert found.standard_error < 0.1
    other_way = distill(student, normal(1.0, 2.0), draws=100, fresh=20_000, config=STILL)
    assert abs(other_way.divergence - 2 * (np.log(2) + (1 + 1) / 8 - 1 / 2)) < 4 * other_way.standard_error


def test_student_learns_and_conditions():
    torch.manual_seed(0)
    teacher = Flow(Standardize(2, [3.0, -1.0], [0.5, 2.0]), DiagonalNormal(2, context=1))
    with torch.no_grad():
        for p in teacher.parameters():
            p.copy_(torch.randn_like(p) / 2)
    contexts = torch.linspace(-1, 1, 50).unsqueeze(-1)
    student = Flow(Standardize(2, [3.0, -1.0], [0.5, 2.0]), DiagonalNormal(2, context=1))
    config = FitConfig(epochs=30, lr=2e-2, progress=False)
    found = distill(teacher, student, contexts, draws=4000, fresh=2000, config=config)
    assert found.divergence < 0.05
    blind = distill(teacher, Flow(student.transform, DiagonalNormal(2, context=1)), contexts, draws=100, config=STILL)
    assert blind.divergence > 0.1


def test_bad_input():
    with pytest.raises(ConfigError, match=r"events \(3,\) and context 0, the student events \(2,\)"):
        distill(StandardNormal(3), real_nvp(2))
    with pytest.raises(ContextError, match="pass contexts"):
        distill(cnf(2, 1), real_nvp(2, 1))
    with pytest.raises(ConfigError, match="draws must be at least 2"):
        distill(StandardNormal(2), real_nvp(2), draws=1)


def test_speedup_is_slow_over_fast():
    slow, fast = StandardNormal(2), StandardNormal(2)
    assert speedup(lambda density: sum(range(300_000 if density is slow else 1)), slow, fast) > 10


def test_run_folder_of_the_student(tmp_path):
    rng = np.random.default_rng(0)
    g = rng.normal(size=600)
    frame = pd.DataFrame({"g": g, "a": 100 + 5 * g + rng.normal(size=600), "b": rng.normal(size=600)})
    config = FitConfig(epochs=8, lr=5e-3, progress=False)
    fit_table(frame, given=["g"], recipe="real_nvp", config=config, out=tmp_path / "teacher", audit=False)
    with pytest.raises(CheckpointError, match="nowhere"):
        distill_table(tmp_path / "nowhere", out=tmp_path / "x")
    fast, found = distill_table(
        tmp_path / "teacher", out=tmp_path / "student", recipe="maf", draws=4000, config=config.replace(batch_size=64)
    )
    back = TableFlow.load(tmp_path / "student")
    assert np.array_equal(back.score_samples(frame), fast.score_samples(frame))
    teacher = TableFlow.load(tmp_path / "teacher")
    gap = teacher.score_samples(frame).mean() - back.score_samples(frame).mean()
    assert abs(gap) < 0.3
    assert found.divergence < 0.3
    facts = load_metadata(tmp_path / "student")
    assert facts["divergence"] == found.divergence
    assert facts["scores"]["test"]["rows"] == len(load_rows(tmp_path / "student")["test"]) == 60

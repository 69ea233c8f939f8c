"""The benchmark of a GPU: one line where there is none, and a rehearsal in which tapes stand for its graphs."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from test_gradients import tapes

PROGRAM = pathlib.Path(__file__).parent.parent / "benchmarks" / "gpu.py"
__all__ = ["tapes"]


@pytest.fixture
def program():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_ends():
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROGRAM.parent.parent / "src")}
    done = subprocess.run([sys.executable, PROGRAM], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout == "no GPU here (torch.cuda.is_available() is False): benchmarks/gpu.py skipped\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_a_rehearsal(program, tapes, monkeypatch, capsys, tmp_path):
    variants = ["plain", "tf32", "graph", "bf16"]
    monkeypatch.setattr(program, "names", lambda device, flow, inductor: variants)
    monkeypatch.setattr(program, "TINY", [("real_nvp", 3, {"layers": 2, "hidden": (8,)}, (40,))])
    before = torch.get_float32_matmul_precision()
    assert program.main(["--device", "cpu", "--tiny", "--json", str(tmp_path / "out.json")]) == 0
    assert torch.get_float32_matmul_precision() == before
    assert len(tapes) == 2
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [row[2] for row in rows] == variants
    assert all(float(row[k].split()[0]) > 0 for row in rows for k in (5, 6, 7))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
def test_what_is_wrong_is_not_timed(program, monkeypatch, capsys):
    monkeypatch.setattr(program, "TINY", [("real_nvp", 3, {"layers": 2, "hidden": (8,)}, (40,))])
    exact = program.truth
    monkeypatch.setattr(program, "truth", lambda flow, x: (exact(flow, x)[0] + 0.1, exact(flow, x)[1]))
    assert program.main(["--device", "cpu", "--tiny"]) == 1
    assert "|  |  |  | WRONG, not timed |" in capsys.readouterr().out


def test_the_budget_leaves_out(program, capsys):
    assert program.main(["--device", "cpu", "--tiny", "--budget", "-1"]) == 0
    assert "Left out for lack of time: nsf 3 at 16 rows, glow (1, 4, 4) at 4 rows." in capsys.readouterr().out

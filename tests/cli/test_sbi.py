"""``bijectory sbi`` and ``write_sbi_report``: a simulator file end to end, and what a new user gets wrong."""

import json

import pandas as pd
import pytest

from bijectory.cli import main

SIMULATOR = """
import torch
from bijectory.apps.posterior import Prior
prior = Prior({"slope": torch.distributions.Uniform(0.0, 2.0), "shift": torch.distributions.Normal(0.0, 1.0)})


def simulator(theta):
    grid = torch.linspace(0, 1, 3)
    return theta[:, :1] * grid + theta[:, 1:] + 0.1 * torch.randn(len(theta), 3)
"""
QUICK = ("--simulations", "300", "--checks", "100", "--ensemble", "1", "--epochs", "2", "--draws", "200")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbi")
    (folder / "simulator.py").write_text(SIMULATOR)
    (folder / "observed.csv").write_text("a,b,c\n0.1,0.6,1.1\n")
    return folder


@pytest.fixture(scope="module")
def study_folder(files):
    out = files / "run"
    words = ("sbi", files / "simulator.py", "-x", files / "observed.csv", "-o", out, "-q", *QUICK)
    assert main([str(w) for w in words]) == 0
    return out


def test_a_run_folder_with_everything(study_folder):
    names = {p.name for p in study_folder.iterdir()}
    assert {"config.json", "model.safetensors", "posterior.csv", "report.html", "study.json", "figures"} <= names
    draws = pd.read_csv(study_folder / "posterior.csv")
    assert list(draws.columns) == ["slope", "shift"]
    assert draws["slope"].between(0, 2).all()
    found = json.loads((study_folder / "study.json").read_text())
    assert set(found["checks"]["as fitted"]) == {"SBC", "expected coverage", "TARP"}
    page = (study_folder / "report.html").read_text()
    for word in ("slope", "Calibration", "simultaneous", "data:image/png"):
        assert word in page


def test_the_stored_posterior_loads(study_folder, files, monkeypatch):
    from bijectory.apps.posterior import NeuralPosterior
    from bijectory.cli.studying import load_simulator

    posterior = NeuralPosterior.load(study_folder, load_simulator(files / "simulator.py").prior)
    assert posterior.sample(5, seed=0).shape == (5, 2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1", "does not define `prior`"),
        ("prior = 3\nsimulator = lambda t: t", "torch.distributions"),
        ("import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
        (SIMULATOR.split("def ")[0] + "simulator = 3", "`simulator` is a int"),
        (SIMULATOR.split("def ")[0] + "simulator = lambda theta: theta[:1]", "one row for each"),
        (
            SIMULATOR.split("def ")[0] + "simulator = lambda theta: theta * float('nan')",
            "simulations with finite values",
        ),
        (SIMULATOR.split("def ")[0] + "simulator = lambda theta: theta", "the observation has shape (3,)"),
    ],
)
def test_files_are_refused_by_what_is_wrong(cli, files, tmp_path, source, words):
    (tmp_path / "mine.py").write_text(source)
    answer = cli("sbi", tmp_path / "mine.py", "-x", files / "observed.csv", "-o", tmp_path / "run", *QUICK)
    assert answer.code in (2, 3)
    assert words in answer.err
    assert answer.err.count("\n") <= 3
    assert "Traceback" not in answer.err


def test_folders_and_options_are_refused(cli, files, study_folder, tmp_path):
    start = ("sbi", files / "simulator.py", "-x", files / "observed.csv")
    assert "not empty" in cli(*start, "-o", study_folder).err
    (tmp_path / "note.txt").write_text("mine")
    assert "holds no run" in cli(*start, "-o", tmp_path, "--overwrite").err
    assert "no file" in cli("sbi", tmp_path / "no.py", "-x", files / "observed.csv", "-o", tmp_path / "run").err
    assert "use npe" in cli(*start, "-o", tmp_path / "run", "--method", "abc").err
    missing = cli("sbi", files / "simulator.py", "-x", tmp_path / "no.csv", "-o", tmp_path / "run")
    assert missing.code == 3
    assert "no.csv" in missing.err

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


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("raise ZeroDivisionError('by nothing')", 3, "the simulator raised ZeroDivisionError: by nothing"),
        ("return theta @ theta", 3, "the simulator raised RuntimeError: mat1 and mat2"),
        ("return ['a'] * len(theta)", 3, "cannot be read as numbers"),
        ("return None", 3, "what the simulator returned is a single number"),
    ],
)
def test_what_a_simulator_does_wrong_is_one_sentence(cli, files, tmp_path, source, code, words):
    start = SIMULATOR.split("    grid")[0]
    (tmp_path / "mine.py").write_text(f"{start}    {source}\n")
    line = ("sbi", tmp_path / "mine.py", "-x", files / "observed.csv", "-o", tmp_path / "run", *QUICK)
    answer = cli(*line)
    assert answer.code == code
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert words in cli(*line).err, "a run that made nothing leaves the folder free"


def test_reversed_bounds_and_odd_files_are_one_sentence(cli, files, tmp_path):
    bounds = "from bijectory.apps.posterior import box_uniform\nprior = box_uniform([1.0], [0.0])\nsimulator = abs\n"
    for source, words in ((bounds, "'theta0' has bounds (1, 0): low must be below high"), ("prior =", "SyntaxError")):
        (tmp_path / "mine.py").write_text(source)
        answer = cli("sbi", tmp_path / "mine.py", "-x", files / "observed.csv", "-o", tmp_path / "run")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert words in answer.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n0.1,0.6\n", "the observation has shape (2,); the simulations have (3,)"),
        ("a,b,c\n0.1,x,0.6\n", "column b is not numbers"),
        ("a,b,c\n0.1,,0.6\n", "the observation is not finite"),
        ("", "empty"),
    ],
)
def test_observations_are_refused_before_anything_is_trained(cli, files, tmp_path, text, words):
    (tmp_path / "mine.csv").write_text(text)
    answer = cli("sbi", files / "simulator.py", "-x", tmp_path / "mine.csv", "-o", tmp_path / "run", *QUICK)
    assert answer.code == 3
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow  # a second run with a report: five seconds
def test_lost_simulations_are_told_on_the_screen_and_in_the_report(cli, files, tmp_path):
    (tmp_path / "mine.py").write_text(
        SIMULATOR + "\n\nwhole = simulator\n\n\ndef simulator(theta):\n"
        "    x = whole(theta)\n    x[::3, 1] = float('nan')\n    return x\n"
    )
    line = ("sbi", tmp_path / "mine.py", "-x", files / "observed.csv", "-o", tmp_path / "run", *QUICK)
    assert cli(*line).code == 0
    answer = cli(*line, "--overwrite")
    assert answer.code == 0
    assert "100 of 300 simulations are not finite and are left out" in answer.err
    assert "not checked: 66 of 100 further simulations are finite" in answer.err
    page = (tmp_path / "run" / "report.html").read_text()
    for word in ("33.3% failed", "left out", "not checked", "Predictive check"):
        assert word in page


def test_ctrl_c_and_on(cli, files, tmp_path, monkeypatch):
    import functools
    import importlib

    from bijectory import Callback
    from bijectory.apps.posterior import fit_npe

    class Interrupt(Callback):
        def on_epoch(self, run, record):
            raise KeyboardInterrupt

    line = ("sbi", files / "simulator.py", "-x", files / "observed.csv", "-o", tmp_path / "run", *QUICK)
    module = importlib.import_module("bijectory.apps.posterior.study")
    monkeypatch.setattr(module, "fit_npe", functools.partial(fit_npe, callbacks=[Interrupt()]))
    answer = cli(*line)
    assert answer.code == 130
    assert "go on with resume=True (--resume)" in answer.err
    assert answer.out == ""
    monkeypatch.undo()
    assert cli(*line).code == 2
    assert "--resume" in cli(*line).err
    (tmp_path / "other.py").write_text(SIMULATOR + "\n")
    other = cli("sbi", tmp_path / "other.py", *line[2:], "--resume")
    assert other.code == 4
    assert "another simulator file" in other.err
    assert cli(*line, "--resume").code == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert "holds no run" in cli(*line[:4], "-o", tmp_path / "none", "--resume").err
    assert "exclude each other" in cli(*line, "--resume", "--overwrite").err


def test_other_verbs_say_what_the_folder_is(cli, study_folder):
    for verb in ("sample", "show", "report"):
        answer = cli(verb, study_folder)
        assert answer.code == 4
        assert "holds the posterior of a simulator" in answer.err


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

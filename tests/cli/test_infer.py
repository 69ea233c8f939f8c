"""``bijectory infer``: from a model file to a run folder, and what is refused."""

import json

import pandas as pd
import pytest

import bijectory as bj
from bijectory.apps import infer, read_model, run_kind, write_run
from bijectory.errors import DataError
from bijectory.report import write_report

MODEL = """
import torch
parameters = {"mu": "real", "sigma": "positive"}

def log_density(x):
    return -0.5 * (x[:, 0] - 3) ** 2 - 0.5 * x[:, 1].log() ** 2 - x[:, 1].log()
"""
JOINT = """
from torch.distributions import Normal
from bijectory import Joint
log_density = Joint({"mu": Normal(1.0, 2.0)})
"""
QUICK = ("--epochs", "2", "--seed", "1", "--set", "layers=2", "--set", "hidden=8,8")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_infer_writes_a_run_that_the_other_verbs_know(cli, model, tmp_path):
    out = tmp_path / "run"
    answer = cli("infer", model, "--out", out, "-n", "500", *QUICK)
    assert answer.code == 0, answer.err
    for word in ("free energy", "Pareto k", "verdict", "mu", "sigma"):
        assert word in answer.out
    assert run_kind(out) == "posterior"
    draws = pd.read_csv(out / "draws.csv")
    assert draws.shape == (500, 2)
    assert (draws["sigma"] > 0).all()
    assert abs(draws["mu"].mean() - 3) < 0.3
    assert list(pd.read_csv(out / "table.csv")["parameter"]) == ["mu", "sigma"]
    page = (out / "report.html").read_text()
    for word in ("modes covered", "Pareto k", "sigma", "VariationalPosterior.load", "data:image/png"):
        assert word in page
    assert cli("sample", out, "-n", "7").out.count("\n") == 8
    refused = cli("sample", out, "--given", "a=1")
    assert refused.code == 2
    assert "no given columns" in refused.err
    assert "holds a posterior" in cli("show", out).err
    assert "holds a posterior" in cli("score", out, out / "draws.csv").err
    again = cli("infer", model, "--out", out, *QUICK)
    assert again.code == 2
    assert "--overwrite" in again.err


def test_infer_as_json_with_chains(cli, tmp_path):
    (tmp_path / "joint.py").write_text(JOINT)
    answer = cli("infer", tmp_path / "joint.py", "--json", "--quiet", "--polish", "always", *QUICK)
    assert answer.code == 0, answer.err
    assert answer.err == ""
    found = json.loads(answer.out)
    assert found["chains"]["method"] == "neutra"
    assert found["table"]["mu"]["mean"] == pytest.approx(1, abs=0.3)
    assert found["verdict"] == "good"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no file"]),
        ("x = 1", ["defines no log_density", "parameters ="]),
        ("def log_density(x): return -x[:, 0] ** 2", ["defines no parameters"]),
        ("import nonsense_module", ["cannot be executed", "nonsense_module"]),
        ("parameters = 2\ndef log_density(x): return x", ["expected (7,)"]),
        ("parameters = {'a': 'simplex'}\ndef log_density(x): return x", ["simplex"]),
    ],
)
def test_infer_refuses_in_one_sentence(cli, tmp_path, text, words):
    path = tmp_path / "model.py"
    if text is not None:
        path.write_text(text)
    answer = cli("infer", path, "--quiet", *QUICK)
    assert answer.code in (2, 3)
    assert answer.out == ""
    assert answer.err.startswith("bijectory: ")
    for word in words:
        assert word in answer.err


def test_infer_refuses_wrong_options(cli, model):
    assert "auto, always, never" in cli("infer", model, "--polish", "maybe").err
    assert "no objective" in cli("infer", model, "--objective", "elbo").err
    assert "did you mean nsf" in cli("infer", model, "--recipe", "nfs").err


def test_the_same_from_python(model, tmp_path):
    density, parameters = read_model(model)
    assert parameters == {"mu": "real", "sigma": "positive"}
    config = bj.apps.variational_config(epochs=2, batch_size=128)
    posterior = infer(model, polish="never", config=config, recipe_args={"layers": 2, "hidden": (8,)})
    assert posterior.chains is None
    write_run(posterior, tmp_path / "run", draws=100, parquet=True)
    assert len(pd.read_parquet(tmp_path / "run" / "draws.parquet")) == 100
    posterior.polish("independence", chains=4, draws=50).save(tmp_path / "run")
    assert "chains converged" in write_report(tmp_path / "run").read_text()
    with pytest.raises(DataError, match="not a Python file"):
        read_model(tmp_path / "run" / "draws.parquet")
    assert density is not None

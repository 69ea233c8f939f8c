"""``bijectory evidence``: from model files to evidences, a preference and a run folder, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

MODEL = """
import torch
from torch.distributions import Normal
parameters = {"mu": "real"}

def log_density(x):  # a datum at 1 with the prior N(0, SD)
    return Normal(0.0, SD).log_prob(x[:, 0]) + Normal(x[:, 0], 1.0).log_prob(torch.tensor(1.0))
"""
QUICK = ("--epochs", "1", "--set", "layers=1", "--set", "hidden=8,8", "-n", "1000", "--particles", "200", "-q")
FAST = (*QUICK, "--method", "importance,bridge,annealed")


@pytest.fixture
def models(tmp_path):
    paths = []
    for name, sd in (("narrow", "1.0"), ("wide", "30.0")):
        (tmp_path / f"{name}.py").write_text(MODEL.replace("SD", sd))
        paths.append(tmp_path / f"{name}.py")
    return paths


def exact(sd):
    return -0.5 * np.log(2 * np.pi * (1 + sd**2)) - 0.5 / (1 + sd**2)


def test_two_models_a_preference_and_a_run(cli, models, tmp_path):
    out = tmp_path / "run"
    answer = cli("evidence", *models, "-o", out, *FAST)
    assert answer.code == 0, answer.err
    assert "narrow is preferred to wide by" in answer.out
    assert "3 estimates agree" in answer.out
    record = json.loads((out / "evidence.json").read_text())
    for found, sd in zip(record["evidences"], (1.0, 30.0), strict=True):
        assert found["state"] == "trusted"
        assert found["log_z"] == pytest.approx(exact(sd), abs=4 * found["se"] + 2e-3)
    assert len(pd.read_csv(out / "estimates.csv")) == 6
    page = (out / "report.html").read_text()
    for word in ("narrow is preferred", "posterior probability", "importance", "data:image/png"):
        assert word in page
    again = cli("evidence", *models, "-o", out, *FAST)
    assert again.code == 2
    assert "--overwrite" in again.err
    words = ("--no-report", "--json", "--odds", "wide=1e6", *QUICK, "--method", "importance")
    turned = cli("evidence", *models, "-o", out, "--overwrite", *words)
    assert turned.code == 0, turned.err
    assert json.loads(turned.out)["comparison"]["preferred"] == "wide"


def test_given_draws_that_do_not_belong_are_not_trusted(cli, models, tmp_path):
    rng = np.random.default_rng(0)
    good = pd.DataFrame({"mu": rng.normal(0.5, np.sqrt(0.5), 800), "chain": np.repeat(range(4), 200)})
    good.to_csv(tmp_path / "good.csv", index=False)
    answer = cli("evidence", models[0], "--samples", tmp_path / "good.csv", *QUICK, "--method", "importance,bridge")
    assert answer.code == 0, answer.err
    good.assign(mu=good["mu"] + 60).to_csv(tmp_path / "bad.csv", index=False)
    refused = cli("evidence", models[0], "--samples", tmp_path / "bad.csv", *QUICK, "--method", "importance,bridge")
    assert refused.code == 5
    assert "unreliable" in refused.err
    assert "importance" in refused.out  # what was found is shown all the same
    lost = cli("evidence", models[0], "--samples", tmp_path / "nothing.csv", *QUICK)
    assert lost.code == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["no file"]),
        ("x = 1", ["defines no log_density"]),
        ("parameters = 2\ndef log_density(x): return x", ["expected (7,)"]),
    ],
)
def test_models_that_are_refused(cli, tmp_path, text, words):
    if text is not None:
        (tmp_path / "model.py").write_text(text)
    answer = cli("evidence", tmp_path / "model.py", *FAST)
    assert answer.code == 3
    assert answer.err.startswith("bijectory: ")
    for word in words:
        assert word in answer.err


def test_wrong_options_are_refused(cli, models, tmp_path):
    assert "no estimator" in cli("evidence", models[0], *QUICK, "--method", "nested").err
    assert "odds are given for ['other']" in cli("evidence", *models, *FAST, "--odds", "other=2").err
    assert "--odds MODEL=ODDS" in cli("evidence", *models, *FAST, "--odds", "wide").err
    assert "repeat a name" in cli("evidence", models[0], models[0], *FAST).err
    assert "temperature" in cli("evidence", models[0], *QUICK, "--temperature", "2").err
    (tmp_path / "draws.csv").write_text("mu\n1\n")
    assert "one model" in cli("evidence", *models, "--samples", tmp_path / "draws.csv", *FAST).err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    assert "holds no run" in cli("evidence", *models, "-o", tmp_path / "other", "--overwrite", *FAST).err
    assert cli("evidence").code == 2

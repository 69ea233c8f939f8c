"""What each verb prints and writes."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

import bijectory as bj
from bijectory.apps import TableFlow
from bijectory.recipes import RECIPES
from cli.support import QUICK


def read(text):
    return pd.read_csv(io.StringIO(text))


def test_fit_writes_a_run_and_says_how_good_it_is(cli, table, tmp_path):
    answer = cli("fit", table, "--out", tmp_path / "run", *QUICK)
    assert answer.code == 0
    assert "held-out:" in answer.out
    assert "nats a row" in answer.out
    assert "epoch 3" in answer.err
    for name in ("config.json", "schema.json", "model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).is_file()


def test_fit_as_json_prints_one_document_and_quiet_prints_no_progress(cli, table, tmp_path):
    answer = cli("fit", table, "--out", tmp_path / "run", "--json", "--quiet", *QUICK)
    found = json.loads(answer.out)
    assert answer.err == ""
    assert found["stop_reason"] == "completed"
    assert found["scores"]["test"]["rows"] == 30


def test_fit_takes_its_options_from_a_file_and_the_command_line_wins(cli, table, tmp_path):
    config = tmp_path / "fit.toml"
    lines = ('recipe = "real_nvp"', "set = {layers = 2, hidden = [16]}", 'drop = ["b"]', "epochs = 50", "lr = 0.01")
    config.write_text("\n".join([*lines, "bounded = {c = [0, 1]}"]))
    answer = cli("fit", table, "--out", tmp_path / "run", "--config", config, "--epochs", "2", "--json", "-q")
    assert answer.code == 0, answer.err
    model = TableFlow.load(tmp_path / "run")
    assert [(c.name, c.kind) for c in model.schema.targets] == [("a", "numeric"), ("c", "bounded")]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_folder_is_not_overwritten_by_accident_but_on_demand(cli, table, tmp_path):
    out = tmp_path / "run"
    assert cli("fit", table, "--out", out, *QUICK).code == 0
    (out / "mine.txt").write_text("keep")
    again = cli("fit", table, "--out", out, *QUICK)
    assert again.code == 2
    assert "--resume" in again.err
    assert "--overwrite" in again.err
    assert cli("fit", table, "--out", out, "--overwrite", *QUICK).code == 0
    assert (out / "mine.txt").read_text() == "keep"


def test_score_appends_the_log_likelihood_in_data_units(cli, table, run_folder, tmp_path):
    scored = read(cli("score", run_folder, table).out)
    assert list(scored.columns) == ["a", "b", "c", "log_prob"]
    rows = torch.from_numpy(pd.read_csv(table).to_numpy())
    expected = bj.load(run_folder).log_prob(rows).detach().numpy()
    np.testing.assert_allclose(scored["log_prob"], expected, rtol=1e-10)
    assert cli("score", run_folder, table, "-o", tmp_path / "s.csv", "-q")[1:] == ("", "")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv"), scored)
    summary = json.loads(cli("score", run_folder, table, "--json").out)
    assert summary["mean_log_prob"] == pytest.approx(expected.mean())
    assert summary["lowest_row"] == expected.argmin()


def test_score_can_propagate_missing_values(cli, run_folder, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,c\n0,0,0.5\n,0,0.5\n0,0,7\n")
    scored = read(cli("score", run_folder, rows, "--nonfinite", "propagate").out)
    assert np.isfinite(scored["log_prob"][0])
    assert np.isnan(scored["log_prob"][1])
    assert scored["log_prob"][2] == -np.inf


def test_sample_draws_rows_and_a_seed_repeats_them(cli, run_folder, tmp_path):
    first, second, third = (cli("sample", run_folder, "-n", "20", "--seed", s).out for s in (1, 1, 2))
    assert first == second != third
    drawn = read(first)
    assert drawn.shape == (20, 3)
    assert drawn["c"].between(0, 1).all()
    assert cli("sample", run_folder, "-n", "7", "-o", tmp_path / "d.parquet").code == 0
    assert pd.read_parquet(tmp_path / "d.parquet").shape == (7, 3)
    assert cli("sample", run_folder, "-n", "0", "-q").out == "a,b,c\n"


def test_sample_of_a_conditional_density(cli, conditional, tmp_path):
    drawn = read(cli("sample", conditional, "-n", "5", "--given", "a=1.5").out)
    assert drawn["a"].tolist() == [1.5] * 5
    (tmp_path / "g.csv").write_text("a\n1\n2\n")
    drawn = read(cli("sample", conditional, "-n", "2", "--given-from", tmp_path / "g.csv").out)
    assert drawn["a"].tolist() == [1, 1, 2, 2]
    missing = cli("sample", conditional, "-n", "5")
    assert missing.code == 3
    assert "conditional" in missing.err


def test_report_is_one_file_and_fit_writes_it(cli, run_folder, table, tmp_path):
    assert not (run_folder / "report.html").exists()
    path = cli("report", run_folder).out.strip()
    assert path == str(run_folder / "report.html")
    assert "<html" in (run_folder / "report.html").read_text()
    words = [w for w in QUICK if w != "--no-report"]
    assert "report.html" in cli("fit", table, "--out", tmp_path / "run", *words).err
    assert (tmp_path / "run" / "report.html").exists()


def test_demo_goes_from_a_photograph_to_a_report(cli, tmp_path, monkeypatch):
    from bijectory.cli import showing

    monkeypatch.setattr(
        showing, "load_sample_image", lambda name: np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    )
    monkeypatch.setattr(showing, "DRAWS", 500)
    out = tmp_path / "demo"
    for _ in range(2):  # an earlier demonstration is replaced
        answer = cli("demo", "-o", out, "--time-budget", "1s")
        assert answer.code == 0, answer.err
    for word in ("this flow", "full Gaussian", "mixture", "kernel density", "2,400 pixels", str(out / "report.html")):
        assert word in answer.out
    assert (out / "report.html").exists()
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert cli("demo", "-o", tmp_path / "mine").code == 2


def test_show_tells_what_is_in_a_run(cli, run_folder):
    text = cli("show", run_folder).out
    for word in ("real_nvp", "bounded", "[0, 1]", "validation", "parameters"):
        assert word in text
    found = json.loads(cli("show", run_folder, "--json").out)
    assert [c["name"] for c in found["columns"]] == ["a", "b", "c"]
    assert found["facts"]["rows"] == 300


def test_list_names_every_recipe_with_its_paper(cli):
    text = cli("list").out
    for recipe in RECIPES.values():
        assert recipe.name in text
        assert recipe.paper in text
    assert {r["name"] for r in json.loads(cli("list", "--json").out)} == set(RECIPES)


def test_doctor_finds_this_installation_healthy(cli):
    found = json.loads(cli("doctor", "--json").out)
    assert found["facts"]["bijectory"] == bj.__version__
    assert all(t["ok"] for t in found["tests"])


def test_help_and_version(cli):
    assert cli("--version").out.strip() == bj.__version__
    for verb in ("fit", "sample", "score", "show", "report", "demo", "list", "doctor"):
        answer = cli(verb, "--help")
        assert answer.code == 0
        assert "Usage: bijectory" in answer.out


def test_distill_makes_a_run_of_another_recipe(cli, table, tmp_path):
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    assert cli("fit", table, "--out", slow, "--no-report", *QUICK).code == 0
    answer = cli("distill", slow, "-o", fast, "--recipe", "maf", "--draws", "500", "--epochs", "2", "--json", "-q")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["standard_error"] > 0
    shown = json.loads(cli("show", fast, "--json").out)
    assert (shown["facts"]["recipe"], shown["facts"]["teacher"]) == ("maf", "slow")
    assert shown["facts"]["divergence"] == found["divergence"]
    assert cli("score", fast, table, "--json").code == 0
    assert cli("report", fast).code == 0


def test_nothing_is_removed_for_a_teacher_or_a_start_that_is_not_there(cli, table, tmp_path):
    run = tmp_path / "run"
    assert cli("fit", table, "--out", run, "--no-report", *QUICK).code == 0
    for words in (("distill", tmp_path / "nix"), ("fit", table, "--start", tmp_path / "nix")):
        answer = cli(*words, "--out", run, "--overwrite", "-q")
        assert answer.code != 0
        assert "nix" in answer.err
    for words in (("distill", run), ("fit", table, "--start", run)):
        answer = cli(*words, "--out", run, "--overwrite", "-q")
        assert answer.code == 2
        assert "another folder" in answer.err
    assert cli("score", run, table).code == 0


def test_fit_goes_on_from_the_weights_of_another_run(cli, table, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("fit", table, "--out", first, "--no-report", *QUICK).code == 0
    answer = cli(
        "fit",
        table,
        "--out",
        second,
        "--start",
        first,
        "--objective",
        "nll",
        "--epochs",
        "1",
        "--seed",
        "1",
        "-q",
        "--no-report",
    )
    assert answer.code == 0, answer.err
    scores = [
        json.loads(cli("show", run, "--json").out)["scores"]["train"]["log_likelihood"] for run in (first, second)
    ]
    assert scores[1] > scores[0] - 0.05
    assert cli("fit", table, "--out", tmp_path / "x", "--start", first, "--set", "layers=2").code == 2

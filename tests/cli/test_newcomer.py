"""What a newcomer tries: the wrong kind of run, arguments in the wrong order, odd names and places, numbers out of range."""

import json

import numpy as np
import pandas as pd
import pytest

from cli.support import QUICK
from cli.test_ratio import refused


@pytest.fixture
def folders(tmp_path):
    """A run of each other kind, as far as the verbs look at it."""
    made = {}
    for kind in ("image", "posterior"):
        made[kind] = tmp_path / kind
        made[kind].mkdir()
        (made[kind] / "schema.json").write_text(json.dumps({"kind": kind}))
    for kind, record in (("ratio", "ratio.json"), ("study", "study.json")):
        made[kind] = tmp_path / kind
        made[kind].mkdir()
        (made[kind] / record).write_text("{}")
    return made


def test_runs_of_another_kind_are_named(cli, folders, run_folder, table):
    for kind, word in (("image", "run of images"), ("posterior", "posterior")):
        refused(cli("compare", run_folder, folders[kind], table), 2, word, "runs of tables")
        refused(cli("distill", folders[kind], "-o", folders[kind] / "out"), 2, word, "runs of tables")
    refused(cli("anomaly", folders["posterior"], table), 2, "posterior")
    refused(cli("anomaly", folders["image"], table), 3, "no file of images")
    for verb in ("score", "predict"):
        refused(cli(verb, folders["ratio"], table), 4, "comparison of two tables")
        refused(cli(verb, folders["study"], table), 4, "bijectory sbi")
    refused(cli("query", folders["ratio"], "--where", "a=1"), 4, "comparison of two tables")


def test_arguments_in_the_wrong_order(cli, run_folder, table):
    for verb in ("score", "predict", "anomaly"):
        refused(cli(verb, table, run_folder), 4, "is a file", "mind the order")


def test_places_where_rows_cannot_go(cli, run_folder, table, tmp_path):
    refused(cli("sample", run_folder, "-n", "2", "-o", tmp_path), 2, "is a folder")
    refused(cli("score", run_folder, table, "-o", tmp_path / "no" / "s.csv"), 2, "no folder", "make it first")
    refused(cli("sample", run_folder, "-n", "2", "-o", tmp_path / "s.xlsx"), 2, "CSV or Parquet")


def test_names_with_commas_spaces_and_letters_of_other_languages(cli, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(120, 3)), columns=["größe cm", "x, y", "速度"])
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    run = tmp_path / "run"
    assert cli("fit", tmp_path / "t.csv", "-o", run, "-q", *QUICK).code == 0
    answer = cli("query", run, "--where", "x, y=0.5,größe cm=1", "-n", "5")
    assert answer.code == 0, answer.err
    assert "importance sampling" in answer.err
    answer = cli("fit", tmp_path / "t.csv", "-o", tmp_path / "b", "-q", "--drop", '"x, y"', *QUICK)
    assert answer.code == 0, answer.err
    refused(cli("score", tmp_path / "b", tmp_path / "no.csv"), 3, "no file")
    pd.DataFrame({"u": [1.0]}).to_csv(tmp_path / "u.csv", index=False)
    refused(cli("score", run, tmp_path / "u.csv"), 3, "there are no columns", "größe cm")
    frame[:1].to_csv(tmp_path / "one.csv", index=False)
    assert "1 row," in cli("score", run, tmp_path / "one.csv").err


def test_huge_numbers(cli, tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)) * 1e300, columns=["a", "b"])
    frame.to_csv(tmp_path / "h.csv", index=False)
    for answer in (
        cli("fit", tmp_path / "h.csv", "-o", tmp_path / "run", *QUICK),
        cli("ratio", tmp_path / "h.csv", tmp_path / "h.csv"),
    ):
        refused(answer, 3, "too large", "divide")
        assert "warning" not in answer.err


def test_missing_values_and_context_name_the_option(cli, run_folder, conditional, table, tmp_path):
    frame = pd.read_csv(table)
    frame.loc[3, "a"] = np.nan
    frame.to_csv(tmp_path / "nan.csv", index=False)
    refused(cli("score", run_folder, tmp_path / "nan.csv"), 3, "--nonfinite propagate")
    refused(cli("sample", conditional, "-n", "2"), 3, "--given a=VALUE")

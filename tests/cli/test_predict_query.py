"""Predictions of conditional runs, and questions to joint ones."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from bijectory.apps import Predictive, TableFlow


def read(text):
    return pd.read_csv(io.StringIO(text))


def refused(answer, code, *words):
    assert answer.code == code, answer
    assert answer.out == ""
    for word in words:
        assert word in answer.err, answer.err


def test_predict_appends_means_quantiles_and_the_shortest_interval(cli, conditional, table, tmp_path):
    new = tmp_path / "new.csv"
    new.write_text("a\n0\n1.5\n")
    answer = cli("predict", conditional, new, "--quantiles", "0.1,0.9", "--hpd", "0.8")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert list(found.columns) == ["a", "b_mean", "b_q0.1", "b_q0.9", "b_hpd_low", "b_hpd_high"]
    known = Predictive(TableFlow.load(conditional))
    np.testing.assert_allclose(found[["b_q0.1", "b_q0.9"]], known.quantiles(found[["a"]], [0.1, 0.9])[:, 0])
    np.testing.assert_allclose(found["b_mean"], known.mean(found[["a"]])[:, 0])
    assert (found["b_hpd_high"] - found["b_hpd_low"] <= found["b_q0.9"] - found["b_q0.1"] + 1e-9).all()
    assert "exact" in answer.err
    assert cli("predict", conditional, table, "-o", tmp_path / "p.csv", "-q")[1:] == ("", "")
    assert len(pd.read_csv(tmp_path / "p.csv")) == 300


def test_predict_refuses(cli, conditional, run_folder, table, tmp_path):
    refused(cli("predict", run_folder, table), 2, "without --given")
    refused(cli("predict", conditional, table, "--quantiles", "5,95"), 2, "[0, 1]")
    refused(cli("predict", conditional, table, "--quantiles", "low"), 2, "not a number", "--quantiles 0.05")
    refused(cli("predict", conditional, table, "--quantiles", ","), 2, "empty")
    refused(cli("predict", conditional, table, "--hpd", "90"), 2, "90 % is 0.9")
    (tmp_path / "b.csv").write_text("b\n1\n")
    refused(cli("predict", conditional, tmp_path / "b.csv"), 3, "no column 'a'")


def test_query_draws_rows_with_the_known_columns(cli, run_folder, tmp_path):
    answer = cli("query", run_folder, "--where", "a=0.5,c=0.25", "-n", "200")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert list(found.columns) == ["a", "b", "c"]
    assert len(found) == 200
    assert set(found["a"]) == {0.5}
    assert set(found["c"]) == {0.25}
    assert found["b"].std() > 0
    assert "effective sample size" in answer.err
    facts = json.loads(cli("query", run_folder, "--where", "a=0.5", "-n", "50", "--json").out)
    assert facts["ess"] >= 50
    assert facts["error"] > 0
    assert cli("query", run_folder, "--where", "a=0", "-n", "9", "-o", tmp_path / "q.csv", "-q")[1:] == ("", "")
    assert len(pd.read_csv(tmp_path / "q.csv")) == 9


@pytest.mark.parametrize(
    ("where", "code", "word"),
    [
        ("zz=1", 3, "no column 'zz'"),
        ("a", 2, "--where COLUMN=VALUE"),
        ("a=x", 2, "not a number"),
        ("a=1,a=2", 2, "twice"),
        (",", 2, "empty"),
        ("c=7", 3, "outside"),
        ("a=nan", 3, "NaN"),
        ("a=0,b=0,c=0.5", 2, "every column is known"),
    ],
)
def test_query_refuses(cli, run_folder, where, code, word):
    refused(cli("query", run_folder, "--where", where), code, word)


def test_query_refuses_what_it_cannot_answer(cli, run_folder, conditional):
    refused(cli("query", run_folder, "--where", "a=0", "-n", "5", "--min-ess", "1e9"), 5, "independent ones")
    refused(cli("query", conditional, "--where", "b=0"), 2, "a must be known")

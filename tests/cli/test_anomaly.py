"""``bijectory anomaly`` as a user types it, wrong words included."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from cli.support import QUICK, banana
from cli.test_refusals import refused


@pytest.fixture
def new(tmp_path):
    frame = banana(40)
    frame.loc[7, "b"] = 50.0  # not a square
    frame.loc[9, "c"] = 3.0  # above its bound
    frame.to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "new.csv"


@pytest.fixture
def held_out(tmp_path):
    rng = np.random.default_rng(5)
    a = rng.normal(size=400)
    frame = pd.DataFrame({"a": a, "b": a**2 + 0.3 * rng.normal(size=400), "c": rng.random(400)})
    frame.to_csv(tmp_path / "held_out.csv", index=False)
    return tmp_path / "held_out.csv"


def read(text):
    return pd.read_csv(io.StringIO(text))


def test_flagged_rows_with_reasons(cli, run_folder, new, held_out):
    answer = cli("anomaly", run_folder, new, "--held-out", held_out, "--fpr", "0.01", "--explain")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert list(found.columns) == ["a", "b", "c", "row", "score", "p_value", "flagged", "because"]
    assert {7, 9} <= set(found["row"])
    because = found.set_index("row")["because"]
    assert because[7].startswith("b (")
    assert because[9].startswith("c (inf nats")
    assert f"{len(found)} of 40 rows flagged (about 0.4 expected among ordinary rows)" in answer.err


def test_the_test_rows_of_the_run_are_the_held_out_ones(cli, run_folder, new, tmp_path):
    out = tmp_path / "flagged.csv"
    answer = cli("anomaly", run_folder, new, "--fpr", "0.05", "-o", out)
    assert answer.out == ""
    assert {7, 9} <= set(pd.read_csv(out)["row"])
    every = read(cli("anomaly", run_folder, new, "--fpr", "0.05", "--all").out)
    assert len(every) == 40
    assert every["p_value"].min() == pytest.approx(1 / 31)
    assert every["row"][every["flagged"]].tolist() == pd.read_csv(out)["row"].tolist()


def test_json_is_a_summary(cli, run_folder, new):
    found = json.loads(cli("anomaly", run_folder, new, "--fpr", "0.05", "--json", "--method", "typicality").out)
    assert (found["rows"], found["method"]) == (40, "typicality")
    assert found["flagged"] == len(found["flagged_rows"]) >= 2


def test_likelihood_ratio_to_another_run(cli, run_folder, new, table, tmp_path):
    words = ("--bounded", "c=0:1", "--json", "-q", *QUICK)
    assert cli("fit", table, "--out", tmp_path / "background", *words).code == 0
    words = ("--method", "likelihood-ratio", "--fpr", "0.05", "--all")
    answer = cli("anomaly", run_folder, new, *words, "--background", tmp_path / "background")
    assert answer.code == 0, answer.err
    refused(cli("anomaly", run_folder, new, *words), 2, "background")


def test_what_cannot_be_judged_is_refused(cli, run_folder, new, table, tmp_path):
    refused(cli("anomaly", run_folder, new), 2, "fpr=0.01 needs at least 99 held-out rows", "30 held-out rows")
    refused(cli("anomaly", run_folder, new, "--fpr", "2"), 2, "fpr must be in (0, 1)")
    refused(cli("anomaly", run_folder, new, "--fpr", "0.1", "--method", "magic"), 2, "'magic'", "typicality")
    refused(cli("anomaly", run_folder, new, "--fpr", "0.1", "--control", "none"), 2, "discoveries")
    refused(cli("anomaly", run_folder, new, "--nonfinite", "skip"), 2, "propagate")
    refused(cli("anomaly", run_folder, tmp_path / "nope.csv"), 3, "no file")
    refused(cli("anomaly", tmp_path, new), 4, "config.json")
    refused(cli("anomaly", run_folder, new, "--fpr", "0.1", "--method", "input-complexity"), 2, "images only")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    refused(cli("anomaly", run_folder, tmp_path / "rows.csv", "--fpr", "0.1"), 3, "'c'")
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,0.5\n1,,0.5\n")
    refused(cli("anomaly", run_folder, tmp_path / "rows.csv", "--fpr", "0.1"), 3, "row 1", "propagate")
    words = ("--fpr", "0.1", "--nonfinite", "propagate", "--all", "--explain")
    assert np.isnan(read(cli("anomaly", run_folder, tmp_path / "rows.csv", *words).out)["p_value"][1])

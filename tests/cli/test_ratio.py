"""``bijectory ratio``: two tables in, a folder with rows, weights and a report out; bad input."""

import json

import numpy as np
import pandas as pd
import pytest

from bijectory.apps import compare_tables
from bijectory.report import write_ratio


@pytest.fixture
def pair(tmp_path):
    """Paths of two tables; the second one has semicolons, decimal commas, and its columns in another order."""
    rng = np.random.default_rng(0)
    a = pd.DataFrame(rng.normal(size=(150, 2)), columns=["größe", "b c"])
    b = pd.DataFrame(rng.normal(0.7, 1, size=(120, 2)), columns=["größe", "b c"])
    a.to_csv(tmp_path / "a.csv", index=False)
    b[["b c", "größe"]].to_csv(tmp_path / "b.csv", index=False, sep=";", decimal=",")
    return tmp_path / "a.csv", tmp_path / "b.csv"


def refused(answer, code, *words):
    assert answer.code == code, answer
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, answer.err
    for word in words:
        assert word in lines[0], lines[0]


def test_a_comparison_is_printed_and_written(cli, pair, tmp_path):
    out = tmp_path / "out"
    answer = cli("ratio", *pair, "-o", out, "--classifier", "linear")
    assert answer.code == 0, answer.err
    for word in ("differ", "Pareto k", "KL(A, B)", "größe", "p (Holm)"):
        assert word in answer.out
    rows = pd.read_csv(out / "b.csv")
    assert list(rows.columns) == ["b c", "größe", "log_ratio", "log_ratio_se", "weight"]
    assert rows["weight"].mean() == pytest.approx(1)
    assert np.average(rows["größe"], weights=rows["weight"]) < rows["größe"].mean()
    assert list(pd.read_csv(out / "a.csv").columns) == ["größe", "b c", "log_ratio", "log_ratio_se"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for word in ("tables differ", "größe", "Pareto k", "data:image/png"):
        assert word in page
    facts = json.loads((out / "ratio.json").read_text())
    found = json.loads(cli("ratio", *pair, "--json", "--classifier", "linear").out)
    assert {k: v for k, v in facts.items() if k != "tables"} == found
    assert found["p_value"] < 0.05
    refused(cli("ratio", *pair, "-o", out), 2, "--overwrite")
    assert cli("ratio", *pair, "-o", out, "--overwrite", "--classifier", "linear", "-q", "--no-report").code == 0


def test_own_columns_are_kept(tmp_path):
    """A column that is called as one of ours stays what it was."""
    rng = np.random.default_rng(0)
    a, b = (pd.DataFrame({"weight": rng.normal(size=60)}) for _ in range(2))
    write_ratio(compare_tables(a, b, classifier="linear"), a, b, tmp_path, report=False)
    rows = pd.read_csv(tmp_path / "b.csv")
    np.testing.assert_allclose(rows["weight"], b["weight"])
    assert rows["bijectory_weight"].mean() == pytest.approx(1)


def test_ratio_refuses(cli, pair, tmp_path):
    a, b = pair
    frame = pd.read_csv(a)

    def other(frame):
        frame.to_csv(tmp_path / "c.csv", index=False)
        return tmp_path / "c.csv"

    refused(cli("ratio", a, tmp_path / "no.csv"), 3, "no file")
    refused(cli("ratio", a, other(frame[["b c"]])), 3, "'größe' is in the first", "--drop")
    refused(cli("ratio", a, other(frame.assign(z=1))), 3, "'z' is in the second")
    refused(cli("ratio", a, other(frame.assign(**{"b c": "x"}))), 3, "'b c' is text")
    refused(cli("ratio", a, other(frame.assign(größe=frame["größe"].where(frame.index != 3)))), 3, "NaN")
    refused(cli("ratio", a, other(frame[:12])), 3, "150 and 12 rows", "at least 20")
    refused(cli("ratio", other(frame * 0), other(frame * 0)), 3, "nothing to compare")
    refused(cli("ratio", a, b, "--classifier", "svm"), 2, "'svm'", "discriminant")
    refused(cli("ratio", a, b, "--drop", "zz"), 3, "'zz'")
    refused(cli("ratio", a, b, "--permutations", "3"), 2, "--permutations")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    refused(cli("ratio", a, b, "-o", tmp_path / "mine", "--overwrite"), 2, "holds no run")
    refused(cli("ratio", a, b, "-o", a), 2, "is a file")
    answer = cli("ratio", a, a, "--classifier", "linear")
    assert answer.code == 0
    assert "cannot be told apart" in answer.out
    assert "150 rows are in both" in answer.err

"""``bijectory anomaly`` as a user types it, wrong words included."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bijectory.cli import main
from cli.support import QUICK, banana
from cli.test_refusals import refused
from images_support import blobs


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


# -- labels and the report ---------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(new, tmp_path):
    frame = pd.read_csv(new).assign(odd=lambda f: f.index.isin([7, 9]).astype(int), note="text")
    frame.to_csv(tmp_path / "labelled.csv", index=False)
    return tmp_path / "labelled.csv"


def test_labels_say_how_well_anomalies_are_found(cli, run_folder, labelled, held_out):
    words = ("--held-out", held_out, "--labels", "odd")
    answer = cli("anomaly", run_folder, labelled, *words)
    assert answer.code == 0, answer.err
    assert "AUROC 1.0000 ± 0.0000; 100.0% of the anomalies found" in answer.err
    assert "note" in read(answer.out).columns  # columns that the run does not know are handed through
    found = json.loads(cli("anomaly", run_folder, labelled, *words, "--json").out)
    assert found["evaluation"]["auroc"] == 1.0
    assert found["held_out_rows"] == 400
    assert found["caution"] is None  # 400 rows are just enough for one in a hundred
    assert "note: with 30 held-out rows the rate" in cli("anomaly", run_folder, labelled, "--fpr", "0.05").err
    refused(
        cli("anomaly", run_folder, labelled, *words[:2], "--labels", "class"), 3, "--labels class", "a, b, c, odd, note"
    )
    refused(cli("anomaly", run_folder, labelled, *words[:2], "--labels", "note"), 3, "write 1 for anomalies")


def test_the_report_has_what_was_found(cli, run_folder, labelled, held_out, tmp_path):
    words = ("--held-out", held_out, "--fpr", "0.05", "--report", tmp_path / "report")
    answer = cli("anomaly", run_folder, labelled, *words, "--labels", "odd", "-o", tmp_path / "flagged.csv")
    assert answer.code == 0, answer.err
    page = (tmp_path / "report" / "report.html").read_text()
    for word in ("anomalies are told apart", "held-out rows suffice", 'id="roc"', 'id="p_values"', "expected about"):
        assert word in page
    assert {p.name for p in (tmp_path / "report" / "figures").iterdir()} == {"p_values.png", "scores.png", "roc.png"}
    rows = re.findall(r"<tr><td>(\d+)</td>(.*?)</tr>", page)
    assert {int(row) for row, _ in rows[:2]} == {7, 9}
    assert "<td>inf</td>" in dict(rows)["9"]
    assert cli("anomaly", run_folder, labelled, *words, "-o", tmp_path / "flagged.csv").code == 0
    assert 'id="roc"' not in (tmp_path / "report" / "report.html").read_text()
    refused(cli("anomaly", run_folder, labelled, *words[:4], "--report", run_folder, "-q"), 2, "run folder", "another")


def test_columns_of_the_run_are_not_overwritten(cli, tmp_path, held_out):
    for name in ("fit", "new"):
        frame = banana(300 if name == "fit" else 40).rename(columns={"a": "score"})
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    assert cli("fit", tmp_path / "fit.csv", "--out", tmp_path / "run", "--json", "-q", *QUICK).code == 0
    answer = cli("anomaly", tmp_path / "run", tmp_path / "new.csv", "--fpr", "0.1", "--all", "--explain")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert list(found.columns[3:]) == ["row", "anomaly_score", "p_value", "flagged", "because"]
    np.testing.assert_allclose(found["score"], pd.read_csv(tmp_path / "new.csv")["score"])


def test_a_run_with_given_columns_judges_rows_in_their_context(cli, conditional, tmp_path):
    frame = pd.DataFrame({"a": [0.0, 2.0, 0.0], "b": [0.0, 4.0, 40.0]})
    frame.to_csv(tmp_path / "new.csv", index=False)
    answer = cli("anomaly", conditional, tmp_path / "new.csv", "--fpr", "0.05", "--explain")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert 2 in set(found["row"])
    assert found.set_index("row")["because"][2].startswith("b (")
    (tmp_path / "rows.csv").write_text("b\n1\n")
    refused(cli("anomaly", conditional, tmp_path / "rows.csv", "--fpr", "0.05"), 3, "'a'")


@pytest.mark.parametrize("fpr", ["0", "1", "2", "-0.1", "nan"])
def test_a_rate_is_between_nothing_and_all(cli, run_folder, new, fpr):
    refused(cli("anomaly", run_folder, new, "--fpr", fpr), 2, "fpr must be in (0, 1)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty",)),
        ("a,b,c\n", ("no rows",)),
        ("a,b,c\n1,2,0.5\n1,2,oops\n", ("'c'", "oops")),
        ("a,b\n1,2\n1,2\n", ("'c'",)),
        ("a,b,c\n1,2,0.5\n1,,0.5\n", ("row 1", "propagate")),
    ],
)
def test_rows_that_cannot_be_judged(cli, run_folder, tmp_path, text, words):
    (tmp_path / "rows.csv").write_text(text)
    refused(cli("anomaly", run_folder, tmp_path / "rows.csv", "--fpr", "0.1"), 3, *words)
    good = tmp_path / "good.csv"
    banana(5).to_csv(good, index=False)
    words = words[:1] if "row 1" not in words else ("NaN",)
    refused(cli("anomaly", run_folder, good, "--held-out", tmp_path / "rows.csv", "--fpr", "0.1"), 3, *words)


def test_discoveries_need_many_held_out_rows(cli, run_folder, new):
    answer = cli("anomaly", run_folder, new, "--fpr", "0.1", "--control", "discoveries")
    assert answer.code == 0
    assert "note: with 30 held-out rows, fewer than 13 anomalies among 40 rows" in answer.err


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images to fit to, new ones of which the first two are strange, and the run."""
    folder = tmp_path_factory.mktemp("pictures")
    np.savez(folder / "images.npz", images=blobs(400)[0])
    x = blobs(30, seed=1)[0]
    x[:2] = np.indices((4, 4)).sum(0) % 2 * 7
    np.savez(folder / "new.npz", images=x, labels=np.arange(30) < 2)
    words = ("--recipe", "glow", "--set", "steps=1", "--set", "hidden=8", "--epochs", "3", "--seed", "1", "--no-report")
    assert main(["fit", str(folder / "images.npz"), "--out", str(folder / "run"), *words, "--json", "-q"]) == 0
    return folder


def test_images_are_flagged_with_the_patches_to_blame(cli, pictures, tmp_path):
    words = ("--fpr", "0.05", "--explain", "--heat", tmp_path / "heat.png", "--labels", "labels")
    answer = cli("anomaly", pictures / "run", pictures / "new.npz", *words, "--report", tmp_path / "report")
    assert answer.code == 0, answer.err
    found = read(answer.out)
    assert list(found.columns) == ["image", "score", "p_value", "flagged", "because"]
    assert {0, 1} <= set(found["image"])
    assert found["because"][0].startswith("rows ")
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.mode == "RGB"
    assert "images flagged" in answer.err
    assert "AUROC 1.0000" in answer.err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "patches to blame" in page
    assert 'id="patches"' in page
    summary = json.loads(cli("anomaly", pictures / "run", pictures / "new.npz", "--fpr", "0.05", "--json").out)
    assert summary["method"] == "combined"
    assert {0, 1} <= set(summary["flagged_rows"])


def test_images_that_cannot_be_judged(cli, pictures, run_folder, tmp_path):
    run, new = pictures / "run", pictures / "new.npz"
    np.savez(tmp_path / "large.npz", images=np.zeros((3, 6, 6), np.uint8))
    refused(cli("anomaly", run, tmp_path / "large.npz", "--fpr", "0.05"), 3, "(3, 6, 6)", "(n, 4, 4)")
    np.savez(tmp_path / "bright.npz", images=np.full((3, 4, 4), 200, np.uint8))
    refused(cli("anomaly", run, tmp_path / "bright.npz", "--fpr", "0.05"), 3, "200", "expected 0 ... 7")
    np.savez(tmp_path / "plain.npz", images=np.zeros((3, 4, 4), np.uint8))
    refused(cli("anomaly", run, tmp_path / "plain.npz", "--fpr", "0.05", "--labels", "labels"), 3, "holds no labels")
    banana(9).to_csv(tmp_path / "rows.csv", index=False)
    refused(cli("anomaly", run, tmp_path / "rows.csv", "--fpr", "0.05"), 3, "no file of images")
    refused(cli("anomaly", run, new, "--fpr", "0.001"), 2, "needs at least 999 held-out")
    refused(cli("anomaly", run, new, "--nonfinite", "propagate"), 2, "--nonfinite is for tables")
    refused(
        cli("anomaly", run_folder, tmp_path / "rows.csv", "--fpr", "0.1", "--heat", "x.png"), 2, "--heat is for images"
    )
    answer = cli("anomaly", run_folder, new, "--fpr", "0.1")
    assert answer.code == 3
    refused(answer, 3, "new.npz")
    refused(cli("anomaly", run, new, "--background", run_folder, "--method", "likelihood-ratio"), 2, "TableFlow")

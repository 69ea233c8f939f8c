"""Bad input: one sentence with the remedy, the right exit code, nothing on stdout."""

import json
import shutil

import pytest

from bijectory.errors import ConvergenceError
from cli.support import QUICK, banana


def refused(answer, code, *words):
    assert answer.code == code, answer
    assert answer.out == ""
    lines = [line for line in answer.err.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, answer.err
    assert lines[0].startswith("bijectory: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def fit(cli, tmp_path):
    def run(frame, *words):
        frame.to_csv(tmp_path / "rows.csv", index=False)
        return cli("fit", tmp_path / "rows.csv", "--out", tmp_path / "run", *QUICK, *words)

    return run


def test_missing_file(cli, tmp_path):
    refused(cli("fit", tmp_path / "nope.csv", "--out", tmp_path / "run"), 3, "no file", "nope.csv")
    assert not (tmp_path / "run").exists()


def test_text_column(fit):
    refused(fit(banana().assign(name="x")), 3, "'name'", "text", "--drop name")
    assert fit(banana().assign(name="x"), "--drop", "name").code == 0


def test_missing_values(fit):
    frame = banana()
    frame.loc[5, "b"] = float("nan")
    refused(fit(frame), 3, "NaN", "row 5", "'b'")
    assert fit(frame, "--missing", "drop").code == 0


def test_one_row(fit):
    refused(fit(banana(1)), 3, "1 sample", "minimum of 2")


def test_constant_column_is_named_and_left_out(fit):
    answer = fit(banana().assign(k=2.0))
    assert answer.code == 0
    assert "warning: column 'k' is constant" in answer.err


def test_precision(fit):
    refused(fit(banana(), "--precision", "half"), 2, "precision='half'", "'full' or 'bf16'")
    assert fit(banana(), "--precision", "bf16").code == 0


def test_misspelt_recipe(fit):
    refused(fit(banana(), "--recipe", "realnvp"), 2, "'realnvp'", "did you mean real_nvp")


def test_misspelt_argument_of_a_recipe(fit):
    refused(fit(banana(), "--set", "layrs=3"), 2, "layrs")


def test_unknown_columns(fit):
    refused(fit(banana(), "--bounded", "zz=0:1"), 3, "zz")
    refused(fit(banana(), "--drop", "zz"), 3, "zz")
    refused(fit(banana(), "--given", "zz"), 3, "zz")


def test_values_outside_their_bounds(fit):
    refused(fit(banana(), "--bounded", "a=0:1"), 3, "'a'", "outside")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--bounded", "c"), "--bounded COLUMN=LOW:HIGH"),
        (("--bounded", "c=0"), "--bounded COLUMN=LOW:HIGH"),
        (("--bounded", "c=1:0"), "below"),
        (("--bounded", "c=a:b"), "not a number"),
        (("--set", "layers"), "--set NAME=VALUE"),
        (("--time-budget", "soon"), "10m"),
        (("--epochs", "many"), "--epochs"),
        (("--epochs", "-1"), "greater than or equal to 1"),
        (("--resume", "--overwrite"), "choose one"),
        (("--config", "nope.toml"), "cannot be read"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_usage(fit, words, remedy):
    refused(fit(banana(), *words), 2, remedy)


def test_settings_of_a_config_file(fit, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("learning_rate = 0.1")
    refused(fit(banana(), "--config", config), 2, "'learning_rate'", "'lr'")
    config.write_text("lr = ")
    refused(fit(banana(), "--config", config), 2, "not valid toml")
    config.write_text("bounded = {c = 1}")
    refused(fit(banana(), "--config", config), 2, "bounded.c")


def test_overwrite_takes_only_a_run(fit, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("mine")
    refused(fit(banana(), "--overwrite"), 2, "not a run folder")
    assert (tmp_path / "run" / "README.md").exists()


def test_wrong_folder(cli, table, tmp_path):
    refused(cli("score", tmp_path, table), 4, "config.json")
    refused(cli("sample", tmp_path / "nowhere"), 4, "nowhere")
    refused(cli("show", tmp_path), 4, "config.json")


def test_other_columns(cli, run_folder, tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    refused(cli("score", run_folder, tmp_path / "rows.csv"), 3, "'c'")


def test_conditions_of_a_run_without_any(cli, run_folder):
    refused(cli("sample", run_folder, "--given", "a=1"), 2, "none")
    refused(cli("sample", run_folder, "--given", "a"), 2, "--given COLUMN=VALUE")


def test_nearest_verb(cli):
    refused(cli("fitt"), 2, "fit")


def test_errors_as_json(cli, tmp_path):
    answer = cli("fit", tmp_path / "nope.csv", "--out", tmp_path / "run", "--json")
    found = json.loads(answer.err)
    assert found["exit_code"] == answer.code == 3
    assert found["error"] == "DataError"
    assert "nope.csv" in found["message"]


def test_trace_only_when_asked_for(cli, tmp_path):
    words = ("fit", tmp_path / "nope.csv", "--out", tmp_path / "run")
    assert "Traceback" not in cli(*words).err
    assert "Traceback" in cli(*words, "--debug").err


@pytest.mark.parametrize("verb", ["score", "sample", "show", "report", "predict", "query", "anomaly"])
def test_damaged_runs(cli, run_folder, table, tmp_path, verb):
    """Every verb that opens a run: one sentence that names the file, code 4."""
    extra = {"score": [table], "predict": [table], "anomaly": [table], "query": ["--where", "a=0"]}.get(verb, [])
    for name in ("config.json", "model.safetensors", "schema.json"):
        for damage in (lambda data: data[: len(data) // 2], lambda _: b"", lambda data: b"\x80" + data[1:]):
            folder = shutil.copytree(run_folder, tmp_path / "run", dirs_exist_ok=True)
            (folder / name).write_bytes(damage((folder / name).read_bytes()))
            refused(cli(verb, folder, *extra), 4, name)
    shutil.rmtree(folder / "..", ignore_errors=True)


def test_what_does_not_converge_has_a_code_of_its_own(cli, run_folder, table, monkeypatch):
    def fails(*_, **__):
        raise ConvergenceError("inverse did not reach 1e-6 in 200 iterations for 3 of 512 rows; raise max_steps.")

    monkeypatch.setattr("bijectory.apps.TableFlow.score_parts", fails)
    refused(cli("score", run_folder, table), 5, "3 of 512 rows")


def test_a_defect_is_called_one(cli, run_folder, table, monkeypatch):
    monkeypatch.setattr("bijectory.apps.TableFlow.score_parts", lambda *_, **__: 1 / 0)
    refused(cli("score", run_folder, table), 1, "unexpected ZeroDivisionError", "--debug")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "text", ""])
def test_rows_that_are_no_numbers(cli, run_folder, tmp_path, value):
    (tmp_path / "rows.csv").write_text(f"a,b,c\n1,2,0.5\n1,{value},0.5\n3,4,0.1\n")
    refused(cli("score", run_folder, tmp_path / "rows.csv"), 3, "'b'")

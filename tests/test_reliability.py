"""The program of the reliability page: every row is there, logs are read as they were, the table is what was stored."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def program(monkeypatch):
    """Module of the program by name; its package puts paths in front, which go again."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    return lambda name: importlib.import_module(f"benchmarks.reliability.{name}")


def test_every_row_of_the_target_list_is_measured(program):
    program("__main__")
    rows = program("register").ROWS
    assert sorted(rows) == list(range(1, 30))
    assert all(row.what and row.target and row.peer for row in rows.values())


def test_a_log_is_read_as_it_was(program):
    read = program("suite").read
    log = "..F [100%]\nFAILED tests/test_x.py::test_y - assert 1 == 2\n1 failed, 17012 passed in 501.23s (0:08:21)\n"
    assert read(log) == (17012, 1, 501.23, ("tests/test_x.py::test_y",))
    assert read("=== 12 passed, 2 deselected in 3.5s ===\nmake: done\n") == (12, 0, 3.5, ())
    assert read("2 passed, 1 error in 0.50s\n")[:2] == (2, 1)
    assert read(".....\nTerminated\n")[1] == 1, "a run that broke off is a failure"


def test_the_suite_is_judged_by_failures_number_and_time(program, tmp_path):
    suite = program("suite").suite
    logs = [tmp_path / f"{k}.log" for k in range(50)]
    for path in logs:
        path.write_text("100 passed in 90.00s\n")
    text, ok, _ = suite(logs)
    assert ok
    assert text == "0 of 50 runs with a failure; 100 tests in 90 s (median, 90 to 90)"
    assert not suite(logs[:49])[1], "too few runs"
    logs[0].write_text("100 passed in 130.00s\n")
    assert not suite(logs)[1], "too slow"
    logs[0].write_text("FAILED tests/test_a.py::b\n1 failed, 99 passed in 90.00s\n")
    text, ok, remark = suite(logs)
    assert not ok
    assert text.startswith("1 of 50 runs")
    assert "test_a.py::b" in remark


def test_the_page_holds_what_was_stored(program, tmp_path, monkeypatch):
    program("__main__")
    page = program("page")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "STORE", tmp_path / "store.json")
    page.PAGE.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.record(2, ("1e-6 | fine", True, ""))
    page.record(1, ("9.0", False, "too large"))
    text = page.PAGE.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text
    assert "| 1e-6 \\| fine | met |" in text
    assert "| 9.0 | **short** |" in text
    assert "9.0. too large." in text.split("## Where we fall short")[1]
    assert text.count("not measured yet") == 2 * 27
    assert (
        page.machines({"1": {"machine": "A"}, "2": {"machine": "B"}, "3": {"machine": "A"}}) == "Machine: A. Rows 2: B."
    )


def test_the_page_of_the_repository_is_the_one_of_its_store(program):
    """Only the program writes the table."""
    program("__main__")
    page = program("page")
    results = page.json.loads(page.STORE.read_text())
    assert page.table(results) in page.PAGE.read_text()

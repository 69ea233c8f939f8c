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
    noise = "== slowest 2 durations ==\n9.31s call tests/test_a.py::b\n12 passed, 3 skipped in 1353.02s (0:22:33)\n"
    assert read(noise + "\nreal\t22m40.1s\nuser\t22m1.0s\nsys\t0m9.0s\n") == (12, 0, 1353.02, ())


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


def test_the_slow_tier_is_told_and_its_failures_count(program, tmp_path):
    suite = program("suite").suite
    quick, slow = tmp_path / "quick.log", tmp_path / "slow.log"
    quick.write_text("100 passed in 90.00s\n")
    slow.write_text("7 passed in 4000.00s (1:06:40)\n")
    text, ok, remark = suite([quick] * 50, [slow])
    assert ok
    assert text.endswith("slow tier: 0 of 1 runs of it with a failure; 7 tests in 4000 s (median, 4000 to 4000)")
    assert "over 600 s: 0 of 50, over 3600 s of the slow tier: 1 of 1" in remark
    slow.write_text("FAILED tests/test_s.py::t\n1 failed, 6 passed in 10.00s\n")
    text, ok, remark = suite([quick] * 50, [slow])
    assert not ok
    assert "slow tier: 1 of 1 runs of it with a failure" in text
    assert "test_s.py::t" in remark


def test_a_selection_that_ran_nothing_proves_nothing(program, tmp_path, monkeypatch):
    register = program("register")
    monkeypatch.setattr(register, "ROOT", tmp_path)
    (tmp_path / "test_a.py").write_text("def test_one(): pass\ndef test_two(): assert 0\n")
    assert register.verdict("test_a.py", "-k", "one") == ("1 tests, 0 failed", True)
    assert register.verdict("test_a.py", "-k", "one", least=2)[1] is False
    assert register.verdict("test_a.py") == ("1 tests, 1 failed", False)
    assert register.verdict("test_a.py", "-k", "three") == ("0 tests, 0 failed", False)


@pytest.mark.parametrize("number", [19, 21, 24, 25, 26, 29])
def test_rows_of_tests_are_not_met_by_none(program, monkeypatch, number):
    program("__main__")
    monkeypatch.setattr(program("register"), "run_tests", lambda *words: (0, 0))
    assert program("register").ROWS[number].measure()[1] is False


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

"""The list of planted faults fits the code; ``benchmarks/mutants.py`` runs them."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAULTS = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())["mutant"]


def test_there_are_many_and_each_once():
    assert len({f["name"] for f in FAULTS}) == len(FAULTS) >= 40


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f["name"])
def test_each_changes_one_place_into_valid_code(fault):
    code = (ROOT / "src" / "bijectory" / fault["file"]).read_text()
    assert code.count(fault["find"]) == 1
    assert fault["replace"] != fault["find"]
    if fault["file"].endswith(".py"):
        compile(code.replace(fault["find"], fault["replace"]), fault["file"], "exec")
    assert all((ROOT / t).exists() for t in fault["tests"] if t.startswith("tests/"))

"""The command line in this process, and runs for it."""

import typing

import pytest

from bijectory.cli import main
from cli.support import QUICK, banana


class Answer(typing.NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd):
    """Run a command; words may be paths."""

    def run(*words):
        capfd.readouterr()
        code = main([str(w) for w in words])
        return Answer(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "banana.csv"
    banana().to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def run_folder(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["fit", str(table), "--out", str(out), "--bounded", "c=0:1", "--json", "-q", *QUICK]) == 0
    return out


@pytest.fixture(scope="session")
def conditional(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "conditional"
    assert main(["fit", str(table), "--out", str(out), "--given", "a", "--drop", "c", "--json", "-q", *QUICK]) == 0
    return out

"""What only a process of its own can show: what --help loads, pipes, signals, a full disk."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from cli.support import QUICK

resource = pytest.importorskip("resource")  # POSIX
ENV = dict(os.environ, PYTHONPATH=str(pathlib.Path(__file__).parents[2] / "src"), OMP_NUM_THREADS="1")
CALL = (sys.executable, "-m", "bijectory")


def start(*words, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENV} | options
    return subprocess.Popen([*CALL, *map(str, words)], **options)


def finish(process, code):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def test_help_loads_no_torch():
    code = "import sys; from bijectory.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENV, check=True)
    heavy = {"torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "pydantic"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())


def test_a_closed_pipe_is_quiet(run_folder):
    with start("sample", run_folder, "-n", "20000", "-q") as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(120) == 141


def interrupt(number, words, out):
    """Start a fit, send a signal after the first epoch, and return what it said."""
    process = start(*words, "--out", out)
    deadline = time.monotonic() + 100
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return finish(process, 128 + number)[1]


def test_a_fit_under_ctrl_c_is_saved_and_resumed_exactly(cli, table, tmp_path):
    words = ("fit", table, *QUICK[:-1], "150", "-q")
    run, whole = tmp_path / "run", tmp_path / "whole"
    interrupt(signal.SIGINT, words, run)
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 150
    assert cli(*words, "--out", run).code == 2  # the folder is not empty
    assert cli(*words, "--out", run, "--resume").code == 0
    assert cli(*words, "--out", whole).code == 0
    assert cli("score", run, table).out == cli("score", whole, table).out


def test_sigterm_is_answered_with_how_to_go_on(table, tmp_path):
    err = interrupt(signal.SIGTERM, ("fit", table, *QUICK[:-1], "5000"), tmp_path / "run")
    assert "--resume" in err
    assert "Traceback" not in err


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_while_writing_rows(run_folder):
    _, err = finish(start("sample", run_folder, "-n", "5", "-q", "-o", "/dev/full"), 3)
    assert err.startswith("bijectory: ")
    assert "no space left" in err
    assert len(err.splitlines()) == 1


def test_a_full_disk_while_fitting(table, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    process = start("fit", table, "--out", tmp_path / "run", "--quiet", *QUICK, preexec_fn=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (3, 4)
    assert "file too large" in err.lower()
    assert len(err.splitlines()) == 1

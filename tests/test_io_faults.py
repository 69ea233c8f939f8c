"""Saved models under faults: kills, failing disks, flipped bits, truncation, hostile files."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.io import fs
from laws.cases import randomize

ROOT = Path(__file__).parent.parent
FILES = ("config.json", "model.safetensors")


def flow(seed=0, width=8):
    return randomize(bj.real_nvp(4, layers=2, hidden=(width,)), seed=seed)


@pytest.fixture
def run(tmp_path):
    bj.save(flow(), tmp_path)
    return tmp_path


def seed_of(folder):
    """Which of the flows 0, 1 a folder holds."""
    state = bj.load(folder).state_dict()
    for seed in (0, 1):
        if all(torch.equal(state[n], t) for n, t in flow(seed).state_dict().items()):
            return seed
    raise AssertionError("neither of the two models")


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_refused(run, name):
    data = (run / name).read_bytes()
    positions = random.Random(0).sample(range(len(data)), 300)
    for k, position in enumerate(positions):
        flipped = bytearray(data)
        flipped[position] ^= 1 << k % 8
        (run / name).write_bytes(flipped)
        with pytest.raises(CheckpointError) as info:
            bj.load(run)
        assert name in str(info.value) or name == "config.json", "the message names the file"
    (run / name).write_bytes(data)
    assert seed_of(run) == 0


def test_a_flip_in_a_tensor_names_the_tensor(run):
    data = bytearray((run / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"tensor 'transform.transforms.1.net.head.bias' was altered \(sha256"):
        bj.load(run)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0, 1, 7, 0.1, 0.5, 0.9, -1])
def test_truncation(run, name, part):
    data = (run / name).read_bytes()
    cut = int(part * len(data)) if isinstance(part, float) else part % len(data)
    (run / name).write_bytes(data[:cut])
    with pytest.raises(CheckpointError, match=name) as info:
        bj.load(run)
    assert "truncated" in str(info.value)
    if name == "model.safetensors":
        assert f"{fs.grouped(cut)} of {fs.grouped(len(data))} bytes" in str(info.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tail", [b"\n", b"\0" * 4096])
def test_trailing_bytes(run, name, tail):
    with (run / name).open("ab") as file:
        file.write(tail)
    with pytest.raises(CheckpointError, match=name):
        bj.load(run)


# -- crashes -----------------------------------------------------------------------------------------------------------


def count_operations(monkeypatch, folder):
    calls = []
    for name in ("_write", "_fsync", "_rename"):
        original = getattr(fs, name)
        monkeypatch.setattr(fs, name, lambda *a, f=original, n=name: (calls.append(n), f(*a)))
    bj.save(flow(1), folder)
    monkeypatch.undo()
    return len(calls)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(5, "Input/output error")], ids=str)
@pytest.mark.parametrize("partial", [False, True])
def test_every_failing_call_leaves_a_model(tmp_path, monkeypatch, error, partial):
    """The k-th call fails, for every k, before it does anything or after it has done it."""
    total = count_operations(monkeypatch, tmp_path / "count")
    assert total > 15
    outcomes = []
    for k in range(total):
        folder = tmp_path / f"{k}"
        bj.save(flow(0), folder)
        left = [k]

        def fail(*args, original, left=left):
            left[0] -= 1
            if left[0] == -1 and not partial:
                raise error
            original(*args)
            if left[0] == -1:
                raise error

        for name in ("_write", "_fsync", "_rename"):
            original = getattr(fs, name)
            monkeypatch.setattr(fs, name, lambda *a, f=original: fail(*a, original=f))
        with pytest.raises(CheckpointError, match=f"not saved in .*{error.strerror.lower()} .need .*, free ") as info:
            bj.save(flow(1), folder)
        monkeypatch.undo()
        seed = seed_of(folder)
        outcomes.append(seed)
        assert ("is intact" in str(info.value)) == (seed == 0)
        assert set(os.listdir(folder)) <= {*FILES, *(["model.next.safetensors"] if seed else [])}
        bj.save(flow(1 - seed), folder)
        assert seed_of(folder) == 1 - seed
        assert sorted(os.listdir(folder)) == list(FILES)
    assert outcomes == sorted(outcomes), "old before the moment of truth, new after it"
    assert set(outcomes) == {0, 1}


def test_a_single_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    fs.atomic_write(path, [b"old"])

    def fail(*_):
        raise OSError(5, "Input/output error")

    for name in ("_write", "_fsync", "_rename"):
        monkeypatch.setattr(fs, name, fail)
        with pytest.raises(OSError, match="Input"):
            fs.atomic_write(path, [b"new"])
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_first_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fs, "_fsync", fail)
    with pytest.raises(CheckpointError, match="no space left on device"):
        bj.save(flow(), tmp_path / "run")
    assert os.listdir(tmp_path / "run") == []


def test_a_folder_that_cannot_be_made(run):
    with pytest.raises(CheckpointError, match="not saved in"):
        bj.save(flow(), run / "config.json" / "run")


FULL = """
import resource, signal, sys
import bijectory as bj
from bijectory.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    bj.save(bj.real_nvp(4, layers=8, hidden=(64, 64)), sys.argv[1])
except CheckpointError as error:
    print(error)
"""

KILLS = """
import os, random, signal, sys, time
import torch
import bijectory as bj
from bijectory.io import fs

folder, kills, rng = sys.argv[1], int(sys.argv[2]), random.Random(0)
width = 64 if kills else 8
flows = []
for seed in range(2):
    torch.manual_seed(seed)
    flows.append(bj.real_nvp(4, layers=4, hidden=(width, width)))
bj.save(flows[0], folder)

def check():
    state = bj.load(folder).state_dict()
    return next(s for s in range(2) if all(torch.equal(state[n], t) for n, t in flows[s].state_dict().items()))

def kill_at(k, after):
    for name in ("_write", "_fsync", "_rename"):
        def step(*args, original=getattr(fs, name)):
            nonlocal k
            k -= 1
            if k == -1 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            original(*args)
            if k == -1:
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(fs, name, step)

found, k = [], 0
while kills == 0 or k < kills:
    child = os.fork()
    if child == 0:
        if kills == 0:
            kill_at(k // 2, k % 2)
            bj.save(flows[(k // 2) % 2], folder)
            os._exit(0)
        while True:
            bj.save(flows[rng.randrange(2)], folder)
            bj.save(flows[0], folder)
    if kills:
        time.sleep(rng.random() * 0.1)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    found.append(check())
    if kills == 0 and os.WIFEXITED(status):
        break
    k += 1
print(len(found), *sorted(set(found)), *sorted(os.listdir(folder)))
"""


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
class TestProcesses:
    def test_a_full_disk(self, run):
        said = python(FULL, run)
        assert "not saved" in said
        assert "file too large" in said
        assert seed_of(run) == 0
        assert sorted(os.listdir(run)) == list(FILES)

    def test_killed_at_every_operation(self, tmp_path):
        count, *rest = python(KILLS, tmp_path / "run", 0).split()
        assert int(count) > 60
        assert rest == ["0", "1", *FILES]

    def test_killed_at_random(self, tmp_path):
        assert python(KILLS, tmp_path / "run", 20).split()[0] == "20"

    @pytest.mark.slow
    def test_killed_at_random_often(self, tmp_path):
        assert python(KILLS, tmp_path / "run", 300).split()[0] == "300"

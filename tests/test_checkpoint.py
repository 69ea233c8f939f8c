"""Checkpoints under kill -9, a full disk, faults at every call, truncation and flipped bits."""

import errno
import os
import random
import resource
import signal
import time
import warnings

import pytest
import torch

import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.io import fs
from bijectory.training import FitConfig, fit
from bijectory.training.checkpoint import Checkpoints


def state(step, size=1000):
    return {"step": step}, {"a/x": torch.full((size,), float(step)), "b": torch.arange(3)}


def whole(found, size=1000):
    """Whether a loaded checkpoint is exactly what was saved under its step."""
    scalars, tensors = found
    expected = state(scalars["step"], size)[1]
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[k], expected[k]) for k in expected)


def test_round_trip_and_keep(tmp_path):
    store = Checkpoints(tmp_path / "new" / "checkpoint", keep=2)
    assert store.load() is None
    for step in (3, 20, 100):
        assert store.save(step, *state(step))
    assert store.steps() == [100, 20]
    assert len(list(store.folder.iterdir())) == 4
    assert whole(store.load())
    store.clear()
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_truncated_file_is_refused_and_the_previous_one_used(tmp_path, suffix):
    store = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        store.save(step, *state(step))
    path = tmp_path / f"step-000000002.{suffix}"
    data = path.read_bytes()
    for cut in (0, 1, len(data) // 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.warns(UserWarning, match=rf"step-000000002.{suffix} is truncated.*last good one, step 1"):
            found = store.load()
        assert found[0]["step"] == 1
        assert whole(found)
    path.unlink()
    if suffix == "json":
        assert store.load()[0]["step"] == 1  # without its JSON a checkpoint does not exist
    else:
        with pytest.warns(UserWarning, match=r"cannot be read: No such file.*step 1"):
            store.load()


def test_a_broken_newest_one_does_not_crowd_out_the_next(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(50, *state(50))
    (tmp_path / "step-000000100.json").write_text("{")
    store.save(60, *state(60))
    assert store.steps() == [60]
    assert store.load()[0]["step"] == 60


def flips(count, tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, *state(1, size=50))
    rnd, refused = random.Random(0), 0
    for _ in range(count):
        path = tmp_path / f"step-000000001.{rnd.choice(['json', 'safetensors'])}"
        data = bytearray(path.read_bytes())
        good = bytes(data)
        data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"altered") as info:
            store.load()
        refused += "step-000000001" in str(info.value) and "start again without resume" in str(info.value)
        path.write_bytes(good)
    assert whole(store.load(), 50)
    return refused


def test_flipped_bits_are_refused(tmp_path):
    assert flips(300, tmp_path) == 300


def test_a_flip_that_leaves_the_value_is_refused_too(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, {"lr": 1e-20}, {})
    path = tmp_path / "step-000000001.json"
    path.write_bytes(path.read_bytes().replace(b"1e-20", b"1E-20"))
    with pytest.raises(CheckpointError, match="altered"):
        store.load()


@pytest.mark.slow
def test_many_flipped_bits_are_refused(tmp_path):
    assert flips(5000, tmp_path) == 5000


class Faults:
    """Makes the k-th of all writes, syncs and renames fail, a write half-way."""

    def __init__(self, monkeypatch):
        self.k = self.calls = 0
        for name in ("_write", "_fsync", "_rename"):
            monkeypatch.setattr(fs, name, self.wrap(getattr(fs, name)))

    def arm(self, k):
        self.k, self.calls = k, 0

    def wrap(self, function):
        def call(*args):
            self.calls += 1
            if self.calls == self.k:
                if function.__name__ == "_write":
                    function(args[0], args[1][: len(args[1]) // 2])
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return function(*args)

        return call


def test_a_fault_at_any_call_leaves_a_good_checkpoint(tmp_path, monkeypatch):
    faults = Faults(monkeypatch)
    k = 0
    while True:
        k += 1
        folder = tmp_path / str(k)
        store = Checkpoints(folder, keep=1)
        faults.arm(0)
        assert store.save(1, *state(1))
        faults.arm(k)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            saved = store.save(2, *state(2))
        if saved:
            break
        assert len(seen) == 1
        assert "input/output error" in str(seen[0].message)
        assert not list(folder.glob(".*"))  # no temporary file
        assert whole(store.load())
        faults.arm(0)
        assert store.save(3, *state(3))
        assert sorted(p.name for p in folder.iterdir()) == ["step-000000003.json", "step-000000003.safetensors"]
    assert k == 9  # 2 files x (write, fsync, rename, fsync of the directory), and then none


def kills(count, folder):
    """Fork, save in a loop, kill -9 at a random moment; returns the number of folders that could not be read."""
    rnd, bad = random.Random(0), 0
    store = Checkpoints(folder, keep=2)
    size = 100_000
    store.save(1, *state(1, size))
    for _ in range(count):
        first = store.load()[0]["step"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about fork beside threads
            child = os.fork()
        if child == 0:
            for step in range(first + 1, first + 10_000):
                store.save(step, *state(step, size))
            os._exit(0)
        time.sleep(rnd.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = store.load()
        bad += found is None or not whole(found, size) or found[0]["step"] < first
    store.save(10**8, *state(10**8, size))
    assert len(list(folder.iterdir())) <= 4  # what the kills left behind is swept
    return bad


def test_kill_while_saving(tmp_path):
    assert kills(25, tmp_path) == 0


@pytest.mark.slow
def test_kill_while_saving_often(tmp_path):
    assert kills(1000, tmp_path) == 0


def test_full_disk_while_saving(tmp_path):
    store = Checkpoints(tmp_path, keep=1)
    store.save(1, *state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            saved = [store.save(step, *state(step, size=10_000)) for step in (2, 3)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved == [False, False]
    assert len(seen) == 1
    for words in ("checkpoint not saved", str(tmp_path), "need 40.2 kB, free", "training continues, last good: step 1"):
        assert words in str(seen[0].message)
    assert not list(tmp_path.glob(".*"))
    assert whole(store.load())


def test_training_continues_on_a_full_disk(tmp_path, monkeypatch):
    def run(out):
        torch.manual_seed(0)
        config = FitConfig(epochs=3, batch_size=16, out=out, checkpoint_every=0, progress=False)
        return fit(bj.real_nvp(2, layers=2, hidden=(4,)), torch.randn(40, 2), config=config)

    plain = run(None)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fs, "_fsync", full)
    with pytest.warns(UserWarning, match="no space left on device") as seen:
        result = run(tmp_path)
    assert len(seen) == 1
    assert result.stop_reason == "completed"
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), result.model.parameters(), strict=True))
    assert not list((tmp_path / "checkpoint").iterdir())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3

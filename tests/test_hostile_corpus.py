"""A corpus of malicious payloads under the name of every file that is read: nothing runs, memory stays bounded.

``test_io_hostile.py`` has the weights and specifications at length; here every other door: checkpoints of a training run,
schema, splits, records, tables. And a disk that is really full, and kills at random steps of a training.
"""

import bz2
import gzip
import io
import json
import lzma
import marshal
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bijectory as bj
from bijectory.apps import TableFlow, fit_table
from bijectory.cli import main
from bijectory.errors import CheckpointError, FlowError
from bijectory.io import fs
from bijectory.report import write_report
from bijectory.tables import read_table
from bijectory.training import Callback, FitConfig, fit
from bijectory.training.checkpoint import Checkpoints
from test_io_faults import ROOT, python
from test_io_hostile import Payload


class Built(Payload):
    def __reduce__(self):
        return dict, ((),), {"a": 1}, None, iter([("k", Payload(self.mark))])


class State(Payload):
    def __reduce__(self):
        return Path, ("x",), Payload(self.mark)


class Evaluated(Payload):
    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.mark)!r}).touch()",)


class System(Payload):
    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def torch_file(value, **keywords):
    buffer = io.BytesIO()
    torch.save(value, buffer, **keywords)
    return buffer.getvalue()


def numpy_file(value):
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def corpus(mark):
    """Thirty-odd files that run code when they are unpickled, or that other readers would take for weights."""
    plain = pickle.dumps(Payload(mark))
    files = {f"{kind.__name__} protocol {p}": pickle.dumps(kind(mark), protocol=p)
             for kind in (Payload, Built, State, Evaluated, System) for p in (0, 2, 4)}  # fmt: skip
    files |= {
        "nested in a list": pickle.dumps([1, {"a": [Payload(mark)]}]),
        "nested in a state dict": pickle.dumps({"model/weight": Payload(mark)}),
        "torch": torch_file(Payload(mark)),
        "torch legacy": torch_file(Payload(mark), _use_new_zipfile_serialization=False),
        "torch state dict": torch_file({"weight": torch.zeros(2), "evil": Payload(mark)}),
        "numpy": numpy_file(Payload(mark)),
        "npz": zipped(a_dot_npy=numpy_file(Payload(mark))),
        "two data.pkl": zipped(archive__data_dot_pkl=plain, archive__data__data_dot_pkl=plain),
        "gzip": gzip.compress(plain),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "pandas": gzip.compress(pickle.dumps(pd.DataFrame({"a": [Payload(mark)]}))),
        "marshal": marshal.dumps(compile(f"open({str(mark)!r}, 'w')", "x", "exec")),
        "python": f"open({str(mark)!r}, 'w')\n".encode(),
        "opcode by hand": b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR.",
        "json with a tag": json.dumps(
            {"py/object": "os.system", "__reduce__": ["os.system", [f"touch {mark}"]]}
        ).encode(),
        "yaml": f"!!python/object/apply:os.system ['touch {mark}']\n".encode(),
        "csv formula": f"a,b\n=cmd|'/c touch {mark}'!A1,\"=1+1\"\n".encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escape"))
    return files | {"tar": buffer.getvalue()}


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A finished run of a table with every file that one can have."""
    folder = tmp_path_factory.mktemp("origin") / "run"
    x = np.random.default_rng(0).normal(size=(60, 2))
    fit_table(x, recipe="real_nvp", recipe_args={"layers": 1, "hidden": (4,)}, out=folder, audit=False,
              config=FitConfig(epochs=1, progress=False))  # fmt: skip
    return folder


def read_everything(folder, *, report):
    """Open a run by every door; refusals are fine, anything else is not."""
    doors = (
        lambda: bj.load(folder),
        lambda: TableFlow.load(folder),
        lambda: bj.apps.load_rows(folder),
        lambda: Checkpoints(folder / "checkpoint", 2).load(),
        lambda: report and write_report(folder),
    )
    for read in doors:
        try:
            read()
        except FlowError:
            continue


@pytest.mark.filterwarnings("ignore:.*is a formula")
def test_nothing_runs_whatever_the_file_is_called(origin, tmp_path, monkeypatch):
    """Also where the environment asks PyTorch to trust pickles."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, run = tmp_path / "executed", tmp_path / "run"
    files = corpus(mark)
    assert len(files) > 30
    assert pickle.loads(files["Evaluated protocol 2"]) is None
    assert mark.exists(), "the payloads work"
    mark.unlink()
    names = [p.relative_to(origin) for p in origin.rglob("*") if p.is_file()]
    assert {"config.json", "model.safetensors", "schema.json", "splits.safetensors"} <= {p.name for p in names}
    for k, (kind, data) in enumerate(files.items()):
        shutil.copytree(origin, run)
        for name in names if k < 3 else [names[k % len(names)]]:
            (run / name).write_bytes(data)
        read_everything(run, report=k < 3 or k % 9 == 0)  # half a second each
        assert not mark.exists(), kind
        shutil.rmtree(run)


def test_nothing_runs_in_data_files(origin, tmp_path, capfd):
    mark = tmp_path / "executed"
    for k, (kind, data) in enumerate(corpus(mark).items()):
        suffixes = (".csv", ".npy", ".npz", ".parquet", ".csv.gz")
        for suffix in suffixes if k < 2 else [suffixes[k % 5]]:
            path = tmp_path / f"rows{suffix}"
            path.write_bytes(data)
            said = str(path)
            try:
                read_table(path)
            except FlowError as error:
                said = str(error)
            assert str(path) in said
            if k % 6 == 0:
                assert main(["score", str(origin), str(path)]) in (0, 3)
            assert not mark.exists(), kind
    capfd.readouterr()


# -- checkpoints of a training run that are whole, and not what they should be --------------------------------------------


class Stop(Callback):
    def on_step(self, run):
        return run.step == 4


def stopped(folder):
    torch.manual_seed(0)
    flow = bj.real_nvp(2, layers=1, hidden=(4,))
    config = FitConfig(epochs=5, batch_size=8, out=folder, progress=False)
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    fit(flow, rows, config=config, callbacks=[Stop()])
    return lambda: fit(flow, rows, config=config.replace(resume=True))


EDITS = {
    "NaN weights": (lambda s, t: t[next(k for k in t if k.startswith("model/"))].fill_(torch.nan), "holds NaN"),
    "NaN moments": (lambda s, t: t[next(k for k in t if "exp_avg_sq" in k)].fill_(torch.nan), "holds NaN"),
    "no order": (lambda s, t: t.pop("order"), "not one of a training run"),
    "a stray moment": (lambda s, t: t.update({"optimizer/99/exp_avg": torch.zeros(1)}), "not one of a training run"),
    "a stray tensor": (lambda s, t: t.update({"evil/x": torch.zeros(1)}), "not one of a training run"),
    "no counters": (lambda s, t: s.pop("step"), "not one of a training run"),
    "no identity": (lambda s, t: s.pop("identity"), "not one of a training run"),
    "another shape": (lambda s, t: t.update({next(iter(t)): torch.zeros(3, 3, 3)}), "cannot resume"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_whole_checkpoints_of_something_else_are_refused(tmp_path, edit):
    go_on = stopped(tmp_path)
    change, words = EDITS[edit]
    store = Checkpoints(tmp_path / "checkpoint", 1)
    scalars, tensors = store.load()
    change(scalars, tensors)
    assert store.save(4, scalars, tensors)
    with pytest.raises(CheckpointError, match=words):
        go_on()


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    go_on = stopped(tmp_path)
    store = Checkpoints(tmp_path / "checkpoint", 1)
    saved = store.load()
    monkeypatch.setattr("bijectory.training.checkpoint.VERSION", 2)
    store.save(4, *saved)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        go_on()


# -- a disk that is full ---------------------------------------------------------------------------------------------------

TMPFS = """
import os, sys, warnings
from pathlib import Path
import torch
import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.training.checkpoint import Checkpoints
folder = Path(sys.argv[1])
small, large = bj.real_nvp(4, layers=2, hidden=(8,)), bj.real_nvp(4, layers=8, hidden=(128, 128))
bj.save(small, folder / "run")
try:
    bj.save(large, folder / "run")
except CheckpointError as error:
    print(error)
assert torch.equal(bj.load(folder / "run").sample(3, generator=torch.Generator().manual_seed(0)),
                   small.sample(3, generator=torch.Generator().manual_seed(0)))
store = Checkpoints(folder / "steps", keep=1)
assert store.save(1, {"a": 1}, {"x": torch.zeros(1000)})
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert not store.save(2, {"a": 2}, {"x": torch.zeros(200_000)})
print(seen[0].message)
assert store.load()[0] == {"a": 1}
print(*sorted(p.name for p in folder.rglob("*") if p.is_file()))
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 256 kB in a namespace of its own, where that is allowed."""
    mount = (
        f'mount -t tmpfs -o size=256k none {tmp_path} 2>/dev/null || exit 77; exec {sys.executable} -c "$0" {tmp_path}'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    command = ["unshare", "-Urm", "sh", "-c", mount, TMPFS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"a namespace with a file system is not allowed here: {done.stderr.strip()[:60]}")
    assert done.returncode == 0, done.stderr
    saved, warned, files = done.stdout.splitlines()
    assert "not saved in" in saved
    assert "no space left on device" in saved
    assert "checkpoint not saved: no space left on device" in warned
    assert "last good: step 1" in warned
    assert files.split() == ["config.json", "model.safetensors", "step-000000001.json", "step-000000001.safetensors"]


# -- kills at random steps of a training -------------------------------------------------------------------------------

KILLED = """
import hashlib, os, random, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_resume as t
folder, count = Path(sys.argv[1]), int(sys.argv[3])

def child(work):
    '''What a fork of this process, which never ran a backward pass, returns; None if it was killed.'''
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, work())
        os._exit(0)
    os.close(write)
    said = os.read(read, 64)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) != bool(said)
    return said or None

def digest(**changes):
    result = t.fit(t.model(), t.data(), objective=t.noisy, config=t.config(**changes))
    state = hashlib.sha256(b"".join(v.contiguous().numpy().tobytes() for v in result.model.state_dict().values()))
    return (state.hexdigest()[:32] + f" {result.steps} {result.best_epoch} {result.best_val!r}"[:30]).encode()

class Kill(t.Callback):
    def __init__(self, step):
        self.step = step
    def on_step(self, run):
        if run.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

whole, rng, same = child(digest), random.Random(0), 0
for k in range(count):
    out, last = folder / str(k), 0
    for _ in range(1 + k % 2):  # some are killed twice
        last = rng.randint(last + 1, 44)
        config = t.config(out=out, checkpoint_every=0, resume=(out / "checkpoint").exists())
        assert child(lambda: t.fit(t.model(), t.data(), objective=t.noisy, config=config, callbacks=[Kill(last)])) is None
        if last >= 43:
            break
    same += child(lambda: digest(out=out, resume=True)) == whole
print(same)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
@pytest.mark.slow  # twenty seconds; in the quick tier test_resume.py kills once
def test_resume_is_exact_after_kills_at_random_steps(tmp_path):
    """kill -9 in the middle of epochs, some twice; weights, best epoch and best loss as in one go, to the last bit."""
    assert python(KILLED, tmp_path, ROOT / "tests", 20).split() == ["20"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_thousand_flipped_bits_of_a_saved_model(tmp_path, name):
    """Every one refused."""
    import random

    bj.save(bj.real_nvp(4, layers=2, hidden=(8,)), tmp_path)
    data, rnd = (tmp_path / name).read_bytes(), random.Random(7)
    for _ in range(1000):
        flipped = bytearray(data)
        flipped[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(CheckpointError):
            bj.load(tmp_path)
    assert fs.size(len(data))

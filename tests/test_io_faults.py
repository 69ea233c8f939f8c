"""Saved models under faults: kills, failing disks, flipped bits, truncation, hostile files."""

import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.io import config as configs
from bijectory.io import fs, weights
from bijectory.spec import to_spec
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


# -- hostile files -----------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def hostile_weights(mark):
    """Files that are not weights, by name."""
    table = {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}
    text = json.dumps(table).encode()
    return {
        "pickle": pickle.dumps(Payload(mark)),
        "pickle protocol 0": pickle.dumps(Payload(mark), protocol=0),
        "empty header": (0).to_bytes(8, "little"),
        "huge header": (2**63).to_bytes(8, "little") + b"{}",
        "header of 100 MB": (10**8).to_bytes(8, "little") + b" " * 1000,
        "declares 4 GB": len(text).to_bytes(8, "little") + text,
        "deep header": (10**5).to_bytes(8, "little") + b"[" * 10**5,
        "list header": (2).to_bytes(8, "little") + b"[]",
        "text": b"import os; os.system('true')\n" * 100,
        "not text": bytes(range(256)) * 64,
    }


def test_foreign_weights_are_refused(run, tmp_path):
    mark = tmp_path / "executed"
    for name, data in hostile_weights(mark).items():
        (run / "model.safetensors").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            bj.load(run)
        assert not mark.exists(), name
    for name in ("torch", "zip"):
        if name == "torch":
            torch.save(Payload(mark), run / "model.safetensors")
        else:
            with zipfile.ZipFile(run / "model.safetensors", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("data.pkl", pickle.dumps(Payload(mark)))
                archive.writestr("data/0", b"\0" * 10**7)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            bj.load(run)
        assert not mark.exists(), name


def sealed(text):
    """A config with any body and a true digest."""
    return text + f'"digest": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{\n",
        b"{\n" + b'"a": ' + b"[" * 10**5 + b"]" * 10**5 + b",\n",
        b'{\n"format": ' + b"9" * 10**5 + b",\n",
        b'{\n"format": NaN,\n',
        b'{\n"format": 1e999,\n',
        b'{\n"format": "bijectory", "format": "bijectory",\n',
        b'{\n"format": "bijectory",\n',
        b'{\n"format": "bijectory", "format_version": 1,\n',
        b'{\n"format": "bijectory", "format_version": "1",\n',
        b'{\n"format": "bijectory", "format_version": ' + b"9" * 4000 + b",\n",
        b'{\n"format": "other", "format_version": 1,\n',
        b"\xff\xfe\n",
        b'{"a": "\x00",\n',
    ],
    ids=lambda b: repr(b[:40]),
)
def test_sealed_but_foreign_configs_are_refused(run, body):
    (run / "config.json").write_bytes(sealed(body))
    with pytest.raises(CheckpointError, match=r"config\.json") as info:
        bj.load(run)
    assert len(str(info.value)) < 600


def forge(folder, model, tensors):
    """A run folder in perfect order around any specification and table, without data."""
    config, _ = configs.read(folder)
    table = vars(config) | {"model": model, "tensors": tensors, "derived": {}}
    text, digest = configs.Config(**table).encode()
    (folder / "config.json").write_bytes(text)
    (folder / "model.safetensors").write_bytes(weights.header(tensors, digest))


def part(name, /, **arguments):
    return {"$class": name, "args": arguments}


def bombs():
    """Specifications that want far more than their (empty) weights."""
    linear = part("torch.nn.Linear", in_features=2**20, out_features=2**20)
    affine = to_spec(bj.Affine())
    coupling = part("Coupling", bijection=affine, mask={"$tuple": [True, False]}, hidden=[2**20, 2**20])
    laughs = part("Chain", transforms=[]) | {"id": 0}
    for k in range(1, 30):
        laughs = part("Chain", transforms=[laughs, {"$ref": k - 1}]) | {"id": k}
    nested = part("Chain", transforms=[])
    for _ in range(200):
        nested = part("Inverse", transform=nested)
    return {
        "wide layer": linear,
        "wide hidden": coupling,
        "hidden 1e9": part("Coupling", bijection=affine, mask={"$tuple": [True, False]}, hidden=[10**9]),
        "features 1e9": part("Elementwise", bijection=affine, features=10**9),
        "huge int": part("Elementwise", bijection=affine, features=10**400),
        "negative": part("Elementwise", bijection=affine, features=-1),
        "event 1e9": part("StandardNormal", event_shape=10**9),
        "many layers": part("Chain", transforms=[part("Elementwise", bijection=affine, features=3)] * 20_000),
        "embedding": part("torch.nn.Embedding", num_embeddings=2**20, embedding_dim=2**12, padding_idx=None),
        "laughs": laughs,
        "nested": nested,
        "os.system": part("os.system", command="true"),
        "eval": part("builtins.eval", source="1"),
        "import": part("__import__", name="os"),
        "path": part("../../bijectory/errors", x=1),
    }


HOSTILE = """
import resource, sys
sys.path.insert(0, sys.argv[2])
import bijectory as bj, test_io_faults as t
from bijectory.errors import CheckpointError
from pathlib import Path
run = Path(sys.argv[1])
bj.save(bj.real_nvp(4), run); bj.load(run)
made = t.bombs()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for name, model in made.items():
    before = peak()
    t.forge(run, model, {})
    forged = peak()
    try:
        bj.load(run)
        print(name, "LOADED", 0, sep="|")
    except CheckpointError as error:
        print(name, str(error)[:200].replace("|", " "), peak() - forged, sep="|")
"""


@pytest.mark.skipif(os.name != "posix", reason="measures the resident set with getrusage")
def test_bombs_are_refused_in_bounded_memory(tmp_path):
    rows = [line.split("|") for line in python(HOSTILE, tmp_path / "run", ROOT / "tests").splitlines()]
    assert [name for name, *_ in rows] == list(bombs())
    for name, message, growth in rows:
        assert "LOADED" not in message, name
        assert int(growth) < 50, f"{name}: {growth} MB more"


def test_a_table_that_declares_gigabytes_is_refused_before_reading(run):
    entry = weights.Entry(torch.float32, (10**9,), "0" * 64)
    forge(run, to_spec(bj.Chain()), {"a": entry})
    with pytest.raises(CheckpointError, match=r"truncated: \d+ of 4 000 000 \d+ bytes"):
        bj.load(run)


@pytest.mark.parametrize(
    "row",
    [
        {"dtype": "float32", "shape": [-1], "sha256": ""},
        {"dtype": "float32", "shape": [2**60], "sha256": ""},
        {"dtype": "float32", "shape": [True], "sha256": ""},
        {"dtype": "float32", "shape": [1.0], "sha256": ""},
        {"dtype": "float32", "shape": [1] * 100, "sha256": ""},
        {"dtype": "object", "shape": [1], "sha256": ""},
        {"dtype": "complex64", "shape": [1], "sha256": ""},
        {"dtype": ["float32"], "shape": [1], "sha256": ""},
        {"dtype": "float32", "shape": [1], "sha256": 0},
        {"dtype": "float32", "shape": [1]},
        {"dtype": "float32", "shape": [1], "sha256": "", "strides": [0]},
        [],
    ],
    ids=str,
)
def test_malformed_rows(row):
    with pytest.raises(CheckpointError, match="malformed"):
        weights.Entry.from_json("a", row)

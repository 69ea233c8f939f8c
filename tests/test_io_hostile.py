"""Hostile and foreign files under the names of a saved model: nothing runs, memory stays bounded, one sentence refuses."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

import bijectory as bj
from bijectory.errors import CheckpointError
from bijectory.io import config as configs
from bijectory.io import weights
from bijectory.io.budget import Budget
from bijectory.spec import to_spec
from test_io_faults import ROOT, python


@pytest.fixture
def run(tmp_path):
    bj.save(bj.real_nvp(4, layers=2, hidden=(8,)), tmp_path)
    return tmp_path


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
import bijectory as bj, test_io_hostile as t
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
        if "1e9" in name or "huge" in name:
            assert "out of proportion" in message


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


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.ones(20_000)[:, None] <= torch.ones(20_000),
        lambda: torch.eye(10**5),
        lambda: torch.diag(torch.ones(10**5)),
        lambda: torch.block_diag(*[torch.ones(1)] * 10**4),
        lambda: torch.arange(10**9),
        lambda: torch.linspace(0, 1, 10**9),
        lambda: torch.randperm(10**9),
        lambda: torch.full((10**9,), 1.0),
        lambda: torch.zeros(10**5).repeat(10**5),
        lambda: torch.rand(10**9, generator=torch.Generator()),
        lambda: torch.ones(10**5, 1) @ torch.ones(1, 10**5),
        lambda: [torch.zeros(10**5) for _ in range(100)],
        lambda: [torch.zeros(1) for _ in range(10**5)],
    ],
    ids=range(13),
)
def test_the_budget_stops_every_way_to_allocate(allocate):
    with Budget(0, 0), pytest.raises(CheckpointError, match="far larger than its weights"):
        allocate()


def test_the_budget_lets_ordinary_work_pass_unchanged():
    def work():
        g = torch.Generator().manual_seed(0)
        order = torch.randperm(64, generator=g)
        q, _ = torch.linalg.qr(torch.randn(64, 64, generator=g))
        return order.argsort(), q, torch.arange(1000.0).outer(torch.arange(1000.0)), order.nonzero(), order[3].item()

    with Budget(10**6, 10):
        inside = work()
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(inside, work(), strict=True))

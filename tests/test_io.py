"""Saved models: what comes back is what went in, and what does not fit is refused in one sentence."""

import dataclasses
import math
import os
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import bijectory as bj
from bijectory.errors import CheckpointError, ConfigError
from bijectory.io import config as configs
from bijectory.io import describe, model_card, weights
from bijectory.spec import registry, to_spec
from laws.cases import DENSITIES, RECIPES, TRANSFORMS, randomize

# Without those in native kernels: what is loaded runs plain, and differs by roundings.
CASES = [case for case in (*TRANSFORMS, *DENSITIES, *RECIPES) if not case.name.endswith("-native")]
MODULES = [(case, c) for case in CASES for c in case.contexts]


def small(context=0):
    return randomize(bj.real_nvp(4, context, layers=2, hidden=(8,)))


def forge(folder, *, repair=False, **changes):
    """Edit entries of ``config.json`` and close it with a true digest; ``repair`` re-pairs the weights as well."""
    config, _ = configs.read(folder)
    table = {**vars(config), **changes}
    text, digest = configs.Config(**table).encode()
    (folder / "config.json").write_bytes(text)
    if repair:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        body = data[8 + int.from_bytes(data[:8], "little") :]
        path.write_bytes(weights.header(configs.read(folder)[0].tensors, digest) + body)


@pytest.fixture
def run(tmp_path):
    bj.save(small(), tmp_path, metadata={"val": 1.25})
    return tmp_path


@pytest.mark.parametrize(("case", "context"), MODULES, ids=[f"{case}-c{c}" for case, c in MODULES])
def test_every_case_gives_equal_outputs(case, context, tmp_path):
    model = randomize(case.build(context)).eval()
    bj.save(model, tmp_path)
    again = bj.load(tmp_path)
    assert to_spec(again) == to_spec(model)
    old, new = model.state_dict(), again.state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(old[n], new[n]) and old[n].dtype == new[n].dtype for n in old)
    x = case.domain(
        torch.randn(5, *case.subject(context, torch.float32).event_shape, generator=torch.Generator().manual_seed(1))
    )
    c = torch.randn(5, context) if context else None
    torch.manual_seed(0)
    a = model(x, c)
    torch.manual_seed(0)
    b = again(x, c)
    for old, new in zip(*((a,), (b,)) if isinstance(a, torch.Tensor) else (a, b), strict=True):
        assert torch.equal(torch.nan_to_num(old), torch.nan_to_num(new))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_come_back(dtype, tmp_path):
    flow = small().to(dtype)
    bj.save(flow, tmp_path)
    again = bj.load(tmp_path)
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert again.base._like.dtype == dtype  # a buffer that is not in the state
    assert again.sample(3).dtype == dtype
    x = torch.randn(3, 4).to(dtype)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))


def test_mixed_dtypes_frozen_parameters_and_mode(tmp_path):
    flow = small()
    flow.transform[0].double()
    flow.transform[1].requires_grad_(False)
    bj.save(flow.train(), tmp_path)
    again = bj.load(tmp_path)
    assert [(n, p.dtype, p.requires_grad) for n, p in again.named_parameters()] == [
        (n, p.dtype, p.requires_grad) for n, p in flow.named_parameters()
    ]
    assert not any(m.training for m in again.modules())


def test_any_safetensors_reader_opens_the_weights(run):
    state = load_file(run / "model.safetensors")
    expected = bj.load(run).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[n], expected[n]) for n in state)


def test_the_caller_notices_nothing(tmp_path):
    flow = small()
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    flags = [m.training for m in flow.modules()]
    bj.save(flow, tmp_path)
    bj.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == dtype
    assert [m.training for m in flow.modules()] == flags


def test_a_model_built_in_double_precision_needs_no_setting_to_come_back(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        flow = small()
        bj.save(flow, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    again = bj.load(tmp_path)
    assert again.base._like.dtype == torch.float64
    x = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(again.log_prob(x), flow.log_prob(x))
    assert torch.get_default_dtype() == torch.float32


def test_empty_noncontiguous_and_scalar_tensors(tmp_path):
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))  # BatchNorm counts in a scalar int64
    net[0].num_batches_tracked.fill_(2**40 + 1)
    net[1].weight.data = torch.arange(12.0).reshape(3, 4).T
    bj.save(net, tmp_path)
    again = bj.load(tmp_path)
    assert again[0].num_batches_tracked.item() == 2**40 + 1
    assert torch.equal(again[1].weight, net[1].weight)
    bj.save(bj.Chain(), tmp_path)
    assert len(bj.load(tmp_path)) == 0


def test_metadata(run, tmp_path):
    assert bj.load_metadata(run) == {"val": 1.25}
    told = {"history": [{"epoch": 0, "val_loss": math.inf}], "rows": 10, "tuple": (1, 2), "$odd": None, "note": "µ\n"}
    bj.save(small(), tmp_path, metadata=told)
    assert bj.load_metadata(tmp_path) == told
    with pytest.raises(CheckpointError, match="lambda"):
        bj.save(small(), tmp_path, metadata={"f": lambda: None})
    assert bj.load_metadata(tmp_path) == told


def test_device(run):
    assert {p.device.type for p in bj.load(run, device="meta").parameters()} == {"meta"}


def test_overwriting_and_paths(run):
    flow = small(3)
    bj.save(flow, str(run / "new" / "folder"))
    bj.save(flow, str(run))
    assert bj.load(str(run)).context == 3
    assert sorted(os.listdir(run)) == ["config.json", "model.safetensors", "new"]


class Noise(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("signs", torch.randn(width).sign(), persistent=False)
        self.linear = nn.Linear(width, 4)

    def forward(self, x, c=None):
        return self.linear(x * self.signs)


def test_buffers_outside_the_state_keep_their_values(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {"Noise": Noise})
    x = torch.randn(64, 4)
    for _ in range(20):  # two random signs: now and then the constructor draws the same ones again by chance
        flow = small()
        flow.transform[1].net = Noise(2)
        bj.save(flow, tmp_path)
        torch.rand(3)  # the caller's generator moves on
        assert torch.equal(bj.load(tmp_path).log_prob(x), flow.log_prob(x))


def test_changes_that_constructors_do_not_repeat_are_refused(tmp_path):
    def extra(f):
        f.transform[0].net.register_parameter("extra", nn.Parameter(torch.zeros(1)))

    def reshaped(f):
        f.transform[0].net.head.weight = nn.Parameter(torch.zeros(7, 8))

    def tied(f):
        f.transform[0].net.head.weight = f.transform[1].net.head.weight

    def number(f):
        f.transform[0].net.head.inputs = 9

    def derived(f):
        f.transform[0].features = 5

    for change, words in [
        (extra, "transform.transforms.0.net.extra was changed after construction"),
        (reshaped, r"shape \(7, 8\), not \(4, 8\)"),
        (tied, "shared between parts"),
        (number, "inputs was changed .* would come back as 8, not 9"),
        (derived, "features was changed"),
    ]:
        flow = small()
        change(flow)
        with pytest.raises(CheckpointError, match=words):
            bj.save(flow, tmp_path)
        assert os.listdir(tmp_path) == []


def test_only_modules_are_saved(tmp_path):
    with pytest.raises(ConfigError, match="got Affine"):
        bj.save(bj.Affine(), tmp_path)
    flow = small()
    flow.transform[1].net = type("Unknown", (nn.Module,), {})()
    with pytest.raises(CheckpointError, match=r"transform.transforms\[1\].net: a .*Unknown"):
        bj.save(flow, tmp_path)


def test_nonfinite_weights(tmp_path):
    flow = small()
    flow.transform[1].net.head.bias.data[2] = math.nan
    with pytest.raises(CheckpointError, match=r"'transform.transforms.1.net.head.bias' has 1 of 4 values"):
        bj.save(flow, tmp_path)
    bj.save(flow, tmp_path, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor .* NaN or infinite.*allow_nonfinite=True"):
        bj.load(tmp_path)
    assert bj.load(tmp_path, allow_nonfinite=True).transform[1].net.head.bias[2].isnan()


def test_missing(run, tmp_path):
    for path, words in [(run / "nothing", "no such folder"), (run / "config.json", "config.json")]:
        with pytest.raises(CheckpointError, match=words):
            bj.load(path)
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: the file is missing"):
        bj.load(run)
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json is missing; pass the folder"):
        bj.load(run)


def test_newer_version(run, monkeypatch):
    monkeypatch.setattr(configs, "VERSION", 2)
    bj.save(small(), run)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"written in format 2 by bijectory .*upgrade"):
        bj.load(run)


def edits(value, path=()):
    """Every specification that differs from ``value`` in one hyper-parameter."""
    if isinstance(value, dict):
        for key in value:
            for new, where in edits(value[key], (*path, key)):
                yield {**value, key: new}, where
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for new, where in edits(item, (*path, i)):
                yield [*value[:i], new, *value[i + 1 :]], where
    elif isinstance(value, bool):
        yield not value, path
    elif isinstance(value, int | float):
        yield value + 1, path
    elif isinstance(value, str):
        yield {"silu": "tanh", "Affine": "Shift"}.get(value, value + "x"), path


def test_a_wrong_hyper_parameter_is_refused(run):
    model = configs.read(run)[0].model
    original = {n: (run / n).read_bytes() for n in os.listdir(run)}
    changed = list(edits(model))
    assert len(changed) > 20
    for wrong, _ in changed:
        forge(run, model=wrong)  # even with a true digest it is another config than the weights'
        with pytest.raises(CheckpointError, match="belong to another config"):
            bj.load(run)
        for name, data in original.items():
            (run / name).write_bytes(data)
    text = original["config.json"]
    for old, new in [(b'"silu"', b'"tanh"'), (b"3.0", b"3.1"), (b'"context": 0', b'"context": 1')]:
        (run / "config.json").write_bytes(text.replace(old, new, 1))
        with pytest.raises(CheckpointError, match="changed after it was saved"):
            bj.load(run)


def test_weights_of_another_run_are_refused(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    bj.save(randomize(bj.real_nvp(4, layers=2, hidden=(8,)), seed=1), other)
    (other / "model.safetensors").replace(run / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"belong to another config.json"):
        bj.load(run)


def test_shapes_that_do_not_fit_the_specification(run):
    config, _ = configs.read(run)
    wide = to_spec(bj.real_nvp(4, layers=2, hidden=(9,)))
    forge(run, repair=True, model=wide)
    with pytest.raises(CheckpointError, match=r"has shape \(8, 2\), the model needs \(9, 2\)"):
        bj.load(run)
    forge(run, repair=True, model=to_spec(bj.real_nvp(4, layers=1, hidden=(8,))))
    with pytest.raises(CheckpointError, match="has no place in the model"):
        bj.load(run)
    forge(run, repair=True, model=to_spec(bj.real_nvp(4, layers=3, hidden=(8,))))
    with pytest.raises(CheckpointError, match="is not in the weights"):
        bj.load(run)
    forge(run, repair=True, model=to_spec(bj.Affine()))
    with pytest.raises(CheckpointError, match="describes a Affine, not a model"):
        bj.load(run)
    forge(run, repair=True, model=config.model)
    bj.load(run)


def test_readers_beside_a_writer_always_find_a_model(run):
    flows = [randomize(bj.real_nvp(4, layers=2, hidden=(8,)), seed=s) for s in range(2)]
    x = torch.randn(3, 4)
    answers = [f.log_prob(x) for f in flows]
    bj.save(flows[0], run)
    done = threading.Event()

    def write():
        try:
            for k in range(40):
                bj.save(flows[k % 2], run)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        got = bj.load(run).log_prob(x)
        assert any(torch.equal(got, a) for a in answers)
        reads += 1
    writer.join()
    assert reads > 5


def test_buffers_that_the_library_computes_otherwise_are_refused(run):
    derived = configs.read(run)[0].derived
    assert "transform.transforms.0._order" in derived
    wrong = dataclasses.replace(derived["transform.transforms.0._order"], sha256="0" * 64)
    forge(run, repair=True, derived={**derived, "transform.transforms.0._order": wrong})
    with pytest.raises(CheckpointError, match="_order comes out differently"):
        bj.load(run)


def test_model_card(run):
    flow = bj.load(run)
    told = {"recipe": "real_nvp", "data": "a | b", "held out": {"log-likelihood [nats]": -1.23456789, "rows": 100}}
    card = model_card(flow.double(), told, name="my run")
    assert "# real_nvp" in card
    assert "arXiv:1605.08803, 2016" in card
    assert f"| parameters | {sum(p.numel() for p in flow.parameters())} |" in card
    assert "| event shape | (4,) |" in card
    assert "| dtype | float64 |" in card
    assert "| data | a \\| b |" in card
    assert "## held out" in card
    assert "| log-likelihood [nats] | -1.23457 |" in card
    code = card.split("```python\n")[1].split("```")[0].replace("my run", str(run))
    exec(code, {"x": torch.zeros(2, 4)})
    assert "arXiv" not in model_card(small(3))
    assert "flow.log_prob(x, c)" in model_card(small(3))


def test_description():
    assert describe(small()) == "Flow(2 × Coupling(Affine) → StandardNormal)"
    layer = bj.Coupling(bj.Affine(), (True, False))
    assert describe(bj.Chain(bj.Inverse(layer), layer, bj.Elementwise(bj.Shift(), 2))) == (
        "Inverse(Coupling(Affine)) → shared → Elementwise(Shift)"
    )
    assert describe(bj.Chain()) == "identity"
    assert describe(nn.Linear(2, 2)) == "Linear"

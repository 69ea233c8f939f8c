"""Specifications: what can be stored comes back equal, what cannot is named."""

import json
import math

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.errors import CheckpointError, ConfigError
from bijectory.spec import from_spec, registry, to_spec
from bijectory.spec.layers import TORCH_LAYERS
from laws.cases import BIJECTIONS, DENSITIES, RECIPES, TRANSFORMS

EVERY = [(case, c) for group in (BIJECTIONS, TRANSFORMS, DENSITIES, RECIPES) for case in group for c in case.contexts]


def trip(obj):
    """Through JSON text and back."""
    return from_spec(json.loads(json.dumps(to_spec(obj), allow_nan=False)))


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})


@pytest.mark.parametrize(("case", "context"), EVERY, ids=[f"{case}-c{c}" for case, c in EVERY])
def test_every_case_comes_back_equal(case, context):
    obj = case.build(context)
    again = trip(obj)
    assert type(again) is type(obj)
    assert to_spec(again) == to_spec(obj)
    if isinstance(obj, nn.Module):
        shapes = {n: t.shape for n, t in obj.state_dict().items()}
        assert {n: t.shape for n, t in again.state_dict().items()} == shapes
        assert [n for n, _ in again.named_modules()] == [n for n, _ in obj.named_modules()]
    else:
        assert again == obj


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(2**62),
        0.1,
        5e-324,
        math.inf,
        -math.inf,
        "text with $ and \u2028",
        [],
        (),
        [1, (2, [3.5, None])],
        {"a": (1,), "b": {"$c": 1}},
        {1: "x", (2, 3): math.inf},
        {"$class": "Chain", "args": {}},
        torch.float64,
        torch.Size([2, 3]),
    ],
    ids=repr,
)
def test_values(value):
    again = trip(value)
    assert again == value
    assert type(again) is type(value)


def test_nan_and_numpy_scalars():
    np = pytest.importorskip("numpy")
    assert math.isnan(trip(math.nan))
    assert trip((np.int64(3), np.float32(0.5))) == (3, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_tensors(dtype, shape):
    value = (torch.randn(shape, dtype=torch.float64) * 3).to(dtype)
    again = trip(value)
    assert again.dtype == dtype
    assert torch.equal(again, value)


def test_tensor_with_infinities():
    assert torch.equal(trip(torch.tensor([math.inf, 1.0])), torch.tensor([math.inf, 1.0]))


def test_shared_parts_stay_shared():
    net = nn.Linear(2, 4)
    shared = bj.Coupling(bj.Affine(), (True, True, False, False), net=net)
    other = bj.Coupling(bj.Affine(), (False, False, True, True), net=net)
    chain = trip(bj.Chain(shared, bj.Inverse(shared), other))
    first, second, third = chain
    assert second.transform is first
    assert third.net is first.net
    assert len(list(chain.parameters())) == 2


def test_live_structure_is_stored():
    layer = bj.Coupling(bj.Affine(), (True, False, True, False), hidden=(8,))
    layer.net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4))
    assert isinstance(trip(layer).net, nn.Sequential)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(),
        nn.Linear(3, 2, bias=False),
        nn.Conv2d(1, 4, (3, 5), stride=2, padding="valid", dilation=1, groups=1, bias=False),
        nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.LayerNorm((4, 2), eps=1e-3),
        nn.LayerNorm(4, elementwise_affine=False),
        nn.LayerNorm(4, bias=False),
        nn.Embedding(10, 3, padding_idx=0),
        nn.GroupNorm(2, 4, affine=False),
        nn.BatchNorm1d(4, momentum=None),
        nn.Dropout(0.25),
        nn.Flatten(1),
        nn.Unflatten(-1, (2, 2)),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Identity(),
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.ELU(2.0),
        nn.SiLU(),
        nn.GELU("tanh"),
        nn.Softplus(2.0),
        nn.Softmax(-1),
        nn.PReLU(3),
        nn.Tanh(),
        nn.Sigmoid(),
    ],
    ids=repr,
)
def test_torch_layers(net):
    again = trip(net)
    assert repr(again) == repr(net)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in net.state_dict().items()}


def test_every_torch_layer_is_in_a_test_or_trivially_alike():
    for name, layer in TORCH_LAYERS.items():
        assert name == f"torch.nn.{layer.cls.__name__}"


class Mine(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(2, width)

    def forward(self, x, c=None):
        return self.linear(x)


class Forgetful(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, width)


class Tunnel(nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()


def flow_with(net) -> bj.Flow:
    first = bj.Coupling(bj.Affine(), (True, True, False, False), hidden=(4,))
    return bj.Flow(bj.Chain(first, bj.Coupling(bj.Affine(), (True, True, False, False), net=net)), bj.StandardNormal(4))


def test_registered_classes(fresh):
    with pytest.raises(CheckpointError) as info:
        to_spec(flow_with(Mine(4)))
    assert "transform.transforms[1].net" in str(info.value)
    assert "Mine" in str(info.value)
    assert "@bijectory.register" in str(info.value)
    described = None
    assert bj.register(Mine) is Mine
    described = to_spec(flow_with(Mine(4)))
    assert isinstance(from_spec(described).transform[1].net, Mine)
    registry._REGISTERED.clear()
    with pytest.raises(CheckpointError, match=r"transform.transforms\[1\].net: unknown class 'Mine'"):
        from_spec(described)


def test_register_refuses_a_taken_name(fresh):
    with pytest.raises(ConfigError, match="Chain"):
        bj.register(type("Chain", (nn.Module,), {}))
    bj.register(Mine)
    bj.register(Mine)
    with pytest.raises(ConfigError, match="taken"):
        bj.register(type("Mine", (nn.Module,), {"__module__": "elsewhere"}))
    with pytest.raises(ConfigError, match="takes a class"):
        bj.register(lambda: None)
    other = bj.register(name="mine.Other")(type("Mine", (Mine,), {"__module__": "elsewhere"}))
    assert to_spec(other(2))["$class"] == "mine.Other"


def test_a_subclass_is_not_its_parent():
    with pytest.raises(CheckpointError, match="Special"):
        to_spec(type("Special", (bj.Chain,), {})())
    with pytest.raises(CheckpointError, match="Linear"):
        to_spec(type("Linear", (nn.Linear,), {})(2, 2))


def test_what_cannot_be_stored_is_named(fresh):
    bj.register(Forgetful)
    bj.register(Tunnel)
    for value, words in [
        (lambda x: x, "lambda"),
        (flow_with(Forgetful(4)), r"transform.transforms\[1\].net: Forgetful does not keep its argument 'width'"),
        (Tunnel(), r"\*\*options"),
        (object(), "the model itself: a builtins.object cannot"),
        ({1, 2}, "builtins.set"),
        (torch.zeros(2**16 + 1), "at most 65536"),
        (torch.zeros(2, dtype=torch.complex64), "complex"),
        (torch.zeros(2, device="meta"), "cannot be a stored argument"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            to_spec(value)


def test_cycles_and_depth():
    a, b = bj.Chain(), bj.Chain()
    a.transforms.append(b)
    b.transforms.append(a)
    with pytest.raises(CheckpointError, match="contains itself"):
        to_spec(a)
    deep = bj.Chain()
    for _ in range(2000):
        deep = bj.Inverse(deep)
    with pytest.raises(CheckpointError, match="too deeply"):
        to_spec(deep)


def chain_of(*transforms):
    return {"$class": "Chain", "args": {"transforms": list(transforms)}}


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"$class": "os.system", "args": {"command": "true"}}, "unknown class 'os.system'"),
        ({"$class": "builtins.eval", "args": {}}, "unknown class"),
        ({"$class": "__import__", "args": {}}, "unknown class"),
        ({"$class": "../../etc/passwd", "args": {}}, "unknown class"),
        ({"$class": "torch.nn.Module", "args": {}}, "unknown class"),
        ({"$class": "torch.hub.load", "args": {}}, "unknown class"),
        ({"$class": "Transform", "args": {}}, "unknown class"),
        ({"$class": ["Chain"], "args": {}}, "unknown class"),
        ({"$class": "Chain"}, "malformed part"),
        ({"$class": "Chain", "args": [], "x": 1}, "malformed part"),
        ({"$class": "Chain", "args": {}, "id": [0]}, "malformed part"),
        ({"$class": "Chain", "args": {"wrong": []}}, "no argument 'wrong'"),
        ({"$class": "StandardNormal", "args": {}}, "cannot be built"),
        ({"$class": "Affine", "args": {"max_log_scale": -1.0}}, "max_log_scale must be"),
        ({"$class": "torch.nn.Linear", "args": {"in_features": 1, "out_features": 1, "device": "cuda"}}, "no argument"),
        (chain_of({"$class": "StandardNormal", "args": {"event_shape": 2}}), "takes Transforms"),
        ({"$pickle": "gASVBQ=="}, "malformed value"),
        ({"$float": "1"}, "malformed value"),
        ({"$dtype": "nn"}, "not a dtype"),
        ({"$dtype": "__class__"}, "not a dtype"),
        ({"$ref": 0}, "malformed value"),
        ({"$ref": [0]}, "malformed value"),
        ({"$tuple": 3}, "malformed value"),
        ({"$size": ["a"]}, "malformed value"),
        ({"$dict": [1]}, "malformed value"),
        ({"$tensor": {"dtype": "float32", "shape": [3], "data": [1.0]}}, "malformed value"),
        ({"$tensor": {"dtype": "float32", "shape": [10**9], "data": []}}, "malformed value"),
        ({"$tensor": 3}, "malformed value"),
        ({"$tuple": [], "$size": []}, "malformed value"),
    ],
)
def test_hostile_specifications_are_refused(described, words):
    with pytest.raises(CheckpointError, match=words):
        from_spec(described)


def test_bombs_are_refused():
    deep = []
    for _ in range(10**5):
        deep = [deep]
    with pytest.raises(CheckpointError, match="nested"):
        from_spec(deep)
    laughs = chain_of() | {"id": 0}
    for k in range(1, 40):  # 2^40 paths through forty definitions
        laughs = chain_of(laughs, {"$ref": k - 1}) | {"id": k}
    with pytest.raises(CheckpointError, match="more than 100000 parts"):
        from_spec(laughs)
    with pytest.raises(CheckpointError, match="out of proportion"):
        from_spec({"$class": "StandardNormal", "args": {"event_shape": 10**9}}, max_int=10**6)


def test_names_of_the_library_are_unique():
    names = [n for n in registry.library() if n.startswith("torch")]
    assert names == []

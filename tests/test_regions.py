"""Compiled regions: equal to the plain layers, compiled once for all repetitions, and out of the way when they cannot be."""

import copy
import pickle
import warnings

import pytest
import torch
from torch._dynamo.utils import counters

import bijectory as bj
from bijectory.errors import ShapeError
from bijectory.transforms import regions as regions_module
from bijectory.transforms.chain import plain_layers
from bijectory.transforms.regions import RegionWarning, cut, region

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:The .grad attribute:UserWarning"
)


@pytest.fixture(autouse=True)
def _forget():
    region.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    regions_module.TOLD.clear()


def shaken(flow, seed=0):
    bj.testing.randomize(flow, seed=seed, scale=0.2)
    return flow


def names(flow, way):
    layers = list(flow.transform) if way == "forward" else list(flow.transform)[::-1]
    return [("".join(type(t).__name__[0] for t in part), compiled) for part, compiled in cut(layers, way)]


def test_a_chain_is_cut_into_its_period():
    assert names(bj.nsf(6, layers=4), "forward") == [("PQCPQC", True), ("PQCPQC", True), ("PQ", True)]
    assert names(bj.real_nvp(4, layers=5), "forward") == [("CC", True), ("CC", True), ("C", True)]
    assert names(bj.maf(5, layers=3), "forward") == [("A", True)] * 3
    # The inverse of an autoregressive layer is a loop over features, that of a mixture a search.
    assert names(bj.maf(5, layers=3), "inverse") == [("AAA", False)]
    assert names(bj.iaf(5, layers=3), "forward") == [("III", False)]
    assert names(bj.iaf(5, layers=3), "inverse") == [("I", True)] * 3
    mixture = bj.Coupling(bj.MixtureCdf(2), [True, False])
    assert names(bj.Flow(bj.Chain(mixture, mixture), bj.StandardNormal(2)), "forward") == [("CC", False)]
    # A head that does not repeat, and no period at all.
    assert names(bj.nsf(4, context=2, layers=4), "forward")[0] == ("E", True)
    wide = [bj.Coupling(bj.Affine(), [True, False], hidden=(n, 64)) for n in (32, 40, 48)]
    assert names(bj.Flow(bj.Chain(*wide), bj.StandardNormal(2)), "forward") == [("C", True)] * 3
    assert names(bj.ffjord(2, layers=1), "forward") == [("C", False)]


COSTLY = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("nsf", "maf")
]  # nsf_ar has the splines and the wiring


@pytest.mark.parametrize("name", ["real_nvp", "nsf_ar", *COSTLY])
def test_regions_give_the_same(name):
    few = {"bins": 2} if name.startswith("nsf") else {}  # what is captured grows with the bins
    flow = shaken(getattr(bj, name)(3, layers=3, hidden=(16,), **few))
    fast = flow.compiled(backend="eager")
    x = torch.randn(7, 3)
    for a, b in zip(fast.to_latent(x) + fast.to_data(x), flow.to_latent(x) + flow.to_data(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    g = [torch.Generator().manual_seed(1) for _ in range(2)]
    torch.testing.assert_close(fast.sample(4, generator=g[0]), flow.sample(4, generator=g[1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.transform.encode(x), flow.transform.encode(x), rtol=1e-5, atol=1e-5)
    assert not counters["graph_break"]


def test_gradients_and_another_batch_through_aot():
    flow = shaken(bj.real_nvp(2, layers=2, hidden=(8,)))
    fast = flow.compiled(backend="aot_eager")
    for rows in (5, 9):
        x = torch.randn(rows, 2)
        for f in (flow, fast):
            f.zero_grad()
            f.log_prob(x).mean().backward()
        for (k, p), q in zip(flow.named_parameters(), fast.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5, msg=k)
    assert counters["stats"]["unique_graphs"] == 1  # not more for the second batch


def test_depth_and_copies_compile_nothing_more():
    x = torch.randn(5, 4)
    bj.real_nvp(4, layers=2, hidden=(8,)).compiled(backend="eager").log_prob(x)
    assert counters["stats"]["unique_graphs"] == 1
    flow = shaken(bj.real_nvp(4, layers=8, hidden=(8,), context=0)).compiled(backend="eager")
    # One more, for the runs behind the first read a tensor with gradient; past eight layers the bound on scales differs.
    torch.testing.assert_close(flow.log_prob(x), plain(flow).log_prob(x))
    once = counters["stats"]["unique_graphs"]
    assert once == 2
    for again in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), flow.compiled(backend="eager")):
        torch.testing.assert_close(again.log_prob(x), plain(flow).log_prob(x))
    assert counters["stats"]["unique_graphs"] == once


def plain(flow):
    flow = copy.deepcopy(flow)
    plain_layers(flow)
    return flow


def test_a_copy_has_its_own_layers():
    flow = shaken(bj.real_nvp(2, layers=2, hidden=(8,)))
    fast = flow.compiled(backend="eager")
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    x = torch.randn(5, 2)
    torch.testing.assert_close(fast.log_prob(x), flow.log_prob(x))
    torch.testing.assert_close(other.log_prob(x), plain(other).log_prob(x))
    assert not torch.allclose(other.log_prob(x), flow.log_prob(x))
    frozen = flow.frozen().compiled(backend="eager")
    torch.testing.assert_close(frozen.log_prob(x), flow.log_prob(x))


def test_stored_as_a_plain_flow(tmp_path):
    flow = shaken(bj.real_nvp(2, layers=2, hidden=(8,)))
    fast = flow.compiled(backend="eager")
    assert list(fast.state_dict()) == list(flow.state_dict())
    bj.save(fast, tmp_path)
    assert bj.load(tmp_path).transform._plans is None


def test_transforms_of_functions_see_plain_layers():
    flow = shaken(bj.real_nvp(2, layers=2, hidden=(8,))).compiled(backend="eager")
    x = torch.randn(3, 2)
    torch.testing.assert_close(torch.func.vmap(flow.log_prob)(x), plain(flow).log_prob(x))
    jacobian = torch.func.jacrev(lambda v: flow.to_latent(v)[0])(x[0])
    assert jacobian.shape == (2, 2)
    captured = torch.compile(flow.log_prob, backend="eager", fullgraph=True)
    torch.testing.assert_close(captured(x), plain(flow).log_prob(x))


def no_compiler(*_, **__):
    def call(*_):
        raise RuntimeError("no compiler\nlong trace")

    return call


def test_falls_back_with_one_warning(monkeypatch):
    monkeypatch.setattr(torch, "compile", no_compiler)
    flow = shaken(bj.nsf(3, layers=2, hidden=(8,)))
    fast, x = flow.compiled(backend="inductor"), torch.randn(4, 3)
    with pytest.warns(RegionWarning, match="compile failed, going on without: no compiler$") as seen:
        found = fast.log_prob(x), *fast.to_data(x)
    assert len(seen) == 1
    for a, b in zip(found, (flow.log_prob(x), *flow.to_data(x)), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ShapeError):
        fast.log_prob(torch.randn(4, 2))


def test_nothing_to_compile_is_said():
    with pytest.warns(RegionWarning, match="nothing to compile in Chain, Continuous"):
        bj.ffjord(2).compiled(backend="eager")


@pytest.mark.slow  # 60 s of CPU with an empty disk cache
def test_compiled_code_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = shaken(bj.nsf(3, layers=2, hidden=(16,), bins=2))
        fast = flow.compiled(backend="inductor")
        for rows in (64, 65):
            x = torch.randn(rows, 3)
            for f in (flow, fast):
                f.zero_grad()
                f.log_prob(x).mean().backward()
            torch.testing.assert_close(fast.log_prob(x), flow.log_prob(x), rtol=1e-5, atol=1e-5)
            for p, q in zip(flow.parameters(), fast.parameters(), strict=True):
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5)
    assert any(tmp_path.rglob("*.so"))

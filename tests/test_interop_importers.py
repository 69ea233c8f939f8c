"""Weights of zuko and nflows: the same densities as the peers gave (frozen by benchmarks/peer_values.py)."""

import pathlib

import pytest
import torch
from safetensors.torch import load_file

import bijectory as bj
from bijectory.errors import CheckpointError, ConfigError
from bijectory.interop import from_nflows, from_zuko
from bijectory.interop.nflows import SigmoidScale, SoftplusScale
from bijectory.interop.nflows_nets import ResidualConditioner, ResidualMade
from bijectory.interop.zuko import ZukoAffine, ZukoSpline
from bijectory.testing import check_bijection

FILES = sorted((pathlib.Path(__file__).parent / "data" / "peers").glob("*.safetensors"))


def read(name):
    tensors = load_file(next(p for p in FILES if p.stem == name))
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return state, tensors


def build(name, state):
    return from_zuko(state) if name.startswith("zuko") else from_nflows(state, tail_bound=3.0)


def side(flow, tensors):
    return tensors["c"] if flow.context else None


def test_every_kind_is_frozen():
    assert len(FILES) == 10


@pytest.mark.parametrize("name", [p.stem for p in FILES])
def test_the_same_density_as_the_peer(name):
    state, tensors = read(name)
    flow = build(name, state)
    x, c = tensors["x"], side(flow, tensors)
    z, _ = flow.to_latent(x, c)
    torch.testing.assert_close(z, tensors["z"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flow.log_prob(x, c), tensors["log_prob"], rtol=1e-5, atol=1e-5)
    wide = build(name, {k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    x, c = x.double(), None if c is None else c.double()
    assert wide.log_prob(x, c).dtype == torch.float64
    back, ladj = wide.to_data(wide.to_latent(x, c)[0], c)
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(-ladj, wide.to_latent(x, c)[1], rtol=1e-7, atol=1e-7)
    assert flow.sample((), tensors["c"]).shape == x.shape if flow.context else flow.sample(5).shape == (5, 4)


@pytest.mark.parametrize("name", ["zuko_nsf_context", "nflows_spline_coupling", "nflows_masked_affine"])
def test_an_imported_flow_is_one_of_ours(name, tmp_path):
    state, tensors = read(name)
    flow = build(name, state)
    x, c = tensors["x"], side(flow, tensors)
    bj.save(flow, tmp_path / "m")
    assert torch.equal(bj.load(tmp_path / "m").log_prob(x, c), flow.log_prob(x, c))
    assert torch.allclose(flow.frozen().log_prob(x, c), flow.log_prob(x, c), atol=1e-5)
    assert flow.check(x[:32], None if c is None else c[:32]).rows
    before = flow.log_prob(x, c).mean()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss = -flow.log_prob(x, c).mean()
        loss.backward()
        optimizer.step()
    assert flow.log_prob(x, c).mean() > before
    assert flow.log_prob(x.reshape(8, 8, 4), None if c is None else c.reshape(8, 8, 2)).shape == (8, 8)


@pytest.mark.slow  # 15 s on one thread
def test_families_keep_the_laws():
    for family in (ZukoAffine(), ZukoSpline(4), ZukoSpline(3, 2.0, 1e-2)):
        check_bijection(family)
    start = 1 / (1 + torch.tensor(-2.0, dtype=torch.float64).exp()) + 1e-3
    check_bijection(SigmoidScale(), start=lambda x: x * start.to(x.dtype))
    start = torch.tensor(2.0, dtype=torch.float64).log() + 1e-3
    check_bijection(SoftplusScale(), start=lambda x: x * start.to(x.dtype))


def test_a_masked_residual_network_depends_on_what_came_before():
    net = ResidualMade(4, 2, 9, 1, context=3)
    x, c = torch.randn(4), torch.randn(3)
    jac = torch.autograd.functional.jacobian(lambda v: net(v, c), x).reshape(2, 4, 4)
    assert (jac.triu(0) == 0).all()
    assert (jac.tril(-1) != 0).sum() == 2 * 6
    plain = ResidualConditioner(2, 3, 8, 1, context=2)
    assert plain(torch.randn(5, 7, 2), torch.randn(7, 2)).shape == (5, 7, 3)


def test_what_cannot_be_read_is_named():
    zuko, _ = read("zuko_nsf")
    with pytest.raises(ConfigError, match="activation 'relu6' is none of"):
        from_zuko(zuko, activation="relu6")
    with pytest.raises(CheckpointError, match="not the standard normal"):
        from_zuko({**zuko, "base.loc": torch.ones(4)})
    with pytest.raises(CheckpointError, match="order is missing"):
        from_zuko({k: v for k, v in zuko.items() if not k.endswith("order")})
    with pytest.raises(CheckpointError, match="residual=True is not read"):
        from_zuko({**zuko, "transform.transforms.0.hyper.1.0.weight": torch.ones(1)})
    first = "transform.transforms.0.hyper.4."
    cut = {k: v[:12] if k.startswith(first) else v for k, v in zuko.items()}
    with pytest.raises(CheckpointError, match="3 parameters for each feature"):
        from_zuko(cut)
    mask = "transform.transforms.0.hyper.4.mask"
    with pytest.raises(CheckpointError, match="masks are not those of its order"):
        from_zuko({**zuko, mask: torch.ones_like(zuko[mask])})
    with pytest.raises(CheckpointError, match="no transforms"):
        from_zuko({"base.loc": torch.zeros(2), "base.scale": torch.ones(2)})

    coupling, _ = read("nflows_spline_coupling")
    with pytest.raises(ConfigError, match="none of"):
        from_nflows(coupling, activation="relu6")
    with pytest.raises(CheckpointError, match="without embedding"):
        from_nflows({**coupling, "_embedding_net.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"layers .* have weights, others do not"):
        from_nflows({k: v for k, v in coupling.items() if "_transforms.1." not in k})
    odd = {**coupling, "_transform._transforms.5.lower_entries": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"_transforms\.5\.: a layer with lower_entries is not read"):
        from_nflows(odd)
    masked, _ = read("nflows_masked_affine")
    key = "_transform._transforms.2.autoregressive_net.initial_layer.mask"
    with pytest.raises(CheckpointError, match="its mask is random"):
        from_nflows({**masked, key: 1 - masked[key]})
    with pytest.raises(CheckpointError, match="no coupling"):
        from_nflows({"_transform._shift": torch.zeros(2), "_transform._scale": torch.ones(2)})

"""Standardize and ActNorm: initialised once, explicitly, in float64, with named errors."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, DataError, NonFiniteError

LAYERS = [bj.Standardize, bj.ActNorm]


def data(rows=500):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=g) * torch.tensor([1e-4, 1.0, 1e5]) + torch.tensor([0.0, -3.0, 1e6])


@pytest.mark.parametrize("layer", LAYERS)
def test_initialize_gives_zero_mean_and_unit_variance(layer):
    layer, x = layer(3), data()
    assert torch.equal(layer.forward(x)[0], x)
    assert not layer.initialised
    layer.initialize(x)
    z, ladj = layer.forward(x)
    assert layer.initialised
    assert z.mean(0).abs().max() < 1e-5
    assert (z.std(0, correction=0) - 1).abs().max() < 1e-5
    assert torch.allclose(ladj[0], -x.double().std(0, correction=0).log().sum().float())
    back, inverse_ladj = layer.inverse(z)
    assert torch.allclose(back, x, rtol=1e-6)
    assert torch.equal(inverse_ladj, -ladj)


@pytest.mark.parametrize("layer", LAYERS)
def test_statistics_are_float64(layer):
    x = torch.tensor([[1e4], [1e4 + 1]]).repeat(50_000, 1)
    layer = layer(1)
    layer.initialize(x)
    x, _ = layer.inverse(torch.tensor([[0.0], [1.0]]))
    assert torch.allclose(x.detach().flatten(), torch.tensor([10_000.5, 10_001.0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("layer", LAYERS)
def test_second_initialize_and_loading_change_nothing(layer):
    first, second = layer(3), layer(3)
    first.initialize(data())
    before = [t.clone() for t in first.state_dict().values()]
    first.initialize(data() * 2 + 1)
    assert all(torch.equal(a, b) for a, b in zip(before, first.state_dict().values(), strict=True))
    second.load_state_dict(first.state_dict())
    second.initialize(data() * 2 + 1)
    assert all(torch.equal(a, b) for a, b in zip(before, second.state_dict().values(), strict=True))
    for a, b in zip(first(data()), second(data()), strict=True):  # what is not in the state would not have come along
        assert torch.equal(a, b)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.randn(1, 2), DataError, "at least 2 events, got 1"),
        (torch.randn(0, 2), DataError, "got 0"),
        (torch.tensor([[1.0, 0.1], [2.0, 0.1], [3.0, 0.1]]), DataError, r"features \[1\]"),
        (torch.tensor([[1.0, 0.0], [2.0, 0.0]]), DataError, r"features \[1\]"),
        (torch.tensor([[1.0, 2.0], [2.0, float("nan")]]), NonFiniteError, "1 of 2 events .* row 1, feature 1"),
        (torch.tensor([[1.0, 2.0], [float("inf"), 1.0]]), NonFiniteError, "row 1, feature 0"),
    ],
)
def test_data_without_a_scale_is_refused(layer, x, error, words):
    layer = layer(2)
    with pytest.raises(error, match=words):
        layer.initialize(x)
    assert not layer.initialised


@pytest.mark.parametrize("layer", LAYERS)
def test_passes_never_initialise(layer):
    layer, x = layer(3).train(), data()
    for _ in range(3):
        layer.forward(x)
        layer.inverse(x)
    assert not layer.initialised


def test_standardize_is_not_trained_and_actnorm_is():
    assert not list(bj.Standardize(3).parameters())
    assert len(list(bj.ActNorm(3).parameters())) == 2


def test_explicit_values():
    layer = bj.Standardize(2, loc=[1.0, 2.0], scale=[2.0, 4.0])
    assert layer.forward(torch.tensor([3.0, 2.0]))[0].tolist() == [1.0, 0.0]
    assert (layer.loc, layer.scale) == ((1.0, 2.0), (2.0, 4.0))
    layer.initialize(data()[:, :2])
    assert layer.loc == (1.0, 2.0)
    assert bj.Standardize(2).loc is None
    wide = bj.Standardize(1, loc=torch.tensor([1 / 3], dtype=torch.float64), scale=torch.ones(1, dtype=torch.float64))
    assert wide.loc == (1 / 3,)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"loc": [0.0, 0.0]}, "both"),
        ({"loc": [0.0], "scale": [1.0]}, "2 finite numbers"),
        ({"loc": [0.0, float("nan")], "scale": [1.0, 1.0]}, "finite"),
        ({"loc": [0.0, 0.0], "scale": [1.0, 0.0]}, "positive"),
    ],
)
def test_bad_values(args, words):
    with pytest.raises(ConfigError, match=words):
        bj.Standardize(2, **args)


def test_initialize_passes_through_a_chain():
    flow = bj.Flow(bj.Chain(bj.Standardize(3), bj.LU(3), bj.ActNorm(3)), bj.StandardNormal(3))
    flow.initialize(data())
    z, _ = flow.to_latent(data())
    assert (z.std(0, correction=0) - 1).abs().max() < 1e-4
    assert all(m.initialised for m in (flow.transform[0], flow.transform[2]))

"""Ensembles: the density, and training of all members at once."""

import copy
import math

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, FlowError
from bijectory.nets import ImageEmbedding, MissingIndicator, SeriesEmbedding, SetEmbedding, VectorEmbedding


def flows(count, context=0):
    out = []
    for seed in range(count):
        torch.manual_seed(seed)
        out.append(bj.real_nvp(2, context, layers=2, hidden=(8,)))
    return out


def test_average_of_members():
    members = [bj.BoxUniform(1, float(k), k + 1.0) for k in range(4)]
    p = bj.Ensemble(*members)
    assert torch.allclose(p.log_prob(torch.tensor([[0.5], [3.5]])), torch.tensor(-math.log(4)))
    draws = p.sample(4000, generator=torch.Generator().manual_seed(0))
    counts = torch.histc(draws, 4, 0, 4)
    assert (counts - 1000).abs().max() < 150


def test_members_read_raw_contexts():
    p = bj.Ensemble(*(bj.Flow(f.transform, f.base, SetEmbedding(3, 2, (4,))) for f in flows(2, 2)))
    sets = torch.randn(5, 7, 3)
    assert p.sample(6, sets).shape == (6, 5, 2)
    assert p.log_prob(p.sample(6, sets), sets).shape == (6, 5)


def test_refusals():
    with pytest.raises(ConfigError, match="member 1 has events"):
        bj.Ensemble(bj.StandardNormal(1), bj.StandardNormal(2))
    with pytest.raises(ConfigError, match="at least one member"):
        bj.Ensemble()
    with pytest.raises(FlowError, match="use sample"):
        bj.Ensemble(*flows(2)).rsample(3)


def test_joint_training_takes_the_steps_of_single_fits():
    x = torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
    config = bj.FitConfig(
        epochs=3, batch_size=30, progress=False, clip_norm=None, validation_fraction=0.0, warmup_steps=0
    )
    together, apart = flows(3), flows(3)
    bj.fit_ensemble(together, x, config=config)
    # Member k sees its own order of the rows; the order of the joint loop comes on top.
    order = torch.randperm(90, generator=(g := torch.Generator().manual_seed(config.seed)))
    for flow, own in zip(apart, [order[torch.randperm(90, generator=g)] for _ in range(3)], strict=True):
        bj.fit(flow, x[own], config=config)
    for a, b in zip(together, apart, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.allclose(p, q, atol=2e-4)


def test_members_differ_and_validate_apart():
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(1)) * 3 + 1
    members = flows(4)
    first = copy.deepcopy(members[0])
    result = bj.fit_ensemble(members, x, config=bj.FitConfig(epochs=20, lr=1e-2, progress=False))
    assert math.isfinite(result.best_val)
    assert members[0].log_prob(x).mean() > first.log_prob(x).mean() + 0.5
    assert not torch.equal(members[0].log_prob(x), members[1].log_prob(x))


def test_ensemble_fit_refuses_weights_and_nothing():
    with pytest.raises(ConfigError, match="weights"):
        bj.fit_ensemble(flows(2), (torch.randn(20, 2), None, torch.ones(20)))
    with pytest.raises(ConfigError, match="at least one member"):
        bj.fit_ensemble([], torch.randn(20, 2))


def test_embeddings_of_sets_ignore_order_and_absent_elements():
    net, x = SetEmbedding(2, 4), torch.randn(3, 5, 2)
    assert torch.allclose(net(x), net(x[:, [4, 2, 0, 1, 3]]), atol=1e-6)
    padded = torch.cat((x, torch.full((3, 2, 2), torch.nan)), 1)
    assert torch.allclose(net(x), net(padded), atol=1e-6)
    assert not torch.allclose(net(x), net(torch.cat((x, x), 1)), atol=1e-4), "the number of elements counts"


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (VectorEmbedding(6, 4), (6,)),
        (SeriesEmbedding(2, 4), (30, 2)),
        (ImageEmbedding(1, 4), (1, 12, 12)),
        (SetEmbedding(2, 4), (9, 2)),
        (MissingIndicator(2), (2,)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_embeddings_take_any_batch(net, shape, tmp_path):
    x = torch.randn(2, 3, *shape)
    assert net(x).shape == (2, 3, 4)
    assert torch.allclose(net(x)[1, 2], net(x[1, 2]), atol=1e-5)
    bj.save(net, tmp_path / "net")
    assert torch.equal(bj.load(tmp_path / "net")(x), net(x))

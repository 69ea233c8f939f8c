"""TarFlow and Jet: sizes, dependence, storage; guidance, denoising, and the objectives they need."""

import itertools

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ContextError
from bijectory.recipes.transformer import cut, splits
from laws.cases import randomize

F64 = torch.float64
SMALL = {"layers": 3, "width": 8, "depth": 1, "heads": 2}
IMAGES = [bj.tarflow_image, bj.jet]


def seeded(build, *args, **kw):
    torch.manual_seed(0)
    return randomize(build(*args, **{**SMALL, **kw}), scale=0.15).double()


def pixels(*shape, levels=4):
    return levels * torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(1))


# -- tarflow on vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "group"), [(1, 1), (2, 1), (5, 1), (6, 2), (6, 3)])
@pytest.mark.parametrize("context", [0, 2])
def test_tarflow_goes_both_ways(features, group, context):
    flow = seeded(bj.tarflow, features, context, group=group)
    x, c = torch.randn(3, 7, features, dtype=F64), torch.randn(7, context, dtype=F64) if context else None
    z, ladj = flow.to_latent(x, c)
    back, inverse_ladj = flow.to_data(z, c)
    assert torch.allclose(back, x, atol=1e-10)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-10)
    jac = torch.func.jacrev(lambda v: flow.to_latent(v, None if c is None else c[0])[0])(x[0, 0])
    assert torch.allclose(torch.linalg.slogdet(jac).logabsdet, ladj[0, 0], atol=1e-10)
    if group == 1:
        assert (jac != 0).all(), "directions alternate, so every feature depends on every other"


def test_groups_must_fit():
    with pytest.raises(ConfigError, match="group=2 must divide features=5"):
        bj.tarflow(5, group=2)
    with pytest.raises(ConfigError, match="one token of 4 numbers"):
        bj.tarflow(4, group=4)


# -- images -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocess", ["logit", "scale"])
@pytest.mark.parametrize(
    ("shape", "patch"), [((1, 1, 1), 1), ((1, 1, 2), 1), ((1, 2, 4), 2), ((3, 3, 2), 1), ((2, 4, 4), 2)]
)
@pytest.mark.parametrize("build", IMAGES)
def test_images_go_both_ways(build, shape, patch, preprocess):
    flow = seeded(build, shape, 2, levels=4, patch=patch, preprocess=preprocess, layers=8)
    x, c = pixels(3, *shape), torch.randn(3, 2, dtype=F64)
    z, ladj = flow.to_latent(x, c)
    assert z.shape == (3, x[0].numel())
    back, inverse_ladj = flow.to_data(z, c)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-9)
    jac = torch.func.jacrev(lambda v: flow.to_latent(v, c[0])[0])(x[0]).flatten(1)
    assert torch.allclose(torch.linalg.slogdet(jac).logabsdet, ladj[0], atol=1e-9)
    assert (jac != 0).all(), "every latent depends on every pixel"
    assert (torch.func.jacrev(lambda v: flow.to_latent(x[0], v)[0])(c[0]) != 0).any(1).all()
    assert flow.sample(2, c).shape == (2, 3, *shape)


@pytest.mark.parametrize("build", IMAGES)
def test_draws_stay_near_the_range_of_pixels(build):
    flow = seeded(build, (1, 4, 4), levels=17)
    x = flow.sample(100)
    assert x.min() > -1
    assert x.max() < 18
    assert flow.log_prob(pixels(5, 1, 4, 4, levels=17)).isfinite().all()


def test_scale_is_not_fitted_to_data():
    flow = bj.jet((1, 2, 2), levels=4, preprocess="scale", **SMALL)
    flow.initialize(torch.rand(10, 1, 2, 2))
    x = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    assert torch.allclose(flow.to_latent(x)[0], torch.tensor([-1.0, -0.5, 0.0, 1.0])), "jet starts at its preprocessing"


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((1, 8, 8), 1), ((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 64, 64), 8), ((1, 5, 7), 1), ((1, 2, 2), 1)],
)
def test_default_patch_leaves_49_tokens(shape, patch):
    assert cut(shape, None).patch == patch


def test_splits_halve_the_grid_in_every_way_and_come_with_their_complement():
    drawn = list(itertools.islice(splits(2, 4, 6), 10))
    for (parts, mask), (other_parts, complement) in zip(drawn[::2], drawn[1::2], strict=True):
        assert parts == other_parts
        assert [not m for m in mask] == complement
        assert sum(mask) == sum(complement) == 24
        assert sum(mask) % parts == 0
    assert [parts for parts, _ in drawn] == [8, 8, 4, 4, 4, 4, 4, 4, 8, 8]
    assert drawn[0][1] != drawn[8][1], "another half of the channels the next time"
    tokens = torch.tensor([mask for _, mask in drawn[2:8:2]]).reshape(3, 2, 4, 6)
    assert (tokens == tokens[..., :1]).all(), "whole tokens"
    assert tokens[0, :, 0, 0].tolist() == [True, False], "rows"
    assert tokens[1, 0, :, 0].tolist() == [True, False, True, False], "columns"
    assert tokens[2, :, :2, 0].tolist() == [[True, False], [False, True]], "checkerboard"


def test_an_odd_grid_of_single_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"odd number of tokens \(3\)"):
        bj.jet((1, 1, 3), patch=1)
    with pytest.raises(ConfigError, match="one token of 4 numbers"):
        bj.tarflow_image((1, 2, 2), patch=2)


@pytest.mark.parametrize(
    "build",
    [lambda: bj.tarflow(4, 3, **SMALL), *(lambda b=b: b((1, 2, 4), 3, levels=17, patch=1, **SMALL) for b in IMAGES)],
)
def test_saved_flows_come_back(build, tmp_path):
    flow = randomize(build(), scale=0.15)
    c = torch.randn(5, 3)
    x = flow.sample((), c)
    bj.save(flow, tmp_path / "flow")
    assert torch.equal(bj.load(tmp_path / "flow").log_prob(x, c), flow.log_prob(x, c))


# -- guidance and denoising ---------------------------------------------------------------------------------------------


def draw(flow, c, **kw):
    return bj.guided_sample(flow, c, 2, generator=torch.Generator().manual_seed(3), **kw)


def test_guided_samples_of_weight_zero_are_samples():
    flow, c = seeded(bj.tarflow_image, (1, 2, 4), 3, levels=4, patch=1), torch.eye(3, dtype=F64)
    plain = flow.sample(2, c, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(draw(flow, c, guidance=0.0), plain, atol=1e-12)
    guided = draw(flow, c, guidance=2.0)
    assert guided.shape == (2, 3, 1, 2, 4)
    assert not guided.requires_grad
    assert not torch.allclose(guided, plain, atol=1e-2)
    assert torch.allclose(draw(flow, c, guidance=2.0, null=c), plain, atol=1e-12)


def test_guidance_goes_through_the_embedding():
    class Embed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(4, 3, dtype=F64)

        def forward(self, label):
            return self.table(label)

    inner = seeded(bj.tarflow, 4, 3)
    flow, labels = bj.Flow(inner.transform, inner.base, Embed()), torch.tensor([1, 2])
    null = torch.tensor(3)
    want = draw(inner, flow.embed(labels), guidance=1.5, null=flow.embed(null))
    assert torch.allclose(draw(flow, labels, guidance=1.5, null=null), want, atol=1e-12)


def test_guidance_needs_a_causal_layer_with_context():
    with pytest.raises(ConfigError, match="no causal layer"):
        bj.guided_sample(bj.maf(3, 2, layers=1, hidden=(8,)), torch.zeros(2))
    with pytest.raises(ContextError, match="expected 3"):
        bj.guided_sample(bj.tarflow(3, 3, **SMALL), torch.zeros(2))


def test_denoising_a_normal_gives_the_posterior_mean():
    """x ~ N(m, s^2), noisy x of variance s^2 + sigma^2: E[x | noisy] = m + (noisy - m) s^2 / (s^2 + sigma^2)."""
    m, s, sigma = 2.0, 1.5, 0.8
    flow = bj.Flow(bj.Standardize(1, [m], [(s**2 + sigma**2) ** 0.5]), bj.StandardNormal(1)).double()
    noisy = torch.randn(4, 5, 1, dtype=F64)
    with torch.no_grad():
        got = bj.denoise(flow, noisy, sigma)
    assert torch.allclose(got, m + (noisy - m) * s**2 / (s**2 + sigma**2), atol=1e-12)
    assert not got.requires_grad


def test_denoising_broadcasts_contexts():
    flow, x, c = seeded(bj.tarflow, 3, 2), torch.randn(3, dtype=F64), torch.randn(5, 2, dtype=F64)
    got = bj.denoise(flow, x, 0.5, c)
    assert got.shape == (5, 3)
    for row, context in zip(got, c, strict=True):
        assert torch.allclose(row, bj.denoise(flow, x, 0.5, context), atol=1e-12)
    with pytest.raises(ConfigError, match="sigma"):
        bj.denoise(flow, x, -1.0, c)


def test_noisy_data_is_the_objective_of_noisy_rows():
    flow, x = bj.StandardNormal(3), torch.randn(20, 3)
    torch.manual_seed(4)
    loss = bj.NoisyData(0.7)(flow, bj.Batch(x, weight=torch.arange(20.0)))
    torch.manual_seed(4)
    noisy = x + 0.7 * torch.randn(20, 3)
    assert torch.equal(loss, bj.nll(flow, bj.Batch(noisy, weight=torch.arange(20.0))))
    with pytest.raises(ConfigError, match="sigma"):
        bj.NoisyData(float("nan"))


class Recorder(torch.nn.Module):
    """Remembers the contexts that it saw."""

    def forward(self, x, c):
        self.seen = c
        return x.sum(-1)


def test_context_dropout_leaves_out_a_part_in_training_only():
    model, c = Recorder(), torch.arange(1.0, 4001).unsqueeze(-1).expand(-1, 2)
    batch = bj.Batch(torch.zeros(4000, 3), c)
    torch.manual_seed(0)
    bj.ContextDropout(0.25)(model, batch)
    dropped = (model.seen == 0).all(1)
    assert abs(dropped.float().mean() - 0.25) < 0.03
    assert torch.equal(model.seen[~dropped], c[~dropped])
    bj.ContextDropout(1.0, null=torch.tensor([7.0, 8.0]))(model, batch)
    assert (model.seen == torch.tensor([7.0, 8.0])).all()
    model.eval()
    bj.ContextDropout(1.0)(model, batch)
    assert torch.equal(model.seen, c)
    with pytest.raises(ContextError, match="no context"):
        bj.ContextDropout()(model, bj.Batch(torch.zeros(2, 3)))
    with pytest.raises(ConfigError, match="probability"):
        bj.ContextDropout(1.5)

"""Dequantization: bounds against models whose discrete probabilities are known, and its training."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import bijectory as bj
from bijectory.densities import Dequantized, bits_per_dim
from bijectory.ops.hashing import hashed_uniform
from bijectory.training import Callback

SHAPE, LEVELS = (1, 2, 2), 8
MEAN, SCALE = torch.tensor([1.5, 4.0, 3.0, 6.1]), torch.tensor([1.2, 1.5, 2.0, 0.8])


def pixels():
    """Independent normal pixels of different width."""
    return bj.Flow(
        bj.Chain(bj.Reshape(SHAPE, (4,)), bj.Standardize(4, MEAN.double(), SCALE.double())), bj.StandardNormal(4)
    ).double()


def exact(x):
    """Log-probability of levels: the normal mass of each cell."""
    normal = stats.norm(MEAN.numpy(), SCALE.numpy())
    flat = x.flatten(-3).numpy()
    return torch.from_numpy(np.log(normal.cdf(flat + 1) - normal.cdf(flat)).sum(-1))


def noise(mean=0.5, scale=2.0):
    """Noise in the unit cube that is not uniform and reads the pixels."""
    steps = bj.Elementwise(bj.Logit(), 4), bj.Standardize(4, [mean] * 4, [scale] * 4)
    affine = bj.Elementwise(bj.Affine(), 4, 4, (4,))
    torch.nn.init.normal_(list(affine.net.parameters())[-1], 0.0, 0.2)
    return bj.Flow(bj.Chain(bj.Reshape(SHAPE, (4,)), *steps, affine), bj.StandardNormal(4)).double()


def typical(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Dequantized(pixels(), LEVELS).sample(n, generator=g)


def different(n):
    """Equal images have equal noise: for averages over noise they must differ."""
    return typical(n).unique(dim=0)


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_the_bound_is_below_the_probability_and_tends_to_it(kind):
    x = different(600)
    model = Dequantized(pixels(), LEVELS, noise() if kind == "variational" else None)
    gaps = [(exact(x) - model.log_prob(x, samples=k)).mean().item() for k in (1, 8, 64, 4096)]
    assert gaps[0] > 2 * gaps[1] > 0.0
    assert abs(gaps[2]) < 0.04
    assert abs(gaps[3]) < 3e-3


def test_noise_in_proportion_to_the_density_makes_the_bound_tight():
    """For p = exp(-v) on a cell, q(u|x) = p(x + u) / P(x) is a truncated exponential; one sample is then enough."""

    class Exponential(bj.Density):
        event_shape = torch.Size((1,))

        def log_prob(self, x, c=None):
            return -x.squeeze(-1)

        def rsample(self, shape=(), c=None, *, generator=None):
            raise AssertionError

    class Truncated(bj.Transform):
        def forward(self, x, c=None):
            u = -torch.expm1(-x) / -math.expm1(-1.0)
            z = torch.special.ndtri(u)
            return z, (-x - math.log(-math.expm1(-1.0)) - torch.distributions.Normal(0, 1).log_prob(z)).squeeze(-1)

        def inverse(self, z, c=None):
            x = -torch.log1p(torch.special.ndtr(z) * math.expm1(-1.0))
            return x, -self.forward(x, c)[1]

    q = bj.Flow(Truncated(), bj.StandardNormal(1)).double()
    q.context = 1
    q.transform.context = 1
    x = torch.arange(5, dtype=torch.float64).unsqueeze(-1)
    want = -x.squeeze(-1) + math.log(-math.expm1(-1.0))
    torch.testing.assert_close(Dequantized(Exponential(), 5, q).log_prob(x), want, rtol=0, atol=1e-9)
    assert (Dequantized(Exponential(), 5).log_prob(x) - want).abs().max() > 0.01


def test_probabilities_of_all_images_sum_to_the_mass_inside():
    grid = torch.tensor(list(itertools.product(range(LEVELS), repeat=4)), dtype=torch.float64).reshape(-1, *SHAPE)
    inside = exact(grid).exp().sum().item()
    model = Dequantized(pixels(), LEVELS, samples=64)
    assert model.log_prob(grid).exp().sum().item() == pytest.approx(inside, abs=3e-3)


def test_draws_follow_the_discrete_probabilities():
    x = typical(20_000).flatten(1).numpy()
    for j in range(4):
        normal = stats.norm(MEAN[j].item(), SCALE[j].item())
        edges = np.array([-np.inf, *range(1, LEVELS), np.inf])  # what falls outside goes to the last level
        p = np.diff(normal.cdf(edges))
        counts = np.bincount(x[:, j].astype(int), minlength=LEVELS)
        assert stats.chisquare(counts[p > 1e-9], p[p > 1e-9] * len(x)).pvalue > 1e-3


def test_what_is_no_level_has_probability_zero():
    model = Dequantized(pixels(), LEVELS)
    x = typical(6)
    for value in (-1.0, 8.0, 2.5, 1e6, math.inf):
        x[2, 0, 0, 1] = value
        assert model.log_prob(x)[2] == -math.inf
        assert model.log_prob(x)[[0, 1, 3, 4, 5]].isfinite().all()
    x[2, 0, 0, 1] = math.nan
    assert model.log_prob(x)[2].isnan()


def test_the_highest_level_stays_inside_in_single_precision():
    """255 + u rounds to 256 once in a hundred thousand draws, which is the next cell and beyond the end of the last."""

    class Echo(bj.Density):
        event_shape = torch.Size((1,))

        def log_prob(self, x, c=None):
            return x.squeeze(-1)

        def rsample(self, shape=(), c=None, *, generator=None):
            raise AssertionError

    x = torch.full((1_000_000, 1), 255.0)
    assert (x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) == 256).any()
    v = Dequantized(Echo(), 256).bound(x, generator=torch.Generator().manual_seed(0))
    assert 255 < v.min() < v.max() < 256


def test_bits_per_dimension():
    assert bits_per_dim(-4 * math.log(256), SHAPE) == pytest.approx(8.0)  # uniform over 256 levels, data units
    assert bits_per_dim(0.0, SHAPE, cell=1 / 256) == pytest.approx(8.0)  # the same model of pixels in [0, 1]
    fair = Dequantized(bj.BoxUniform(SHAPE, 0.0, 2.0), 2)
    assert bits_per_dim(fair.log_prob(torch.ones(SHAPE)), SHAPE).item() == pytest.approx(1.0)
    x = different(2000)
    entropy = bits_per_dim(exact(x), SHAPE).mean()
    measured = bits_per_dim(Dequantized(pixels(), LEVELS, samples=256).log_prob(x), SHAPE).mean()
    assert measured.item() == pytest.approx(entropy.item(), abs=2e-3)


def test_bound_takes_its_noise_from_the_generator():
    model, x = Dequantized(pixels(), LEVELS, noise()), typical(5)
    a, b, other = (model.bound(x, samples=2, generator=torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    model.zero_grad()
    bj.dequantized_nll(model, bj.Batch(x)).backward()
    assert all(p.grad is not None for p in model.noise.parameters())


def test_arguments_are_checked():
    flow = pixels()
    for arguments in ({"levels": 1}, {"samples": 0}, {"noise": pixels()}):
        with pytest.raises(bj.errors.ConfigError):
            Dequantized(flow, **({"levels": LEVELS} | arguments))
    with pytest.raises(bj.errors.DtypeError, match=r"x\.double"):
        Dequantized(flow, LEVELS).log_prob(torch.zeros(SHAPE, dtype=torch.uint8))


# -- training ----------------------------------------------------------------------------------------------------------


def trainable():
    torch.manual_seed(0)
    steps = bj.Elementwise(bj.Logit(-0.5, LEVELS + 0.5), 4), *bj.nsf(4, layers=1, hidden=(8,)).transform
    flow = bj.Flow(bj.Chain(bj.Reshape(SHAPE, (4,)), *steps), bj.StandardNormal(4))
    return Dequantized(flow, LEVELS, noise(0.0, 1.6).float())


class StopAt(Callback):
    def on_step(self, run):
        return run.step >= 7


def test_learned_noise_and_flow_are_trained_together_and_a_resumed_run_is_the_same(tmp_path):
    x = typical(256).float()
    config = bj.FitConfig(epochs=4, batch_size=64, lr=1e-2, progress=False)
    fit = lambda model, **kw: bj.fit(model, x, objective=bj.dequantized_nll, **kw)
    whole, parts = trainable(), trainable()
    before = [p.clone() for p in whole.parameters()]
    result = fit(whole, config=config)
    assert all(p.numel() == 0 or not torch.equal(p, q) for p, q in zip(whole.parameters(), before, strict=True))
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]
    stopped = fit(parts, config=config.replace(out=tmp_path / "run"), callbacks=[StopAt()])
    assert stopped.stop_reason == "callback"
    again = trainable()
    fit(again, config=config.replace(out=tmp_path / "run", resume=True))
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_save_and_load(tmp_path):
    model, x = Dequantized(pixels(), LEVELS, noise(), samples=3, seed=5), typical(4)
    bj.save(model, tmp_path)
    assert torch.equal(bj.load(tmp_path).log_prob(x), model.log_prob(x))


# -- the hash ----------------------------------------------------------------------------------------------------------


def splitmix(h):
    mask = 2**64 - 1
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & mask
    return h ^ (h >> 31)


def test_hash_is_splitmix64():
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15
    key, seed = [3, 255, 0], 9
    weights = [splitmix((((j + 1) * golden) & mask) ^ seed) | 1 for j in range(3)]
    row = splitmix(sum(k * w for k, w in zip(key, weights, strict=True)) & mask)
    want = [((splitmix((row + (j + 4) * golden) & mask) >> 12) + 0.5) * 2.0**-52 for j in range(6)]
    got = hashed_uniform(torch.tensor(key), 2, seed)
    assert got.flatten().tolist() == want


def test_hash_is_uniform_and_neighbours_are_independent():
    rows = torch.arange(4000).unsqueeze(-1) * torch.tensor([1, 0, 0]) + torch.tensor([0, 1, 7])
    u = hashed_uniform(rows, 2).numpy()
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert 0 < u.min() < u.max() < 1
    flat = u.reshape(2, 4000, 3).transpose(1, 0, 2).reshape(4000, 6)
    assert np.abs(np.corrcoef(flat.T) - np.eye(6)).max() < 0.08
    assert np.abs(np.corrcoef(flat[1:].T, flat[:-1].T)[:6, 6:]).max() < 0.08

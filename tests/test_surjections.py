"""Augmented flows and surjections: bounds against known marginals, exact parts by hand, pools against torch."""

import math

import pytest
import scipy.stats
import torch

import bijectory as bj
from bijectory.errors import ConfigError, FlowError
from bijectory.objectives import Batch, dequantized_nll
from laws.cases import randomize

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(noise=None, **arguments):
    """An augmented flow whose marginal is known: a linear map of three normal numbers, one of them cut off."""
    flow = randomize(bj.Flow(bj.LU(3), bj.StandardNormal(3)), 4, 0.5)
    p = bj.Augmented(flow, 2, noise, **arguments).double()
    with torch.no_grad():
        centre = flow.to_data(torch.zeros(3, dtype=F64))[0]
        root = torch.stack([flow.to_data(e)[0] - centre for e in torch.eye(3, dtype=F64)], -1)
    cov = (root @ root.T)[:2, :2]
    law = scipy.stats.multivariate_normal(centre[:2].numpy(), cov.numpy())
    return p, centre, root @ root.T, law


def test_augmented_bound_lies_below_and_closes_with_more_samples():
    p, _, _, law = gaussian()
    x = p.sample(500, generator=seeded(1))
    want = law.logpdf(x.numpy()).mean()
    means = [p.bound(x, samples=k, generator=seeded(2)).mean().item() for k in (1, 4, 64, 4096)]
    assert means == sorted(means)
    assert means[0] < want - 0.02
    assert means[-1] == pytest.approx(want, abs=0.01)


def test_augmented_with_the_true_posterior_as_noise_is_exact():
    plain, centre, cov, law = gaussian()
    gain = (cov[2, :2] @ torch.linalg.inv(cov[:2, :2])).detach()
    spread = (cov[2, 2] - gain @ cov[:2, 2]).sqrt().detach()

    class Posterior(torch.nn.Module):
        """Raw parameters of the affine map e -> (e - mean(x)) / spread."""

        def forward(self, _, x):
            mean = centre[2] + (x - centre[:2]) @ gain
            raw = 3 * torch.atanh(-spread.log() / 3)
            return torch.stack((-mean / spread, raw.expand(mean.shape)), -1)

    noise = bj.Flow(bj.Elementwise(bj.Affine(), 1, 2, net=Posterior()), bj.StandardNormal(1))
    p, *_ = gaussian(noise, samples=1)
    x = plain.sample(50, generator=seeded(1))
    want = torch.tensor(law.logpdf(x.numpy()))
    torch.testing.assert_close(p.log_prob(x), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.bound(x, generator=seeded(3)), want, rtol=1e-9, atol=1e-9)


def test_augmented_is_deterministic_by_its_seed_and_fresh_in_its_bound():
    p, _, _, law = gaussian(samples=8, seed=3)
    same, other = gaussian(samples=8, seed=3)[0], gaussian(samples=8, seed=4)[0]
    x = p.sample(6, generator=seeded())
    torch.manual_seed(1)
    first = p.log_prob(x)
    torch.manual_seed(2)
    assert torch.equal(same.log_prob(x), first)
    assert not torch.equal(other.log_prob(x), first)
    assert torch.equal(p.bound(x, generator=seeded(5)), p.bound(x, generator=seeded(5)))
    assert not torch.equal(p.bound(x, generator=seeded(5)), p.bound(x, generator=seeded(6)))
    one = p.bound(x[:1].expand(2, 2), generator=seeded(5))
    assert one[0] != one[1]
    many = gaussian(samples=20_000)[0].log_prob(x)
    torch.testing.assert_close(many, torch.tensor(law.logpdf(x.numpy())), rtol=0, atol=0.1)


def test_augmented_noise_learns_from_the_bound():
    p = randomize(
        bj.Augmented(
            bj.real_nvp(2, layers=2, hidden=(8,)),
            1,
            bj.Flow(bj.Elementwise(bj.Affine(), 1, 1, (8,)), bj.StandardNormal(1)),
        )
    )
    loss = dequantized_nll(p, Batch(torch.randn(64, 1)))
    loss.backward()
    for name, parameter in p.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any() or not parameter.numel()


def test_augmented_flow_fits_two_peaks_with_affine_layers():
    """One dimension under affine elementwise layers can only be normal; one more dimension lets it split."""
    x = torch.cat(
        (torch.randn(1000, 1, generator=seeded(1)) * 0.3 - 2, torch.randn(1000, 1, generator=seeded(2)) * 0.3 + 2)
    )
    p = bj.Augmented(bj.real_nvp(2, layers=6, hidden=(32,)), 1, samples=256)
    result = bj.fit(
        p,
        x,
        objective=dequantized_nll,
        config=bj.FitConfig(epochs=40, batch_size=200, lr=5e-3, patience=None, progress=False),
    )
    with torch.no_grad():
        bound = p.log_prob(x).mean().item()
    assert result.stop_reason == "completed"
    assert bound > -1.35  # a normal law has -2.13, the truth -0.91


def test_slice_is_the_product_of_its_parts():
    rest = randomize(bj.DiagonalNormal(1, 2 + 3, (8,)), 1).double()
    p = bj.Slice(randomize(bj.DiagonalNormal(2, 3, (8,)), 2).double(), rest)
    c = torch.randn(7, 3, generator=seeded(), dtype=F64)
    x = p.sample(5, c, generator=seeded(1))
    assert x.shape == (5, 7, 3)
    given = torch.cat((x[..., :2], c.expand(5, 7, 3)), -1)
    want = p.kept.log_prob(x[..., :2], c) + rest.log_prob(x[..., 2:], given)
    torch.testing.assert_close(p.log_prob(x, c), want)
    assert p.exact
    bound = bj.Augmented(bj.real_nvp(3, layers=2, hidden=(8,)), 2)
    assert not bj.Slice(bound, bj.DiagonalNormal(1, 2, (8,))).exact


def test_absolute_value_with_learned_signs():
    class Logit(torch.nn.Module):
        def forward(self, size, c):
            return 2 - size

    base = bj.TruncatedNormal(1, 0.0, math.inf).double()
    p = bj.Absolute(base, signs=True, net=Logit()).double()
    x = torch.tensor([[0.5], [-0.5], [3.0], [-3.0]], dtype=F64)
    half = scipy.stats.halfnorm.logpdf([0.5, 0.5, 3.0, 3.0])
    sign = scipy.stats.logistic.logcdf([1.5, -1.5, -1.0, 1.0])
    torch.testing.assert_close(p.log_prob(x), torch.tensor(half + sign))
    draws = p.sample(20_000, generator=seeded(1))
    near = draws[draws.abs() < 1]
    chance = scipy.stats.logistic.cdf(2 - near.abs().numpy()).mean()
    assert (near > 0).double().mean().item() == pytest.approx(chance, abs=0.02)
    even = bj.Absolute(base)
    assert scipy.stats.kstest(even.sample(5000, generator=seeded(2))[:, 0].numpy(), "norm").pvalue > 0.01
    assert even.rsample(3).requires_grad
    with pytest.raises(FlowError, match="no gradient"):
        bj.Absolute(base, signs=True, hidden=(8,)).rsample()


@pytest.mark.parametrize(("shape", "size"), [((3,), 2), ((2, 2, 3), 2), ((1, 2, 1), 3)])
def test_max_pool_is_that_of_torch_and_goes_back(shape, size):
    p = bj.MaxPool(bj.StandardNormal(shape), size)
    x = torch.randn(5, *p.event_shape, generator=seeded())
    pools = p._pools(x)
    assert torch.equal(p._spread(pools), x)
    if len(shape) == 3:
        assert torch.equal(pools.amax(-1), torch.nn.functional.max_pool2d(x, size))
    else:
        assert torch.equal(pools.amax(-1), torch.nn.functional.max_pool1d(x.unsqueeze(1), size).squeeze(1))


def test_max_pool_likelihood_by_hand_and_draws():
    p = bj.MaxPool(bj.StandardNormal(1), 3).double()
    with torch.no_grad():
        p.log_scale.fill_(0.4)
    got = p.log_prob(torch.tensor([0.2, 1.0, -0.5], dtype=F64)).item()
    gaps = scipy.stats.expon(scale=math.exp(0.4))
    assert got == pytest.approx(scipy.stats.norm.logpdf(1.0) - math.log(3) + gaps.logpdf([0.8, 1.5]).sum())
    draws = p.sample(6000, generator=seeded(1))
    top = draws.max(-1)
    assert scipy.stats.kstest(top.values.numpy(), "norm").pvalue > 0.01
    counts = torch.bincount(top.indices, minlength=3)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01
    below = (top.values[:, None] - draws).sort(-1).values[:, 1:]
    assert scipy.stats.kstest(below.sum(-1).numpy(), scipy.stats.gamma(2, scale=math.exp(0.4)).cdf).pvalue > 0.01


def test_parts_are_checked():
    normal = bj.StandardNormal
    for build in (
        lambda: bj.Augmented(normal(2), 2),
        lambda: bj.Augmented(normal(2), 1, samples=0),
        lambda: bj.Augmented(normal(2), 1, bj.Flow(bj.LU(2), normal(2))),
        lambda: bj.Slice(normal(2), bj.DiagonalNormal(1, context=3)),
        lambda: bj.Absolute(normal((1, 2))),
        lambda: bj.Absolute(normal(2), net=torch.nn.Identity()),
        lambda: bj.MaxPool(normal(2), 1),
        lambda: bj.MaxPool(normal((2, 2)), 2),
    ):
        with pytest.raises(ConfigError):
            build()

"""Mixtures of densities, truncated normal, Pareto-tailed and resampled bases."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, FlowError
from laws.cases import randomize

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ks(draws, cdf):
    return scipy.stats.kstest(draws.double().numpy().ravel(), cdf).pvalue


# ---- Mixture ---------------------------------------------------------------------------------------------------------


def test_mixture_of_unlike_densities():
    p = bj.Mixture(bj.StandardNormal(1), bj.BoxUniform(1, 5.0, 6.0), bj.StudentT(1, 3.0)).double()
    with torch.no_grad():
        p.logits.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    laws = (scipy.stats.norm(), scipy.stats.uniform(5, 1), scipy.stats.t(3))
    x = torch.linspace(-7, 7, 57, dtype=F64)[:, None]
    want = sum(w * law.pdf(x.numpy()[:, 0]) for w, law in zip((0.5, 0.2, 0.3), laws, strict=True))
    np.testing.assert_allclose(p.log_prob(x).exp().detach(), want, rtol=1e-6)
    draws = p.sample(5000, generator=seeded(1))
    cdf = lambda v: sum(w * law.cdf(v) for w, law in zip((0.5, 0.2, 0.3), laws, strict=True))
    assert ks(draws, cdf) > 0.01
    assert ks(draws, lambda v: 0.95 * cdf(v)) < 0.01
    # Where a component has no mass, the others go on, with finite gradients.
    p.log_prob(x).sum().backward()
    assert p.logits.grad.isfinite().all()


def test_class_conditional_mixture():
    """One-hot classes choose weights and components; every class has its own law."""
    parts = (bj.DiagonalNormal(2, 3, ()) for _ in range(4))
    p = randomize(bj.Mixture(*parts, context=3, hidden=()), scale=1.0).double()
    c = torch.eye(3, dtype=F64)
    draws = p.sample(4000, c, generator=seeded(2))
    assert draws.shape == (4000, 3, 2)
    for k in range(3):
        weights = p.net(c[k, :0], c[k]).softmax(-1).detach().numpy()
        moments = [q.moments(c[k]) for q in p.components]
        cdf = lambda v, w=weights, m=moments: sum(
            a * scipy.stats.norm.cdf(v, loc[0].item(), s[0].exp().item()) for a, (loc, s) in zip(w, m, strict=True)
        )
        assert ks(draws[:, k, 0], cdf) > 0.01
        assert ks(draws[:, (k + 1) % 3, 0], cdf) < 0.01
    with pytest.raises(ContextError, match="context=3 but got context=None"):
        p.log_prob(torch.zeros(2, dtype=F64))


def test_mixture_of_flows_learns_two_clusters():
    p = bj.Mixture(bj.real_nvp(2, layers=2, hidden=(8,)), bj.real_nvp(2, layers=2, hidden=(8,)))
    with torch.no_grad():  # one component a little to the right
        p.components[1].transform.transforms[0].net.head.bias[0] -= 1.0
    x = torch.cat((torch.randn(150, 2) * 0.3 - 2, torch.randn(50, 2) * 0.3 + 2))
    optimizer = torch.optim.Adam(p.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = -p.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.4  # the truth has 0.43 + 0.56
    assert (p.sample(2000, generator=seeded())[:, 0] > 0).double().mean().item() == pytest.approx(0.25, abs=0.08)


def test_draws_of_a_mixture_refuse_false_gradients():
    p = bj.Mixture(bj.DiagonalNormal(1), bj.StandardNormal(1))
    with pytest.raises(FlowError, match="no gradient"):
        p.rsample(3)
    with torch.no_grad():
        assert p.rsample(3).shape == (3, 1)
    assert p.requires_grad_(requires_grad=False).rsample(3).shape == (3, 1)


def test_mixture_checks_its_parts():
    for build in (
        bj.Mixture,
        lambda: bj.Mixture(bj.StandardNormal(1), bj.StandardNormal(2)),
        lambda: bj.Mixture(bj.DiagonalNormal(1, context=2), bj.StandardNormal(1)),
        lambda: bj.Mixture(bj.StandardNormal),
    ):
        with pytest.raises(ConfigError):
            build()


# ---- TruncatedNormal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loc", "scale", "low", "high"),
    [
        (0.3, 0.7, -1.0, 2.0),
        (5.0, 0.5, -1.0, 1.0),
        (-30.0, 1.0, 0.0, 0.5),
        (0.0, 1.0, 0.0, math.inf),
        (1.0, 50.0, 0.0, 1.0),
    ],
)
def test_truncated_normal_against_scipy(loc, scale, low, high):
    p = bj.TruncatedNormal(1, low, high).double()
    with torch.no_grad():
        p.loc.fill_(loc)
        p.log_scale.fill_(10 * math.atanh(math.log(scale) / 10))
    law = scipy.stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
    x = torch.linspace(low, min(high, 4.0), 33, dtype=F64)[:, None]
    np.testing.assert_allclose(p.log_prob(x).detach(), law.logpdf(x.numpy())[:, 0], rtol=1e-8, atol=1e-8)
    assert p.log_prob(torch.tensor([low - 1e-9], dtype=F64)) == -math.inf
    draws = p.sample(4000, generator=seeded(1))
    assert p.log_prob(draws).isfinite().all()
    assert ks(draws, law.cdf) > 0.01
    assert ks(draws, lambda v: law.cdf(v) ** 1.2) < 0.01
    mean = p.rsample(200_000, generator=seeded(2)).mean()
    (slope,) = torch.autograd.grad(mean, p.loc)  # d mean / d loc = variance / scale^2
    assert slope.item() == pytest.approx(law.var() / scale**2, rel=0.03)


# ---- ParetoTailed ----------------------------------------------------------------------------------------------------


def pareto(left=-1.0, right=1.0):
    p = bj.ParetoTailed(1, tail=0.4, mass=0.1).double()
    with torch.no_grad():
        p.log_ratio.copy_(torch.tensor([[left], [right]]))
    return p


def test_pareto_tails_are_generalised_pareto_and_the_body_normal():
    p, u = pareto(), scipy.stats.norm.isf(0.1)
    x = torch.tensor([-1.2, 0.0, 1.0], dtype=F64)[:, None]
    np.testing.assert_allclose(p.log_prob(x).detach(), scipy.stats.norm.logpdf(x[:, 0]), rtol=1e-12)
    far = np.array([1.5, 10.0, 1e6, 1e12])
    for sign, raw in ((-1, -1.0), (1, 1.0)):
        law = scipy.stats.genpareto(0.4 * math.exp(3 * math.tanh(raw / 3)), u, 0.1 / scipy.stats.norm.pdf(u))
        got = p.log_prob(torch.tensor(sign * far)[:, None]).detach()
        np.testing.assert_allclose(got, law.logpdf(far) + math.log(0.1), rtol=1e-10)
        draws = sign * p.sample(60_000, generator=seeded(3))
        assert ks(draws[draws > u], law.cdf) > 0.01
    draws = p.sample(20_000, generator=seeded(4))
    body = draws[draws.abs() <= u]
    assert len(body) / 20_000 == pytest.approx(0.8, abs=0.01)
    assert ks(body, scipy.stats.truncnorm(-u, u).cdf) > 0.01


def test_pareto_tailed_density_is_continuous_with_mass_one():
    p = pareto()
    density = lambda v: p.log_prob(torch.tensor([v], dtype=F64)).exp().item()
    u = scipy.stats.norm.isf(0.1)
    mass = sum(quad(density, a, b)[0] for a, b in ((-np.inf, -u), (-u, u), (u, 50), (50, np.inf)))
    assert mass == pytest.approx(1, abs=1e-6)
    for edge in (-u, u):
        assert density(edge - 1e-9) == pytest.approx(density(edge + 1e-9), rel=1e-6)


def test_pareto_draws_carry_the_gradient_of_the_index():
    p = pareto(0.0, 0.0)
    x = p.rsample(400_000, generator=seeded(1))
    (grad,) = torch.autograd.grad(x.abs().clamp(min=1.0).log().mean(), p.log_ratio)
    ends = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            p.log_ratio[1] += step
            ends.append(p.rsample(400_000, generator=seeded(1)).abs().clamp(min=1.0).log().mean().item())
            p.log_ratio[1] -= step
    assert grad[1].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


# ---- Resampled -------------------------------------------------------------------------------------------------------


class Bump(torch.nn.Module):
    """Acceptance ``sigmoid(2 - z^2)`` without weights, to know its mean by quadrature."""

    def forward(self, z):
        return 2 - z.square().sum(-1, keepdim=True)


def accepted(z):
    return 1 / (1 + math.exp(z * z - 2))


@pytest.mark.parametrize("truncation", [2, 5, 100])
def test_resampled_density_and_draws_against_quadrature(truncation):
    p = bj.Resampled(bj.StandardNormal(1), truncation, points=200_000, net=Bump()).double()
    normal = scipy.stats.norm
    z = quad(lambda v: normal.pdf(v) * accepted(v), -10, 10)[0]
    alpha = (1 - z) ** (truncation - 1)
    law = lambda v: normal.pdf(v) * ((1 - alpha) * accepted(v) / z + alpha)
    x = np.linspace(-4, 4, 33)
    got = p.log_prob(torch.tensor(x)[:, None]).exp()
    np.testing.assert_allclose(got, [law(v) for v in x], rtol=0.01)
    grid = np.linspace(-6, 6, 4001)
    cdf = np.cumsum([law(v) for v in grid]) * (grid[1] - grid[0])
    draws = p.sample(5000, generator=seeded(1))
    assert ks(draws, lambda v: np.interp(v, grid, cdf)) > 0.01
    if truncation > 2:
        assert ks(draws, normal.cdf) < 0.01
    log_z, error = p.normalizer(generator=seeded(2))
    assert log_z == pytest.approx(math.log(z), abs=4 * error)
    assert error < 0.01
    single = bj.Resampled(bj.StandardNormal(1), 2, net=torch.nn.Sequential(torch.nn.Linear(1, 1)))
    assert single.sample((2, 3)).shape == (2, 3, 1)


def test_resampled_knows_that_it_is_an_estimate_and_does_not_move_by_itself():
    p = randomize(bj.Resampled(bj.StandardNormal(2), hidden=(8,), points=50), scale=1.0)
    x = torch.randn(20, 2, generator=seeded())
    assert not p.exact
    assert not bj.Flow(bj.LU(2), p).exact
    first = p.log_prob(x)
    p.sample(100)
    assert torch.equal(p.log_prob(x), first)
    p.refresh(seeded(5))
    assert not torch.equal(p.log_prob(x), first)


def test_resampled_base_learns_a_ring():
    """What a normal base under no layers at all cannot: a hole. Gain in nats on fresh data."""
    angle = 2 * math.pi * torch.rand(3000, generator=seeded(1))
    x = torch.stack((angle.cos(), angle.sin()), -1) * 1.5 + 0.1 * torch.randn(3000, 2, generator=seeded(2))
    p = bj.Resampled(bj.StandardNormal(2), hidden=(32, 32), points=1024)
    optimizer = torch.optim.Adam(p.parameters(), 0.01)
    for k in range(300):
        if k % 50 == 0:
            p.refresh(seeded(k))
        optimizer.zero_grad()
        (-p.log_prob(x[:2000]).mean()).backward()
        optimizer.step()
    p.refresh(seeded(999))
    with torch.no_grad():
        gain = (p.log_prob(x[2000:]) - p.base.log_prob(x[2000:])).mean().item()
    assert gain > 0.5
    radius = p.sample(2000, generator=seeded(3)).norm(dim=-1)
    assert (radius < 0.75).double().mean() < 0.1  # 0.25 of the normal law


def test_resampled_refuses_what_it_cannot_do():
    for build in (
        lambda: bj.Resampled(bj.DiagonalNormal(2)),
        lambda: bj.Resampled(bj.StandardNormal(2), truncation=1),
        lambda: bj.Resampled(bj.StandardNormal(2), points=1),
    ):
        with pytest.raises(ConfigError):
            build()
    with pytest.raises(FlowError, match="no gradient"):
        bj.Resampled(bj.StandardNormal(2)).rsample()


@pytest.mark.parametrize(
    "base", [bj.ParetoTailed(2), bj.TruncatedNormal(2), bj.VonMises(2), bj.Resampled(bj.StandardNormal(2), hidden=(8,))]
)
def test_bases_serve_a_conditional_flow(base):
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 2, 3, (8,)), base)
    c = torch.randn(7, 3)
    draws = flow.sample(5, c, generator=seeded())
    assert draws.shape == (5, 7, 2)
    assert flow.log_prob(draws, c).isfinite().all()

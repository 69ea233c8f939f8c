"""Bases: log-densities against scipy, mass, draws, gradients."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from scipy.integrate import quad

import bijectory as bj
from bijectory.errors import ConfigError, ContextError
from laws.cases import randomize

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ks(draws, cdf):
    """p-value of Kolmogorov-Smirnov with a fixed seed: deterministic, and tiny for a wrong law."""
    return scipy.stats.kstest(draws.double().numpy().ravel(), cdf).pvalue


def diagonal(loc=(1.0, -2.0), log_scale=(0.5, -1.0)):
    p = bj.DiagonalNormal(2).double()
    with torch.no_grad():
        p.loc.copy_(torch.tensor(loc))
        p.log_scale.copy_(10 * torch.atanh(torch.tensor(log_scale, dtype=F64) / 10))
    return p


def mixture(seed=0, features=2, components=3):
    return randomize(bj.GaussianMixture(features, components), seed, 1.5).double()


def test_diagonal_normal_against_scipy():
    p, x = diagonal(), torch.randn(50, 2, generator=seeded(), dtype=F64) * 3
    want = scipy.stats.norm([1.0, -2.0], np.exp([0.5, -1.0])).logpdf(x.numpy()).sum(-1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), want, rtol=1e-12)
    draws = p.sample(4000, generator=seeded(1))
    assert ks(draws[:, 0], scipy.stats.norm(1.0, math.exp(0.5)).cdf) > 0.01
    assert ks(draws[:, 1], scipy.stats.norm(-2.0, math.exp(-1.0)).cdf) > 0.01
    assert ks(draws[:, 1], scipy.stats.norm(-2.05, math.exp(-1.0)).cdf) < 0.01


def test_diagonal_normal_is_pathwise_and_bounded():
    p = diagonal()
    x = p.rsample(1000, generator=seeded())
    x[:, 0].sum().backward()
    assert p.loc.grad.tolist() == pytest.approx([1000.0, 0.0])
    with torch.no_grad():
        p.log_scale.fill_(1e30)
    assert p.log_prob(torch.zeros(2, dtype=F64)).isfinite()


def test_diagonal_normal_of_a_context():
    p = randomize(bj.DiagonalNormal((2, 3), context=4, hidden=(8,)), scale=1.0).double()
    c = torch.randn(7, 4, generator=seeded(), dtype=F64)
    x = p.sample(5, c, generator=seeded(1))
    assert x.shape == (5, 7, 2, 3)
    logp = p.log_prob(x, c)
    assert logp.shape == (5, 7)
    torch.testing.assert_close(logp[2, 3], p.log_prob(x[2, 3], c[3]))
    moments = p.net(c[..., :0], c)
    loc, s = moments[3].reshape(2, 2, 3).detach().numpy()
    want = scipy.stats.norm(loc, np.exp(10 * np.tanh(s / 10))).logpdf(x[2, 3].numpy()).sum()
    assert logp[2, 3].item() == pytest.approx(want)
    with pytest.raises(ContextError, match="context=4 but got context=None"):
        p.sample()


def test_box_uniform():
    p = bj.BoxUniform(2, (-1.0, 0.1), (1.0, 0.3))
    x = torch.tensor([[0.0, 0.2], [1.0, 0.1], [1.001, 0.2], [0.0, 0.31], [math.nan, 9.0], [math.inf, 0.2]])
    got = p.log_prob(x)
    inside = -math.log(2 * 0.2)
    assert got[:4].tolist() == pytest.approx([inside, inside, -math.inf, -math.inf])
    assert got[4].isnan()
    assert got[5] == -math.inf
    # 0.1 rounded to float32 and back would shut out the bound.
    assert p.double().log_prob(torch.tensor([0.0, 0.1], dtype=F64)).isfinite()
    draws = p.sample(4000, generator=seeded())
    assert p.log_prob(draws).isfinite().all()
    assert ks(draws[:, 1], scipy.stats.uniform(0.1, 0.2).cdf) > 0.01
    assert bj.BoxUniform((2, 3)).sample((4, 5)).shape == (4, 5, 2, 3)


def test_box_uniform_as_the_base_of_a_bounded_flow():
    flow = bj.Flow(bj.Elementwise(bj.Sigmoid(-1.0, 1.0), 1), bj.BoxUniform(1, -1.0, 1.0)).double()
    x = torch.linspace(-5, 5, 11, dtype=F64)[:, None]
    want = scipy.stats.logistic.logpdf(x.numpy())[:, 0]
    np.testing.assert_allclose(flow.log_prob(x).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("dof", [0.5, 1.0, 3.0, 30.0, 1e4])
def test_student_against_scipy(dof):
    law = scipy.stats.t(dof)
    x = torch.tensor([0.0, 1e-6, 0.3, -2.0, 50.0, -1e4, 1e6, 1e12, 1e30], dtype=F64)[:, None]
    for dtype, rtol in ((F64, 1e-10), (torch.float32, 2e-6)):
        p = bj.StudentT(1, dof).to(dtype)
        got = p.log_prob(x.to(dtype)).detach().double().numpy()
        np.testing.assert_allclose(got, law.logpdf(x.numpy())[:, 0], rtol=rtol, atol=rtol)
        draws = p.sample(4000, generator=seeded(3))
        assert draws.isfinite().all()
        assert ks(draws, law.cdf) > 0.01
        assert ks(draws, scipy.stats.t(dof / 2).cdf) < 0.01 or dof > 10


def test_student_draws_are_differentiable_in_the_dof():
    p = bj.StudentT(1, 6.0).double()
    x = p.rsample(400_000, generator=seeded(2))
    # E[x^2] = nu / (nu - 2), so d/dlog nu = -2 nu / (nu - 2)^2 = -0.75
    (grad,) = torch.autograd.grad(x.square().mean(), p.log_factor)
    assert grad.item() == pytest.approx(-0.75, abs=0.05)
    q = bj.StudentT(1, 6.0, learn=False)
    assert list(q.parameters()) == []
    assert not q.rsample().requires_grad


def test_student_takes_a_dof_for_each_feature():
    p = bj.StudentT(2, (1.0, 8.0), learn=False).double()
    x = torch.tensor([0.7, -1.3], dtype=F64)
    want = scipy.stats.t([1.0, 8.0]).logpdf(x.numpy()).sum()
    assert p.log_prob(x).item() == pytest.approx(want)


def mixture_parts(p):
    return (v.detach().numpy() for v in (p.logits.softmax(0), p.means, p.log_scales.exp()))


def test_mixture_against_scipy():
    p = mixture()
    x = 2 * torch.randn(50, 2, generator=seeded(), dtype=F64)
    weights, means, scales = mixture_parts(p)
    parts = scipy.stats.norm(means, scales).pdf(x.numpy()[:, None]).prod(-1)
    np.testing.assert_allclose(p.log_prob(x).detach().numpy(), np.log(parts @ weights), rtol=1e-10)
    draws = p.sample(4000, generator=seeded(1))
    for i in range(2):
        cdf = lambda v, i=i: scipy.stats.norm(means[:, i], scales[:, i]).cdf(v[:, None]) @ weights
        assert ks(draws[:, i], cdf) > 0.01
        assert ks(draws[:, i], lambda v, cdf=cdf: cdf(v - 0.2)) < 0.01


def test_implicit_gradient_of_a_mixture_in_one_dimension_is_exact():
    p = mixture(features=1)
    x = p.rsample(1, generator=seeded())[0, 0]
    got = torch.autograd.grad(x, tuple(p.parameters()))
    # Hold the quantile u = F(x; theta) and move each parameter by hand.
    cdf = lambda q, v: sum(
        w * scipy.stats.norm.cdf((v - m[0]) / s[0]) for w, m, s in zip(*mixture_parts(q), strict=True)
    )
    u = cdf(p, x.item())
    for grad, parameter in zip(got, p.parameters(), strict=True):
        for k in range(3):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter[k] += step
                ends.append(scipy.optimize.brentq(lambda v: cdf(p, v) - u, -50, 50, xtol=1e-13))
                with torch.no_grad():
                    parameter[k] -= step
            assert grad.flatten()[k].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_implicit_gradient_of_a_mixture_is_unbiased():
    p = mixture(4)
    x = p.rsample(400_000, generator=seeded(5))
    assert torch.equal(x, p.sample(400_000, generator=seeded(5)))
    got = torch.autograd.grad((x[:, 0] * x[:, 1]).mean(), tuple(p.parameters()))
    w, m = p.logits.softmax(0), p.means  # E[x_0 x_1] = sum_k w_k m_k0 m_k1
    want = torch.autograd.grad((w * m[:, 0] * m[:, 1]).sum(), (p.logits, p.means))
    for a, b in zip(got, (*want, torch.zeros_like(m)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "p",
    [diagonal(), bj.StudentT(1, 2.0).double(), mixture(features=1), bj.BoxUniform(1, -2.0, 1.0).double()],
    ids=lambda p: type(p).__name__,
)
def test_mass_is_one(p):
    def density(v):
        with torch.no_grad():
            x = torch.full(p.event_shape, v, dtype=F64)
            if p.event_shape.numel() == 1:
                return p.log_prob(x).exp().item()
            x[1] = -2.0  # the second marginal of ``diagonal`` at its mean
            return (p.log_prob(x) - scipy.stats.norm(-2.0, math.exp(-1.0)).logpdf(-2.0)).exp().item()

    mass = sum(quad(density, a, b)[0] for a, b in ((-np.inf, -2.0), (-2.0, 1.0), (1.0, np.inf)))
    assert mass == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("p", [bj.StudentT(3), bj.GaussianMixture(3), bj.DiagonalNormal(3), bj.BoxUniform(3)])
def test_bases_serve_a_conditional_flow(p):
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 3, 2, hidden=(8,)), p)
    c = torch.randn(7, 2)
    assert flow.sample(5, c).shape == (5, 7, 3)
    assert flow.log_prob(torch.zeros(7, 3), c).shape == (7,)
    assert flow.sample(0, c).shape == (0, 7, 3)


def test_hyper_parameters_are_checked():
    for build in (
        lambda: bj.DiagonalNormal(2, max_log_scale=0.0),
        lambda: bj.BoxUniform(2, 1.0, 0.0),
        lambda: bj.BoxUniform(2, (0.0, 0.0, 0.0), 1.0),
        lambda: bj.StudentT(2, -1.0),
        lambda: bj.StudentT(2, (1.0, 2.0, 3.0)),
        lambda: bj.GaussianMixture(2, 0),
        lambda: bj.GaussianMixture(2, spread=-1.0),
    ):
        with pytest.raises(ConfigError):
            build()

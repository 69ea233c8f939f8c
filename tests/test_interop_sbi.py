"""Recipes inside sbi, and its posteriors here. Slow for the import of sbi alone."""

import warnings

import pytest
import torch

import bijectory as bj
from bijectory.apps.posterior import Prior, Simulations, rank, sbc
from bijectory.errors import ConfigError, ShapeError

pytest.importorskip("sbi")
pytestmark = [
    pytest.mark.slow,  # 40 s on one thread, 10 of them for the import
    pytest.mark.filterwarnings("ignore:Maximum number of epochs:UserWarning"),
]
from sbi.inference import NLE, NPE  # noqa: E402
from sbi.utils import BoxUniform  # noqa: E402

from bijectory.interop import sbi as border  # noqa: E402

SMALL = {"layers": 2, "hidden": (32,)}
LOW, HIGH, NOISE = -1.0, 1.0, 0.5
FAST = {"training_batch_size": 50, "learning_rate": 1e-3, "max_num_epochs": 30}


@pytest.fixture(scope="module")
def prior():
    return BoxUniform(torch.full((2,), LOW), torch.full((2,), HIGH))


@pytest.fixture(scope="module")
def pairs(prior):
    torch.manual_seed(0)
    theta = prior.sample((2000,))
    return theta, theta + NOISE * torch.randn(2000, 2)


@pytest.fixture(scope="module")
def posterior(prior, pairs):
    torch.manual_seed(0)
    build = border.density_estimator("nsf", SMALL, prior=prior)
    inference = NPE(prior, density_estimator=build, show_progress_bars=False)
    inference.append_simulations(*pairs)
    inference.train(**FAST)
    return inference.build_posterior()


def test_npe_learns_a_truncated_normal(posterior):
    x = torch.tensor([0.9, 0.0])
    torch.manual_seed(1)
    draws = posterior.sample((4000,), x=x, show_progress_bars=False)
    want = torch.distributions.Normal(x, NOISE)
    grid = torch.linspace(LOW, HIGH, 2001)[:, None].expand(-1, 2)
    weight = want.log_prob(grid).exp()
    mean = (weight * grid).sum(0) / weight.sum(0)
    sd = ((weight * (grid - mean) ** 2).sum(0) / weight.sum(0)).sqrt()
    assert ((draws.mean(0) - mean).abs() < 0.2 * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.15).all()
    assert float(posterior.leakage_correction(x[None])) == 1.0  # bounds by construction
    cut = want.cdf(torch.tensor(HIGH)) - want.cdf(torch.tensor(LOW))
    exact = (want.log_prob(draws[:500]) - cut.log()).sum(-1)
    assert (posterior.log_prob(draws[:500], x=x) - exact).abs().mean() < 0.25


def test_nle_trains_and_samples(prior, pairs):
    build = border.likelihood_estimator("nsf", SMALL)
    inference = NLE(prior, density_estimator=build, show_progress_bars=False)
    inference.append_simulations(*pairs)
    torch.manual_seed(0)
    estimator = inference.train(**FAST)
    theta, x = torch.zeros(200, 2), NOISE * torch.randn(200, 2)
    exact = torch.distributions.Normal(theta, NOISE).log_prob(x).sum(-1)
    assert (estimator.log_prob(x[None], theta)[0] - exact).abs().mean() < 0.25


def test_the_contract_of_an_estimator():
    theta, images = torch.randn(40, 2), torch.randn(40, 1, 4, 4)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    estimator = border.density_estimator("real_nvp", SMALL, embedding_net=net)(theta, images)
    assert estimator.input_shape == (2,)
    assert estimator.condition_shape == (1, 4, 4)
    assert estimator.embedding_net is estimator.net.embed
    assert estimator.net.context == 5
    loss = estimator.loss(theta, images)
    assert loss.shape == (40,)
    loss.mean().backward()
    assert net[0].weight.grad.abs().sum() > 0
    value = estimator.log_prob(theta[None], images)
    torch.testing.assert_close(value[0], -loss)
    assert estimator.log_prob(theta, images).shape == (1, 40)
    assert estimator.log_prob(theta.expand(3, 40, 2), images).shape == (3, 40)
    torch.testing.assert_close(estimator.log_prob(theta.expand(3, 40, 2), images.expand(3, 40, 1, 4, 4))[2], value[0])
    assert estimator.log_prob(theta[:, None], images[:1]).shape == (40, 1)
    draws, logp = estimator.sample_and_log_prob((3, 5), images[:4])
    assert draws.shape == (3, 5, 4, 2)
    torch.testing.assert_close(estimator.log_prob(draws[0], images[:4]), logp[0], rtol=1e-3, atol=1e-3)
    assert estimator.sample((6,), images[:4]).shape == (6, 4, 2)
    with pytest.raises(ValueError, match="condition"):
        estimator.log_prob(theta, torch.zeros(40, 4, 4))


def test_standardised_by_the_training_set():
    theta, x = 100 + 5 * torch.randn(500, 2), torch.tensor([1e4, 0.0]) + torch.randn(500, 2) * torch.tensor([1e3, 0.0])
    plain = border.density_estimator(lambda d, c: bj.nsf(d, c, layers=1, hidden=(8,)))(theta, x)
    z, _ = plain.net.transform[0](theta) if len(plain.net.transform[0]) else plain.net.transform[1](theta)
    assert z.mean(0).abs().max() < 1e-3
    assert (z.std(0) - 1).abs().max() < 1e-3
    c = plain.embedding_net(x)
    assert c[:, 0].std() == pytest.approx(1, abs=1e-3)
    assert c[:, 1].abs().max() == 0  # constant: left as it is
    raw = border.density_estimator("nsf", SMALL, z_score=False)(theta, x)
    assert torch.equal(raw.embedding_net(x), x)


def test_a_posterior_of_sbi_under_the_diagnostics(posterior, prior, pairs):
    ours = border.from_sbi(posterior, Prior(prior, names=["a", "b"])).at([0.9, 0.0])
    draws = ours.sample(500, seed=0)
    assert torch.equal(draws, ours.sample(500, seed=0))
    assert ours.credible_intervals(0.9).shape == (2, 2)
    float32 = posterior.posterior_estimator.log_prob(draws[None, :5].float(), torch.tensor([[0.9, 0.0]]).expand(5, 2))
    torch.testing.assert_close(ours.log_prob(draws[:5]), float32[0].double(), rtol=1e-4, atol=1e-4)
    assert ours.log_prob(torch.tensor([2.0, 0.0])) == -torch.inf
    theta, x = (v[:200].double() for v in pairs)
    checked = sbc(rank(ours, Simulations.of(theta, x), draws=50))
    assert "a" in str(checked)
    assert repr(ours) == "SbiPosterior(a, b | x (2,))"


def test_what_is_refused(prior, posterior):
    with pytest.raises(ConfigError, match=r"'cfm' by .*flow_matching"):
        border.density_estimator("cfm")
    with pytest.raises(ConfigError, match="did you mean"):
        border.likelihood_estimator("realnvp")
    with pytest.raises(ConfigError, match="a name or a function"):
        border.density_estimator(3)
    with pytest.raises(ShapeError, match="a recipe of vectors"):
        border.density_estimator("nsf")(torch.zeros(5, 2, 2), torch.zeros(5, 2))
    with pytest.raises(ConfigError, match="DirectPosterior"):
        border.from_sbi(object(), prior)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert posterior.posterior_estimator.net.event_shape == (2,)

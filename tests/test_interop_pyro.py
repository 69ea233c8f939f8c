"""Flows in Pyro, against closed forms."""

import math

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ShapeError
from bijectory.testing import randomize

pyro = pytest.importorskip("pyro")
dist = pytest.importorskip("pyro.distributions")
poutine = pytest.importorskip("pyro.poutine")
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO  # noqa: E402
from pyro.infer.reparam import NeuTraReparam  # noqa: E402
from torch.distributions import constraints  # noqa: E402

from bijectory.interop.pyro import FlowGuide, PyroFlow, at, neutra  # noqa: E402

SMALL = {"layers": 2, "hidden": (16,)}


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


# -- pyro.sample -------------------------------------------------------------------------------------------------------


def test_a_flow_under_plates_and_masks():
    flow = randomize(bj.real_nvp(2, 3, **SMALL))
    c, x = torch.randn(4, 3), torch.randn(4, 2)
    mask = torch.tensor([True, False, True, True])

    def model(obs=None):
        with pyro.plate("rows", 4), poutine.mask(mask=mask):
            return pyro.sample("x", at(flow, c), obs=obs)

    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    want = flow.log_prob(x, c)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], want * mask)
    torch.testing.assert_close(trace.nodes["x"]["unscaled_log_prob"], want)
    assert model().shape == (4, 2)
    with pyro.plate("outer", 5, dim=-2):
        assert model().shape == (5, 4, 2)
    p = at(flow, c)
    assert isinstance(p, PyroFlow)
    assert p().requires_grad
    assert p.to_event(1).log_prob(x).shape == ()
    assert p.expand_by((6,)).sample().shape == (6, 4, 2)
    assert p.mask(mask).log_prob(x)[1] == 0
    assert p.shape() == (4, 2)
    assert p.event_dim == 1
    assert at(bj.nsf(2)).expand((3,)).sample().shape == (3, 2)


def test_a_flow_as_a_likelihood_learns():
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 1), bj.StandardNormal(1))
    x = 2 + 0.5 * torch.randn(500, 1)

    def model():
        pyro.module("flow", flow)
        with pyro.plate("rows", 500):
            pyro.sample("x", at(flow), obs=x)

    svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(400):
        svi.step()
    draws = flow.sample(4000)
    assert abs(draws.mean() - x.mean()) < 0.05
    assert abs(draws.std() / x.std() - 1) < 0.05


@pytest.mark.slow  # 6 s on one thread
def test_a_flow_as_a_prior_on_an_interval():
    """NUTS maps the declared support onto the real space; the flow is the uniform density, so the posterior is a Beta."""
    flow = bj.Flow(bj.Elementwise(bj.Logit(0.0, 1.0), 1), bj.Flow(bj.Elementwise(bj.Sigmoid(), 1), bj.BoxUniform(1)))

    def model():
        p = pyro.sample("p", at(flow, support=constraints.independent(constraints.unit_interval, 1)))
        with pyro.plate("tosses", 10):
            pyro.sample("y", dist.Bernoulli(p), obs=torch.tensor([1.0] * 7 + [0.0] * 3))

    mcmc = MCMC(NUTS(model), num_samples=200, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    p = mcmc.get_samples()["p"]
    assert ((p > 0) & (p < 1)).all()
    assert abs(p.mean() - 8 / 12) < 0.05  # Beta(8, 4), sd 0.13


# -- the guide ---------------------------------------------------------------------------------------------------------

Y = torch.tensor([1.0, 2.0, 3.0])


def conjugate():
    """Normal means with a normal likelihood: an exact posterior and evidence."""
    with pyro.plate("j", 3):
        theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=Y)


MEAN, SD = 4 / 5 * Y, math.sqrt(4 / 5)
LOG_Z = dist.Normal(0.0, math.sqrt(5.0)).log_prob(Y).sum()


def trained(model, steps=400, **keywords):
    guide = FlowGuide(model, "real_nvp", SMALL, **keywords)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(model, guide, optimizer, Trace_ELBO(num_particles=32, vectorize_particles=True))
    losses = [svi.step() for _ in range(steps)]
    return guide, sum(losses[-20:]) / 20


@pytest.fixture(scope="module")
def conjugate_guide():
    pyro.set_rng_seed(0)
    return trained(conjugate, init_scale=0.5)


def test_svi_finds_the_evidence_and_the_moments(conjugate_guide):
    guide, loss = conjugate_guide
    assert abs(-loss - LOG_Z) < 0.05
    draws = Predictive(conjugate, guide=guide, num_samples=2000, parallel=True)()
    assert draws["theta"].shape == (2000, 3)
    assert draws["y"].shape == (2000, 3)
    assert (draws["theta"].mean(0) - MEAN).abs().max() < 0.1  # a standard error of 0.02
    assert (draws["theta"].std(0) / SD - 1).abs().max() < 0.1
    one = Predictive(conjugate, guide=guide, num_samples=3)()
    assert one["theta"].shape == (3, 3)
    p = guide.get_posterior()
    x = p.sample((5,))
    again = dist.TransformedDistribution(guide.get_base_dist(), guide.get_transform())
    torch.testing.assert_close(again.log_prob(x), p.log_prob(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # 9 s on one thread
def test_neutra_runs_in_latent_space_and_maps_back(conjugate_guide):
    guide, _ = conjugate_guide
    model, back = neutra(conjugate, guide)
    mcmc = MCMC(NUTS(model, max_tree_depth=4), num_samples=150, warmup_steps=50, disable_progbar=True)
    mcmc.run()
    (z,) = mcmc.get_samples().values()
    assert z.shape == (150, 3)
    assert (z.mean(0).abs() < 0.4).all()  # nearly standard normal: the guide fits
    theta = back(z)["theta"]
    assert theta.shape == (150, 3)
    assert (theta.mean(0) - MEAN).abs().max() < 0.35  # four standard errors of 150 independent draws
    assert back(z[None])["theta"].shape == (1, 150, 3)
    torch.testing.assert_close(guide.flow.to_latent(back(z)["theta"])[0], z, rtol=1e-3, atol=1e-3)
    assert all(p.requires_grad for p in guide.flow.parameters())
    assert NeuTraReparam(guide).reparam(conjugate) is not None


def test_supports_and_shapes_of_sites():
    def model():
        tau = pyro.sample("tau", dist.HalfNormal(2.0))
        w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("j", 2):
            theta = pyro.sample("theta", dist.Normal(0.0, tau))
        pyro.sample("y", dist.Normal(theta.sum(-1) + w[..., 0], 1.0), obs=torch.tensor(1.0))

    guide = FlowGuide(model, "nsf", SMALL, init_scale=0.05)
    got = guide()
    assert {k: tuple(v.shape) for k, v in got.items()} == {"tau": (), "w": (3,), "theta": (2,)}
    assert got["tau"] > 0
    assert float(got["w"].detach().sum()) == pytest.approx(1, abs=1e-5)
    assert guide.latent_dim == guide.flow.event_shape[0] == 5
    loss = Trace_ELBO().differentiable_loss(model, guide)
    loss.backward()
    assert all(p.grad is not None for p in guide.parameters())
    names = {n.split(".")[0] for n, _ in guide.named_parameters()}
    assert names == {"flow"}


def test_guides_that_are_refused():
    with pytest.raises(ConfigError, match="init_scale"):
        FlowGuide(conjugate, init_scale=0.0)
    with pytest.raises(ConfigError, match="did you mean"):
        FlowGuide(conjugate, "realnvp")
    with pytest.raises(ConfigError, match="what the recipe returned must be a Flow"):
        FlowGuide(conjugate, lambda d: torch.nn.Linear(d, d))()
    with pytest.raises(ShapeError, match=r"events \(3,\) without context; got \(2,\)"):
        FlowGuide(conjugate, lambda d: bj.nsf(2))()
    with pytest.raises(ConfigError, match="train it by SVI first"):
        neutra(conjugate, FlowGuide(conjugate))
    with pytest.raises(ConfigError, match="must be a FlowGuide"):
        neutra(conjugate, pyro.infer.autoguide.AutoNormal(conjugate))
    with pytest.raises(ConfigError, match="must be a Flow"):
        at(bj.StandardNormal(2))

"""Variational autoencoders: bounds against known answers, every posterior both ways, likelihoods that sum to one."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import bijectory as bj
from bijectory.apps.vae import (
    LIKELIHOODS,
    POSTERIORS,
    VAE,
    BernoulliPixels,
    CategoricalLevels,
    GaussianValues,
    Likelihood,
    LogisticLevels,
    LogLikelihood,
    amortized_posterior,
    build_vae,
)
from bijectory.errors import ConfigError, ContextError, ShapeError
from bijectory.nets import DenseDecoder, DenseEncoder, GatedDecoder, GatedEncoder
from bijectory.objectives import BinarizedData, NegativeElbo
from bijectory.training import Anneal

SMALL = {
    "planar": {"layers": 4},
    "sylvester": {"layers": 2, "rank": 2},
    "iaf": {"layers": 3, "hidden": (12,)},
    "real_nvp": {"layers": 4, "hidden": (12,)},
    "nsf": {"layers": 2, "hidden": (12,)},
    "cnf": {"hidden": (8,)},
}


def randomize(module, scale=0.4, seed=0):
    """Weights as after training: no symmetry, no zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data += (
            scale
            * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            / max(1, p.shape[-1] if p.dim() else 1) ** 0.5
        )
    return module


def posterior(name, latent=3, context=4):
    return randomize(amortized_posterior(name, latent, context, **SMALL.get(name, {})).double())


# -- a model whose likelihood and posterior are known --------------------------------------------------------------------


class Moments(nn.Module):
    """Means linear in the context and log-scales that are the same everywhere: a net for DiagonalNormal."""

    def __init__(self, weight, bias, log_scale):
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0]).double()
        self.linear.weight.data, self.linear.bias.data = weight, bias
        self.raw = nn.Parameter(10 * torch.atanh(log_scale / 10))

    def forward(self, x, c):
        mean = self.linear(c)
        return torch.cat((mean, self.raw.expand_as(mean)), -1)


def principal_components(shift=0.0, widen=0.0):
    """Probabilistic PCA with orthogonal loadings, so that its posterior is diagonal; moved and widened, if asked for."""
    sigma, loadings = 0.5, torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0], [0.5, -0.5, 1.0, 0.0, 0.0]], dtype=torch.float64).T
    mu = torch.arange(5, dtype=torch.float64)
    precision = (loadings.T @ loadings).diagonal() / sigma**2 + 1
    weight = loadings.T / sigma**2 / precision.unsqueeze(-1)
    net = Moments(weight, shift - weight @ mu, widen - 0.5 * precision.log())
    decoder = nn.Linear(2, 5).double()
    decoder.weight.data, decoder.bias.data = loadings, mu
    likelihood = GaussianValues(5, 2, decoder).double()
    likelihood.log_scale.data = torch.tensor(7 * math.atanh(math.log(sigma) / 7), dtype=torch.float64)
    vae = VAE(nn.Identity(), bj.DiagonalNormal(2, 5, net=net), likelihood).double().requires_grad_(requires_grad=False)
    exact = MultivariateNormal(mu, loadings @ loadings.T + sigma**2 * torch.eye(5, dtype=torch.float64))
    true = Normal(torch.zeros(2, dtype=torch.float64), (-0.5 * precision.log()).exp())
    moved = Normal(true.loc + shift, true.scale * math.exp(widen))
    return vae, exact, kl_divergence(moved, true).sum()


def test_the_bound_is_exact_where_the_posterior_is():
    vae, exact, gap = principal_components()
    x = exact.sample((40,))
    log_p = exact.log_prob(x)
    assert gap == pytest.approx(0.0, abs=1e-12)
    weights = vae.log_weights(x, 7)
    torch.testing.assert_close(weights, log_p.expand(7, 40), rtol=0, atol=1e-10)
    found = vae.log_likelihood(x, 100)
    torch.testing.assert_close(found.log_prob, log_p, rtol=0, atol=1e-10)
    assert found.se.max() < 1e-7
    assert found.ess.min() > 99.99


@pytest.mark.parametrize(("shift", "widen"), [(0.3, 0.0), (0.0, 0.4), (0.2, -0.3)])
def test_the_bound_is_below_by_the_divergence_of_the_posterior(shift, widen):
    vae, exact, gap = principal_components(shift, widen)
    x = exact.sample((200,))
    log_p, elbo = exact.log_prob(x), vae.elbo(x, samples=400)
    lost = log_p - elbo.bound
    error = vae.elbo_terms(x, 400)[0].std(0) / 20
    assert gap > 0.05
    assert ((lost - gap).abs() < 5 * error).all()
    assert lost.mean() == pytest.approx(gap.item(), abs=4 * float(error.square().mean().sqrt()) / 200**0.5)


@pytest.mark.parametrize(("shift", "widen"), [(0.3, 0.2), (0.0, 0.4)])
def test_weighted_likelihoods_converge_to_the_exact_ones_within_their_errors(shift, widen):
    vae, exact, _ = principal_components(shift, widen)
    x = exact.sample((200,))
    found = vae.log_likelihood(x, 2000, seed=1)
    z = (found.log_prob - exact.log_prob(x)) / found.se
    assert z.abs().max() < 4.5
    assert 0.8 < z.std() < 1.2
    assert abs(found.mean - float(exact.log_prob(x).mean())) < 4 * found.monte_carlo_error
    few = vae.log_likelihood(x, 20, seed=1)
    assert (few.log_prob - exact.log_prob(x)).abs().mean() > 3 * (found.log_prob - exact.log_prob(x)).abs().mean()


def test_chunks_change_only_the_draws():
    vae, exact, _ = principal_components(0.2, 0.2)
    x = exact.sample((13,))
    whole = vae.log_likelihood(x, 700, seed=None)
    parts = vae.log_likelihood(x, 700, seed=None, chunk_values=5 * 90)  # eight parts of each row, the last one shorter
    assert ((whole.log_prob - parts.log_prob) / whole.se.hypot(parts.se)).abs().max() < 4
    assert torch.equal(vae.log_likelihood(x, 50, seed=3).log_prob, vae.log_likelihood(x, 50, seed=3).log_prob)
    assert vae.log_likelihood(x[:0], 50).log_prob.shape == (0,)


def test_errors_and_effective_draws_are_those_of_the_weights():
    vae, exact, _ = principal_components(0.4, 0.1)
    x = exact.sample((6,))
    torch.manual_seed(5)
    found = vae.log_likelihood(x, 300, seed=None)
    torch.manual_seed(5)
    w = vae.log_weights(x, 300).exp()
    torch.testing.assert_close(found.log_prob, w.mean(0).log())
    torch.testing.assert_close(found.ess, w.sum(0).square() / w.square().sum(0))
    torch.testing.assert_close(found.se, (w / w.mean(0)).std(0, correction=0) / 300**0.5)
    assert isinstance(found, LogLikelihood)
    assert "6 rows, 300 samples" in str(found)


def test_the_divergence_of_a_diagonal_posterior_is_the_closed_form():
    vae = randomize(build_vae((6,), latent=3, likelihood="gaussian", hidden=(8,)).double())
    x = torch.randn(5, 6, dtype=torch.float64)
    assert vae.closed_form
    mean, s = (t.detach() for t in vae.posterior.moments(vae.code(x)))
    closed = kl_divergence(Normal(mean, s.exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.elbo(x).kl, closed)
    z, log_q = vae.posterior.rsample_and_log_prob(20_000, vae.code(x))
    draws = log_q - vae.prior.log_prob(z)
    assert ((draws.mean(0) - closed).abs() < 4 * draws.std(0) / 20_000**0.5).all()


def test_active_units_are_those_that_the_data_move():
    vae, exact, _ = principal_components()
    vae.posterior.net.linear.weight.data[1] = 0.0  # the second dimension no longer sees the data
    x = exact.sample((2000,))
    found = vae.active_units(x, 16)
    assert found.count == 1
    moved = (x @ vae.posterior.net.linear.weight[0]).var()
    assert found.variance[0] == pytest.approx(float(moved), rel=0.02)
    assert abs(found.variance[1]) < 0.005  # the variance of the means of 16 draws, about 0.04, is taken off


# -- posteriors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_of_draws_is_the_density_by_the_inverse(name):
    q = posterior(name)
    code = torch.randn(5, 4, dtype=torch.float64)
    z, log_q = q.rsample_and_log_prob(6, code)
    assert z.shape == (6, 5, 3)
    torch.testing.assert_close(q.log_prob(z, code), log_q, rtol=0, atol=1e-6 if name != "cnf" else 1e-3)
    assert (q.rsample_and_log_prob((), code)[0] - q.rsample_and_log_prob((), code + 1)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_integrates_to_one(name):
    q = posterior(name, latent=2)
    code = torch.randn(4, dtype=torch.float64)
    z = q.sample(4000, code)
    low, high = z.min(0).values - 4 * z.std(0), z.max(0).values + 4 * z.std(0)
    axes = [torch.linspace(float(a), float(b), 201, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)
    cell = math.prod(float(a[1] - a[0]) for a in axes)
    with torch.no_grad():
        density = q.log_prob(grid, code).exp() * cell
    assert density.sum() == pytest.approx(1.0, abs=0.01)
    assert ((density.unsqueeze(-1) * grid).sum(0) - z.mean(0)).abs().max() < 5 * z.std(0).max() / 4000**0.5


@pytest.mark.parametrize("name", POSTERIORS)
def test_gradients_reach_every_weight(name):
    vae = build_vae((1, 4, 4), latent=3, posterior=name, posterior_args=SMALL.get(name), hidden=(8,), prior="maf")
    randomize(vae)
    NegativeElbo()(vae.train(), bj.objectives.Batch(torch.bernoulli(torch.full((16, 1, 4, 4), 0.5)))).backward()
    missing = [n for n, p in vae.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert missing == []


def test_posteriors_refuse_unknown_names_and_arguments():
    with pytest.raises(ConfigError, match="there is no posterior 'silvester'; known posteriors: diagonal"):
        amortized_posterior("silvester", 2, 3)
    with pytest.raises(ConfigError, match="'planar' has no argument width; it takes layers"):
        amortized_posterior("planar", 2, 3, width=4)


# -- likelihoods ---------------------------------------------------------------------------------------------------------


def binary(d):
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * d)


def test_binary_images_have_probabilities_that_sum_to_one():
    pixels = randomize(BernoulliPixels((1, 2, 2), 2, DenseDecoder(2, (1, 2, 2), hidden=(8,))))
    z = torch.randn(3, 2)
    x = binary(4).reshape(-1, 1, 1, 2, 2)
    p = pixels.log_prob(x, z).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(3))
    torch.testing.assert_close((p[..., None, None, None] * x).sum(0), pixels.mean(z))


@pytest.mark.parametrize("kind", [LogisticLevels, CategoricalLevels])
@pytest.mark.parametrize("scale", [0.5, 6.0])
def test_levels_have_probabilities_that_sum_to_one(kind, scale):
    n_params = 2 if kind is LogisticLevels else 8
    net = randomize(DenseDecoder(2, (1,), n_params, hidden=(8,)).double(), scale)
    pixels = kind(1, 2, net, levels=8)
    z, x = torch.randn(3, 2, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).reshape(8, 1, 1)
    p = pixels.log_prob(x, z).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close((p.unsqueeze(-1) * x).sum(0), pixels.mean(z))
    draws = pixels.sample(4000, z)
    shares = torch.stack([(draws == k).double().mean(0).squeeze(-1) for k in range(8)])
    p = p.detach()
    assert ((shares - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all()


def test_logistic_levels_keep_their_tails():
    net = nn.Linear(1, 2).double()
    net.weight.data, net.bias.data = (
        torch.zeros(2, 1, dtype=torch.float64),
        torch.tensor([0.0, -6.0], dtype=torch.float64),
    )
    pixels = LogisticLevels(1, 1, net, levels=256)
    x = torch.tensor([[0.0], [20.0], [127.0], [255.0]], dtype=torch.float64, requires_grad=True)
    value = pixels.log_prob(x, torch.zeros(4, 1, dtype=torch.float64))
    assert value.isfinite().all()
    assert value[2] > value[1] > value[0]
    assert torch.autograd.grad(value.sum(), pixels.net.bias)[0].isfinite().all()


@pytest.mark.parametrize("scales", ["shared", "value", "decoded"])
def test_gaussian_values_are_normal(scales):
    net = nn.Linear(2, 6 if scales == "decoded" else 3)
    values = randomize(GaussianValues(3, 2, net, scales))
    z, x = torch.randn(5, 2), torch.randn(4, 5, 3)
    mean, s = values.moments(z)
    torch.testing.assert_close(values.log_prob(x, z), Normal(mean, s.exp()).log_prob(x).sum(-1))
    assert ((values.sample(4000, z).mean(0) - mean).abs() < 5 * s.exp() / 4000**0.5).all()
    assert s.unique().numel() == {"shared": 1, "value": 3, "decoded": 15}[scales]


def test_likelihoods_say_what_a_decoder_must_put_out():
    assert set(LIKELIHOODS) == {"bernoulli", "gaussian", "logistic", "categorical"}
    assert issubclass(BernoulliPixels, Likelihood)
    with pytest.raises(ShapeError, match=r"turns latents \(3, 2\) into \(3, 5\), expected \(3, 1, 1, 2, 2\)"):
        BernoulliPixels((1, 2, 2), 2, nn.Linear(2, 5)).mean(torch.zeros(3, 2))
    with pytest.raises(ContextError, match="got context=None"):
        BernoulliPixels(3, 2, nn.Linear(2, 3)).log_prob(torch.zeros(4, 3))


# -- the model -----------------------------------------------------------------------------------------------------------


def test_networks_of_images_of_odd_sizes():
    x = torch.rand(2, 3, 1, 9, 6)
    for encoder in (GatedEncoder((1, 9, 6), 3, 7), DenseEncoder((1, 9, 6), (5, 7))):
        assert encoder(x).shape == (2, 3, 7)
        torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2]))
    z = torch.randn(2, 3, 4)
    for decoder in (GatedDecoder(4, (1, 9, 6), 2, 3), DenseDecoder(4, (1, 9, 6), 2, (5,))):
        assert decoder(z).shape == (2, 3, 2, 1, 9, 6)
        torch.testing.assert_close(decoder(z)[1, 2], decoder(z[1, 2]))
    with pytest.raises(ConfigError, match="use a dense network"):
        GatedEncoder((5,))


def test_networks_of_ones_own_need_nothing_but_shapes():
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.Flatten(), nn.Linear(8, 6), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    vae = build_vae((1, 4, 4), latent=2, posterior="sylvester", encoder=encoder, decoder=decoder)
    x = torch.bernoulli(torch.full((5, 2, 1, 4, 4), 0.5))
    assert vae(x).shape == (5, 2)
    assert vae.reconstruct(x, samples=3).shape == x.shape
    assert vae.sample((2, 3), mean=True).shape == (2, 3, 1, 4, 4)
    assert torch.equal(vae.sample(4, seed=0), vae.sample(4, seed=0))
    assert vae.encode(x, 6).shape == (6, 5, 2, 2)


def test_parts_that_do_not_fit_are_refused_by_name():
    with pytest.raises(
        ShapeError, match=r"the encoder turns \(3, 4\) into \(3, 2\), the posterior reads a code \(3, 5\)"
    ):
        VAE(nn.Linear(4, 2), bj.DiagonalNormal(2, 5), GaussianValues(4, 2, nn.Linear(2, 4))).elbo(torch.zeros(3, 4))
    with pytest.raises(ConfigError, match=r"reads latents \(2,\); the posterior is one of \(3,\)"):
        VAE(nn.Linear(4, 5), bj.DiagonalNormal(3, 5), GaussianValues(4, 2, nn.Linear(2, 4)))
    with pytest.raises(ConfigError, match="cannot depend on x"):
        VAE(nn.Linear(4, 5), bj.StandardNormal(2), GaussianValues(4, 2, nn.Linear(2, 4)))
    vae = build_vae((4,), latent=2, likelihood="gaussian", hidden=(8,))
    with pytest.raises(ShapeError, match=r"x has shape \(3, 5\); this model takes \(\*batch, 4\)"):
        vae.elbo(torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="did you mean 'bernoulli'"):
        build_vae((4,), likelihood="bernouli")
    with pytest.raises(ConfigError, match="the logistic likelihood needs levels"):
        build_vae((4,), likelihood="logistic")
    with pytest.raises(ConfigError, match="'glow' models images"):
        build_vae((4,), prior="glow")
    with pytest.raises(ConfigError, match=r"does not take events \(n, 1, 4, 4\)"):
        build_vae((1, 4, 4), encoder=nn.Linear(3, 2))


# -- the objective -------------------------------------------------------------------------------------------------------


def test_the_objective_weighs_terms_in_training_only():
    vae = randomize(build_vae((1, 4, 4), latent=2, hidden=(8,)))
    batch = bj.objectives.Batch(torch.bernoulli(torch.full((64, 1, 4, 4), 0.5)), None, torch.rand(64))

    def loss(objective, *, training=True):
        torch.manual_seed(3)
        return objective(vae.train(training), batch).item()

    torch.manual_seed(3)
    bound, reconstruction, kl = (
        float((batch.weight * t.detach()).sum() / batch.weight.sum()) for t in vae.elbo(batch.x)
    )
    assert loss(NegativeElbo()) == pytest.approx(-bound, rel=1e-5)
    assert loss(NegativeElbo(beta=0.25)) == pytest.approx(0.25 * kl - reconstruction, rel=1e-5)
    assert loss(NegativeElbo(free_bits=kl + 1)) == pytest.approx(kl + 1 - reconstruction, rel=1e-5)
    for objective in (NegativeElbo(beta=0.25), NegativeElbo(free_bits=50.0)):
        assert loss(objective, training=False) == pytest.approx(-bound, rel=1e-5)
    tighter = loss(NegativeElbo(samples=50, importance_weighted=True))
    assert tighter < loss(NegativeElbo(samples=50)) - 0.05
    with pytest.raises(ConfigError, match="must not be negative"):
        NegativeElbo(beta=-1.0)
    objective = NegativeElbo()
    assert Anneal(objective, steps=10, start=0.1).objective.beta == 0.1


def test_free_bits_leave_the_divergence_alone():
    vae = build_vae((1, 4, 4), latent=2, hidden=(8,)).train()
    x = torch.bernoulli(torch.full((64, 1, 4, 4), 0.5))
    gradients = []
    for beta in (0.0, 1.0):  # nothing of the KL term in the one, nothing beyond the free bits in the other
        torch.manual_seed(4)
        vae.zero_grad()
        NegativeElbo(beta=beta, free_bits=100.0)(vae, bj.objectives.Batch(x)).backward()
        gradients.append(vae.posterior.net.head.context_weight.grad.clone())
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_dynamic_binarization_draws_with_the_intensities():
    seen = []
    x = torch.linspace(0, 1, 5).expand(4000, 5)
    BinarizedData(lambda model, batch: seen.append(batch.x) or torch.zeros(()))(nn.Identity(), bj.objectives.Batch(x))
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    assert (seen[0].mean(0) - x[0]).abs().max() < 0.04

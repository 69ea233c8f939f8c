"""What an observation may be: vectors, series, sets, images, several of them, with values missing; in any units."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import bijectory as bj
from bijectory.apps.posterior import (
    NeuralPosterior,
    Prior,
    SampledPosterior,
    Simulations,
    box_uniform,
    fit_nle,
    fit_npe,
    fit_nre,
    pad_sets,
    posterior_config,
    simulate,
)
from bijectory.errors import CheckpointError, ConfigError, DataError, ShapeError
from bijectory.tables import DataWarning

COUNT = 16  # independent N(theta, 1) in one observation, theta ~ N(0, 1): theta | x ~ N(n mean / (n + 1), 1 / (n + 1))
SHAPES = {"vector": (16,), "series": (16, 1), "set": (16, 1), "image": (1, 4, 4)}
TINY = {"ensemble": 1, "recipe_args": {"layers": 2, "hidden": (16,)}}
PRIOR = Prior([Normal(0.0, 1.0)])


def draws_of(shape):
    return lambda theta: (theta + torch.randn(len(theta), COUNT)).reshape(-1, *shape)


def known(mean, count):
    return mean * count / (count + 1), 1 / math.sqrt(count + 1)


def observed(mean, shape=(16,)):
    x = torch.linspace(-1.5, 1.5, math.prod(shape)).double()  # of deviation near 1
    return (x - x.mean() + mean).reshape(shape)


# -- embeddings --------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # 8 s of one core each
@pytest.mark.parametrize("kind", SHAPES)
def test_named_embeddings_recover_a_known_posterior(kind):
    shape = SHAPES[kind]
    config = posterior_config(2000, epochs=15, lr=5e-3, batch_size=50)
    posterior = fit_npe(simulate(PRIOR, draws_of(shape), 2000), PRIOR, embed=kind, config=config, **TINY).posterior
    for mean in (-1.0, 0.5):
        theta, (centre, sd) = posterior.sample(2000, observed(mean, shape), seed=0), known(mean, COUNT)
        assert abs(theta.mean().item() - centre) < 0.6 * sd, "the prior mean is off by four deviations and by two"
        assert 0.75 < theta.std().item() / sd < 1.4, "the prior is four times as wide"


@pytest.mark.parametrize("kind", ["series", "set", "image"])
def test_named_embeddings_learn_summaries(kind):
    """Data without noise: the parameter is in them as it is."""
    prior, shape = box_uniform([-2.0], [2.0]), SHAPES[kind]
    pairs = simulate(prior, lambda theta: theta.expand(-1, COUNT).reshape(-1, *shape), 400)
    config = posterior_config(400, epochs=8, lr=1e-2, batch_size=50)
    posterior = fit_npe(pairs, prior, embed=kind, config=config, **TINY).posterior
    for value in (-1.0, 1.0):
        assert abs(posterior.sample(200, torch.full(shape, value), seed=0).mean().item() - value) < 0.5


@pytest.mark.slow  # 10 s of one core
def test_sets_of_any_size_have_posteriors_of_their_own_width():
    g = torch.Generator().manual_seed(1)

    def some(theta):
        count = torch.randint(1, 26, (len(theta), 1, 1), generator=g)
        x = theta[:, None] + torch.randn(len(theta), 25, 1, generator=g)
        return torch.where(torch.arange(25)[:, None] < count, x, torch.nan)

    pairs = simulate(PRIOR, some, 3000, missing="indicate")
    assert pairs.failed == 0
    assert pairs.incomplete
    config = posterior_config(3000, epochs=15, lr=5e-3)
    with pytest.warns(DataWarning, match="missing values"):
        posterior = fit_npe(pairs, PRIOR, embed="set", config=config, **TINY).posterior
    for count in (3, 25):
        x = pad_sets([observed(0.8, (count,))], 25)[0]
        theta, (centre, sd) = posterior.sample(2000, x, seed=0), known(0.8, count)
        assert abs(theta.mean().item() - centre) < 0.6 * sd
        assert 0.75 < theta.std().item() / sd < 1.4, "one width for both sizes is off by 1.6 for either"
    with pytest.raises(DataError, match="all missing"):
        posterior.at(torch.full((25, 1), torch.nan))


def test_pad_sets_refuses():
    with pytest.raises(ShapeError, match="more than size=1"):
        pad_sets([[1.0, 2.0]], 1)
    with pytest.raises(ShapeError, match="same features"):
        pad_sets([torch.zeros(2, 1), torch.zeros(2, 2)])


@bj.register
class Summary(nn.Module):
    """Mean and deviation, by the user."""

    def __init__(self):
        super().__init__()

    def forward(self, x):
        return torch.stack((x.mean(-1), x.std(-1)), -1)


class Unregistered(nn.Module):
    def forward(self, x):
        return x[..., :2]


@pytest.mark.parametrize("embed", [Summary, Summary(), nn.Linear(16, 3)], ids=["function", "module", "torch"])
def test_modules_of_the_user_are_used_and_stored(embed, tmp_path):
    pairs = simulate(PRIOR, draws_of((16,)), 300)
    posterior = fit_npe(pairs, PRIOR, embed=embed, config=posterior_config(300, epochs=1), out=tmp_path / "run", **TINY)
    again = NeuralPosterior.load(tmp_path / "run", PRIOR)
    theta = torch.linspace(-1, 1, 5).double()[:, None]
    assert torch.equal(again.log_prob(theta, observed(0.3)), posterior.posterior.log_prob(theta, observed(0.3)))


def test_members_have_embeddings_of_their_own():
    pairs = simulate(PRIOR, draws_of((16,)), 100)
    words = {"ensemble": 2, "recipe_args": {"layers": 1, "hidden": (4,)}, "config": posterior_config(100, epochs=1)}
    mine = nn.Linear(16, 2)
    before = mine.weight.clone()
    first, second = fit_npe(pairs, PRIOR, embed=mine, **words).posterior.density.members
    assert first.embed is not second.embed
    assert torch.equal(mine.weight, before), "the module that was given is left alone"


@pytest.mark.parametrize(
    ("embed", "words"),
    [
        (None, "need embed=...: vector, series, set, image, or a module"),
        ("pictures", "embed='pictures'; use one of"),
        ("image", r"reads observations \(channels, height, width\); they have shape \(4, 5\)"),
        (nn.Identity, r"gave \(20, 4, 5\); expected \(20, width\)"),
        (lambda: nn.Linear(7, 2), "cannot read observations"),
        (lambda: torch.zeros(3), "it must make a torch.nn.Module"),
        (3, "embed is a int"),
    ],
)
@pytest.mark.parametrize("fit", [fit_npe, fit_nre])
def test_embeddings_refuse_before_anything_is_trained(fit, embed, words):
    with pytest.raises(ConfigError, match=words):
        fit((torch.randn(20, 1), torch.randn(20, 4, 5)), PRIOR, embed=embed)


def test_what_cannot_be_stored_is_told_before_anything_is_trained(tmp_path):
    pairs, trained = simulate(PRIOR, draws_of((16,)), 100), []

    class Watch(bj.Callback):
        def on_epoch(self, *args):
            trained.append(args)

    with pytest.raises(CheckpointError, match="Unregistered cannot be stored"):
        fit_npe(pairs, PRIOR, embed=Unregistered, out=tmp_path / "run", callbacks=[Watch()])
    assert not trained


# -- missing values ----------------------------------------------------------------------------------------------------


def lossy(shape, share=0.3):
    def simulator(theta):
        x = draws_of(shape)(theta)
        return torch.where(torch.rand(x.shape) < share, torch.nan, x)

    return simulator


@pytest.mark.parametrize("fit", [fit_npe, fit_nre])
@pytest.mark.parametrize("embed", ["vector", "series", "set"])
def test_missing_values_pass_every_embedding_but_images(fit, embed):
    pairs = simulate(PRIOR, lossy(SHAPES[embed]), 200, missing="indicate")
    config = posterior_config(200, epochs=1)
    with pytest.warns(DataWarning, match="missing values"):
        posterior = fit(pairs, PRIOR, embed=embed, ensemble=1, config=config).posterior
    assert posterior.missing
    x = observed(0.5, SHAPES[embed])
    x[3] = torch.nan
    theta = torch.tensor([[0.4]]).double()
    assert posterior.log_prob(theta, x).isfinite().all()
    assert not torch.equal(posterior.log_prob(theta, x), posterior.log_prob(theta, observed(0.5, SHAPES[embed])))
    with pytest.raises(DataError, match="infinite, or all missing"):
        posterior.at(torch.full(SHAPES[embed], math.inf))


def test_images_with_missing_values_are_refused():
    pairs = simulate(PRIOR, lossy((1, 4, 4)), 100, missing="indicate")
    with pytest.warns(DataWarning), pytest.raises(ConfigError, match="have missing values: fill them in"):
        fit_npe(pairs, PRIOR, embed="image")


@pytest.mark.parametrize("fit", [fit_npe, fit_nle, fit_nre])
def test_failed_simulations_are_counted_and_told_by_every_method(fit):
    x = torch.randn(60, 2)
    x[::3] = torch.nan
    with pytest.warns(DataWarning, match="20 of 60 simulations are not finite and are left out"):
        fitted = fit((torch.randn(60, 1), x), PRIOR, ensemble=1, config=posterior_config(60, epochs=1))
    assert fitted.simulations.failed == 20
    assert len(fitted.simulations) == 40
    with pytest.raises(DataError, match="missing='indicate'"):
        fitted.posterior.at([0.0, math.nan])


# -- units, members ----------------------------------------------------------------------------------------------------


def test_units_do_not_matter():
    """Parameters and data in other units, far from zero: the same posterior in these units."""
    pairs, words = simulate(box_uniform([0.0], [1.0]), lambda t: t + 0.2 * torch.randn(len(t), 2), 400), dict(TINY)
    words["config"] = posterior_config(400, epochs=2)
    plain = fit_npe(pairs, box_uniform([0.0], [1.0]), **words).posterior
    other = Simulations.of(5000 + 2000 * pairs.theta, 1e-6 * pairs.x - 3e-5)
    moved = fit_npe(other, box_uniform([5000.0], [7000.0]), **words).posterior
    theta = plain.sample(500, [0.3, 0.4], seed=0)
    again = moved.sample(500, [1e-6 * 0.3 - 3e-5, 1e-6 * 0.4 - 3e-5], seed=0)
    assert torch.allclose((again - 5000) / 2000, theta, atol=1e-3)


def test_the_posterior_is_the_average_of_its_members():
    pairs = simulate(PRIOR, draws_of((16,)), 200)
    words = {"recipe_args": {"layers": 1, "hidden": (4,)}, "config": posterior_config(200, epochs=1)}
    posterior = fit_npe(pairs, PRIOR, ensemble=3, **words).posterior
    theta, x = torch.linspace(-2, 2, 9).double()[:, None], observed(0.2)
    each = torch.stack([m.log_prob(theta, x) for m in posterior.density.members])
    assert len(each) == 3
    assert (each.std(0) > 1e-4).any()
    assert torch.allclose(posterior.log_prob(theta, x), each.exp().mean(0).log())


# -- many observations -------------------------------------------------------------------------------------------------


def test_each_of_many_observations_has_its_own_draws():
    prior = box_uniform([-3.0], [3.0])
    posterior = SampledPosterior(lambda theta, x: -0.5 * ((theta - x) / 0.2).square().sum(-1), prior, (1,))
    x = torch.tensor([[-1.0], [0.0], [2.9]]).double()
    theta = posterior.sample_each(500, x, seed=0)
    assert theta.shape == (500, 3, 1)
    assert torch.allclose(theta.mean(0)[:2, 0], x[:2, 0], atol=0.04)
    assert torch.allclose(theta.std(0)[:2, 0], torch.tensor(0.2).double(), atol=0.03)
    cut = 2.9 - 0.2 * (math.exp(-0.125) / math.sqrt(2 * math.pi)) / (0.5 + 0.5 * math.erf(0.5 / math.sqrt(2)))
    assert abs(theta[:, 2].mean().item() - cut) < 0.04
    assert theta.max() <= 3
    assert torch.equal(theta, posterior.sample_each(500, x, seed=0))

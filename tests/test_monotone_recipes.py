"""Recipes of expressive scalar maps: any number of features, context or none, both ways, stored, learning from the start."""

import pytest
import torch

import bijectory as bj
from bijectory.testing import randomize

F64 = torch.float64
SMALL = {
    "naf": {"layers": 2, "hidden": (16,), "units": 4, "depth": 2},
    "umnn": {"layers": 2, "hidden": (16,), "integrand": (8,), "nodes": 16},
    "sos": {"layers": 2, "hidden": (16,)},
    "bernstein": {"layers": 2, "hidden": (16,), "degree": 6},
    "gaussianization": {"layers": 2, "hidden": (16,), "components": 4},
    "flowpp": {"layers": 2, "hidden": (16,), "components": 3},
}


def small(name, features, context=0):
    torch.manual_seed(0)
    return bj.recipes.find_recipe(name).build(features, context, **SMALL[name])


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_both_ways_with_trained_like_weights(name, features, context):
    flow = randomize(small(name, features, context)).double()
    x = 1.5 * torch.randn(40, features, dtype=F64)
    c = torch.randn(40, context, dtype=F64) if context else None
    with torch.no_grad():
        z, ladj = flow.to_latent(x, c)
        back, opposite = flow.to_data(z, c)
        assert torch.allclose(back, x, atol=1e-10)
        assert torch.allclose(ladj, -opposite, atol=1e-9)
        draws = flow.sample(5, c)
        assert draws.shape == (5, *(() if c is None else (40,)), features)
        assert flow.log_prob(draws, c).isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_float32_comes_back_at_the_start(name):
    flow = bj.recipes.find_recipe(name).build(3)
    x = torch.randn(100, 3)
    with torch.no_grad():
        assert (flow.to_data(flow.to_latent(x)[0])[0] - x).abs().max() < 2e-5


@pytest.mark.parametrize("name", SMALL)
def test_stored_and_loaded(name, tmp_path):
    flow = randomize(small(name, 2, 1))
    x, c = torch.randn(4, 2), torch.randn(4, 1)
    bj.save(flow, tmp_path / "flow")
    assert torch.equal(bj.load(tmp_path / "flow").log_prob(x, c), flow.log_prob(x, c))


@pytest.mark.parametrize("name", SMALL)
def test_learns_from_the_start(name):
    """Forty steps on two moons gain at least 0.1 nats over where they start."""
    flow = small(name, 2)
    x = bj.TwoMoons().sample(500, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(0)) / x.std(0)
    optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_gaussianization_starts_from_the_data():
    """Each layer is placed on what the layers before leave: without a step the flow beats the best normal by 0.3 nats."""
    x = bj.TwoMoons().sample(5000, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    flow = bj.gaussianization(2)
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    with torch.no_grad():
        flow.initialize(x)
        assert flow.log_prob(x).mean() > normal.log_prob(x).mean() + 0.3
        assert flow.to_latent(x)[0].T.corrcoef()[0, 1].abs() < 0.1


def test_the_two_directions_agree_on_mass():
    """The density of a trained-like UMNN integrates to one: the quadrature is fine enough."""
    flow = randomize(bj.umnn(1, layers=1)).double()
    grid = torch.linspace(-40, 40, 40_001, dtype=F64)[:, None]
    with torch.no_grad():
        assert torch.trapezoid(flow.log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1, abs=1e-6)

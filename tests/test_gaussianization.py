"""Gaussianization and sigmoidal maps: against the textbook formulas, from the data's quantiles, far out."""

import pytest
import torch

import bijectory as bj

F64 = torch.float64


def draw(family, n=500, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, generator=g, dtype=F64) * 2
    return x, torch.randn(family.n_params, n, 1, generator=g, dtype=F64) * scale


def test_gaussianization_against_the_textbook_formula():
    family = bj.Gaussianization(3, min_slope=0.0)
    x, phi = draw(family)
    logits, loc, widen = phi.chunk(3)
    slope = torch.pi / (3 * 0.75) ** 0.5
    start = torch.tensor([-1.0, 0.0, 1.0], dtype=F64)[:, None, None] * (0.25 * 3 / 2) ** 0.5
    scale = (5 * torch.tanh(widen / 5)).exp() / slope
    cdf = (logits.softmax(0) * torch.sigmoid((x - loc - start) / scale)).sum(0)
    y, _ = family.forward(x, phi)
    inside = (cdf > 1e-6) & (cdf < 1 - 1e-6)
    assert inside.sum() > 300
    assert torch.allclose(y[inside], torch.special.ndtri(cdf[inside]), atol=1e-9)


def test_sigmoidal_against_the_textbook_formula():
    family = bj.Sigmoidal(2, layers=2, min_slope=0.0)
    x, phi = draw(family)
    a0 = torch.pi / 3**0.5 / (torch.pi / 3**0.5 * 0.75**0.5)
    want = x
    for raw in phi.chunk(2):
        logits, bias, steepness = raw.chunk(3)
        a = torch.log1p((steepness + torch.tensor(a0 - 0.01, dtype=F64).expm1().log()).exp()) + 0.01
        b = bias - a * torch.tensor([-1.0, 1.0], dtype=F64)[:, None, None] * torch.pi / 12**0.5
        want = torch.logit((logits.softmax(0) * torch.sigmoid(a * want + b)).sum(0))
    y, _ = family.forward(x, phi)
    assert torch.allclose(y, want, atol=1e-8)


@pytest.mark.parametrize("scale", [1, 10, 100])
@pytest.mark.parametrize("family", [bj.Gaussianization(4), bj.Sigmoidal(4), bj.Sigmoidal(3, 2)], ids=repr)
def test_whatever_the_parameters_the_inverse_hits_the_target(family, scale):
    y, phi = draw(family, scale=scale)
    x, ladj = family.inverse(y, phi)
    again, back = family.forward(x, phi)
    assert x.isfinite().all()
    assert ((again - y).abs() <= 1e-9 * (1 + y.abs() + x.abs() * back.exp())).all()
    assert torch.allclose(ladj, -back, atol=1e-8)


@pytest.mark.parametrize("family", [bj.Gaussianization(3), bj.Sigmoidal(2, 2)], ids=repr)
def test_gradients_through_the_inverse(family):
    y, phi = (v.requires_grad_() for v in draw(family, n=3))
    assert torch.autograd.gradcheck(family.inverse, (y, phi))


@pytest.mark.parametrize("family", [bj.Gaussianization(4), bj.Sigmoidal(4, 2)], ids=repr)
def test_components_part_ways_from_the_start(family):
    phi = torch.zeros(family.n_params, 1, 1, dtype=F64, requires_grad=True)
    y, ladj = family.forward(torch.randn(500, 1, dtype=F64) + 0.3, phi)
    (g,) = torch.autograd.grad((y.square() / 2 - ladj).mean(), phi)
    for kind in g.view(-1, 4).unbind():
        assert (kind.sort().values.diff() > 1e-7).all()


def entropy_gap(flow, x):
    """Nats lost on two equal normals, N(-1, 0.2^2) and N(1, 0.4^2)."""
    truth = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)),
        torch.distributions.Normal(torch.tensor([-1.0, 1.0]), torch.tensor([0.2, 0.4])),
    )
    return (truth.log_prob(x[:, 0]) - flow.log_prob(x)).mean().item()


def two_modes(n=4000):
    g = torch.Generator().manual_seed(0)
    return torch.cat((torch.randn(n, 1, generator=g) * 0.2 - 1, torch.randn(n, 1, generator=g) * 0.4 + 1))


def test_quantiles_of_the_data_are_a_good_start():
    x = two_modes()
    flow = bj.Flow(bj.Elementwise(bj.Gaussianization(16), 1), bj.StandardNormal(1))
    assert entropy_gap(flow, x) > 0.3
    flow.initialize(x)
    assert entropy_gap(flow, x) < 0.05
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    flow.initialize(x * 7)
    assert all(torch.equal(before[k], v) for k, v in flow.state_dict().items()), "set once only"


def test_with_a_context_the_start_is_the_marginal():
    x, c = two_modes(), torch.zeros(8000, 2)
    flow = bj.Flow(bj.Elementwise(bj.Gaussianization(16), 1, 2, (8,)), bj.StandardNormal(1))
    flow.initialize(x, c)
    assert (flow.log_prob(x, c)).mean().item() == pytest.approx(flow.log_prob(x, c + 1).mean().item(), abs=0.05)
    assert abs(entropy_gap_given(flow, x, c)) < 0.06


def entropy_gap_given(flow, x, c):
    class Given(torch.nn.Module):
        def log_prob(self, x):
            return flow.log_prob(x, c)

    return entropy_gap(Given(), x)


def test_a_start_from_repeated_values_is_finite():
    x = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(50)[:, None]
    flow = bj.Flow(bj.Elementwise(bj.Gaussianization(8), 1), bj.StandardNormal(1))
    flow.initialize(x)
    assert flow.log_prob(x).isfinite().all()


@pytest.mark.parametrize("bad", [{"units": 1}, {"layers": 0}, {"min_slope": -0.1}])
def test_hyper_parameters_of_sigmoidal_are_checked(bad):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(bad))):
        bj.Sigmoidal(**bad)


@pytest.mark.parametrize("bad", [{"components": True}, {"max_log_scale": -1.0}, {"min_slope": 1.0}])
def test_hyper_parameters_of_gaussianization_are_checked(bad):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(bad))):
        bj.Gaussianization(**bad)

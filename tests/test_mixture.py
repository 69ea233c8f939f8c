"""Mixtures of logistics: against the textbook formula where that works, and far beyond."""

import pytest
import torch

import bijectory as bj
from bijectory.ops.mixture import mixture_logit, mixture_logit_inverse, spread

F64 = torch.float64
DTYPES = [torch.float32, F64]


def draw(components, n=2000, scale=1.0, dtype=F64, seed=0):
    g = torch.Generator().manual_seed(seed)
    raw = torch.randn(3, components, n, generator=g, dtype=F64).to(dtype) * scale
    return raw[0].log_softmax(0), raw[1], raw[2]


def test_against_the_textbook_formula():
    log_w, loc, log_a = draw(5)
    x = torch.randn(2000, dtype=F64)
    cdf = (log_w.exp() * torch.sigmoid((x - loc) * log_a.exp())).sum(0)
    density = (
        log_w.exp() * log_a.exp() * torch.sigmoid((x - loc) * log_a.exp()) * torch.sigmoid((loc - x) * log_a.exp())
    ).sum(0)
    t, ladj = mixture_logit(x, log_w, loc, log_a)
    assert torch.allclose(t, torch.logit(cdf), atol=1e-8)
    assert torch.allclose(ladj, (density / (cdf * (1 - cdf))).log(), atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tails_are_the_line_of_the_widest_component(dtype):
    log_w, loc, log_a = (v[:, None] for v in torch.tensor([[0.2, 0.8], [5.0, -1.0], [2.0, 0.5]], dtype=dtype))
    x = torch.tensor([1e4, -1e4, 1e6, -1e6], dtype=dtype)
    t, ladj = mixture_logit(x, log_w.log(), loc, log_a.log())
    weight = torch.tensor(0.8, dtype=dtype).log() * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=dtype)
    assert torch.allclose(t, 0.5 * (x + 1) + weight, rtol=4 * torch.finfo(dtype).eps)
    assert torch.allclose(ladj, torch.full_like(x, 0.5).log())


def test_a_gap_of_a_thousand_widths_does_not_underflow():
    """Between two narrow modes the density is e^-500: its logarithm is right, in float32 too."""
    half, loc = torch.full((2, 1), 0.5), torch.tensor([[-500.0], [500.0]])
    t, ladj = mixture_logit(torch.zeros(1), half.log(), loc, torch.zeros(2, 1))
    assert t.item() == 0
    assert ladj.item() == pytest.approx(-500 + torch.tensor(4.0).log().item(), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1, 10, 100])
def test_inverse_hits_the_target_whatever_the_parameters(scale, dtype):
    """Where modes are sharp the root is not determined in floating point; its image is."""
    log_w, loc, log_a = draw(8, scale=scale, dtype=dtype)
    log_a = 5 * torch.tanh(log_a / 5)
    t = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=F64).to(dtype) * 3 * scale
    x, ladj = mixture_logit_inverse(t, log_w, loc, log_a)
    again, back = mixture_logit(x, log_w, loc, log_a)
    eps = torch.finfo(dtype).eps
    resolution = 4 * eps * (1 + x.abs()) * back.exp()
    assert ((again - t).abs() <= 64 * eps * (1 + loc.abs().amax(0) + t.abs()) + resolution).all()
    assert torch.equal(ladj, -back)


def test_least_slope_keeps_the_way_back_where_the_mixture_is_flat():
    """Two modes a thousand widths apart: the published map has slope e^-500 between them."""
    half, loc = torch.full((2, 1), 0.5).log(), torch.tensor([[-500.0], [500.0]])
    x = torch.linspace(-400, 400, 9)[:, None]
    t, ladj = mixture_logit(x, half[:, None], loc[:, None], torch.zeros(2, 1, 1), 1e-3)
    back, opposite = mixture_logit_inverse(t, half[:, None], loc[:, None], torch.zeros(2, 1, 1), 1e-3)
    assert torch.allclose(back, x, atol=1e-3)
    assert torch.allclose(ladj, torch.tensor(1e-3).log())
    assert torch.allclose(ladj, -opposite)


def test_a_large_least_slope_is_bracketed():
    log_w, loc, log_a = draw(3)
    t = torch.randn(2000, dtype=F64) * 5
    x, _ = mixture_logit_inverse(t, log_w, loc, log_a, 0.4)
    assert torch.allclose(mixture_logit(x, log_w, loc, log_a, 0.4)[0], t, atol=1e-11)


def test_start_has_the_variance_of_one_component():
    for components in (2, 8, 31):
        loc, log_slope = spread(components, 1.5, torch.zeros(1, dtype=F64))
        width = torch.tensor(-log_slope, dtype=F64).exp() * torch.pi / 3**0.5
        assert (loc.square().mean() + width**2).item() == pytest.approx(1.5**2)
        assert len(loc.unique()) == components


def test_gradients_through_the_inverse():
    family = bj.MixtureCdf(3)
    g = torch.Generator().manual_seed(0)
    y = torch.randn(3, 2, generator=g, dtype=F64, requires_grad=True)
    phi = torch.randn(family.n_params, 3, 2, generator=g, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(family.inverse, (y, phi))


def test_components_part_ways_from_the_start():
    """No two components receive the same gradient at phi = 0."""
    family = bj.MixtureCdf(4)
    phi = torch.zeros(family.n_params, 1, 1, dtype=F64, requires_grad=True)
    y, ladj = family.forward(torch.randn(500, 1, dtype=F64) + 0.3, phi)
    (g,) = torch.autograd.grad((y.square() / 2 - ladj).mean(), phi)
    for kind in g[:12].view(3, 4).unbind():
        assert (kind.sort().values.diff() > 1e-6).all()
    assert (g.abs() > 1e-6).all()


def test_nearly_the_identity_at_the_start():
    x = torch.linspace(-3, 3, 201, dtype=F64)[:, None]
    for components in (2, 8, 32):
        family = bj.MixtureCdf(components)
        y, ladj = family.forward(x, torch.zeros(family.n_params, 1, 1, dtype=F64))
        assert (y - x).abs().max() < 0.12
        assert ladj.abs().max() < 0.15


@pytest.mark.parametrize(
    "bad",
    [
        {"components": 1},
        {"components": 2.5},
        {"max_log_scale": 0.0},
        {"min_slope": 1.0},
        {"max_log_affine": float("inf")},
    ],
)
def test_hyper_parameters_are_checked(bad):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(bad))):
        bj.MixtureCdf(**bad)


def test_learns_three_modes():
    """A single map carries three far modes to a normal: 200 steps come within 0.1 nats of the truth."""
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(2000, generator=g) * 0.3 + 3 * torch.randint(-1, 2, (2000,), generator=g))[:, None]
    flow = bj.Flow(bj.Elementwise(bj.MixtureCdf(6), 1), bj.StandardNormal(1))
    optimiser = torch.optim.Adam(flow.parameters(), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimiser.step()
    entropy = torch.log(torch.tensor(3 * 0.3 * (2 * torch.pi * torch.e) ** 0.5)).item()
    assert loss.item() < entropy + 0.1

"""A flow as a ``torch.distributions.Distribution``."""

import copy
import pickle

import pytest
import torch
from torch import distributions as D
from torch import nn

import bijectory as bj
from bijectory.errors import ContextError
from laws.cases import randomize


def flow(context=3, features=2, **parts):
    transform = bj.Elementwise(bj.Affine(), features, context, hidden=(8,))
    return randomize(bj.Flow(transform, bj.StandardNormal(features), **parts), scale=1.0)


def contexts(*batch):
    return torch.randn(*batch, 3, generator=torch.Generator().manual_seed(1))


def test_shapes_follow_torch():
    p = flow().at(contexts(5, 7))
    assert isinstance(p, D.Distribution)
    assert (p.batch_shape, p.event_shape) == ((5, 7), (2,))
    assert p.has_rsample
    assert p.sample().shape == (5, 7, 2)
    assert p.sample((4,)).shape == (4, 5, 7, 2)
    assert p.rsample(torch.Size([2, 4])).shape == (2, 4, 5, 7, 2)
    assert p.log_prob(p.sample((4,))).shape == (4, 5, 7)
    assert p.log_prob(torch.zeros(2)).shape == (5, 7)
    assert str(p.support) == str(D.constraints.independent(D.constraints.real, 1))
    assert repr(p).startswith("FlowDistribution(")


def test_values_are_those_of_the_flow():
    f, c = flow(), contexts(7)
    p, x = f.at(c), torch.randn(5, 7, 2)
    assert torch.equal(p.log_prob(x), f.log_prob(x, c))
    torch.manual_seed(0)
    a = p.sample((5,))
    torch.manual_seed(0)
    assert torch.equal(a, f.sample(5, c))
    assert not a.requires_grad
    assert p.rsample().requires_grad


def test_without_context():
    f = flow(context=0)
    p = f.at()
    assert p.batch_shape == ()
    assert p.log_prob(torch.zeros(5, 2)).shape == (5,)
    wide = p.expand((3, 4))
    assert wide.batch_shape == (3, 4)
    x = wide.sample((6,))
    assert x.shape == (6, 3, 4, 2)
    assert len(x.reshape(-1, 2).unique(dim=0)) == 72
    assert wide.log_prob(torch.zeros(2)).shape == (3, 4)
    assert wide.log_prob(torch.zeros(6, 1, 1, 2)).shape == (6, 3, 4)
    with pytest.raises(ContextError, match="without context"):
        f.at(contexts(2))
    with pytest.raises(ContextError, match="context=None"):
        flow().at()


def test_expand_keeps_each_context_with_its_row():
    p = flow().at(contexts(7))
    wide = p.expand((5, 7))
    x = torch.randn(5, 7, 2)
    torch.testing.assert_close(wide.log_prob(x), p.log_prob(x))
    draws = wide.sample()
    assert draws.shape == (5, 7, 2)
    assert len(draws.reshape(-1, 2).unique(dim=0)) == 35


def test_raw_contexts_pass_through_embed():
    embed = nn.Sequential(nn.Flatten(-2), nn.Linear(6, 3))
    f = flow(embed=embed)
    images = torch.randn(7, 2, 3)
    p = f.at(images)
    assert p.batch_shape == (7,)
    wide = p.expand((5, 7))
    assert wide.c.shape == (5, 7, 2, 3)
    x = torch.randn(5, 7, 2)
    torch.testing.assert_close(wide.log_prob(x), f.log_prob(x, images))
    loss = p.log_prob(x).sum() + p.log_prob(x).mean()
    loss.backward()
    assert embed[1].weight.grad.abs().sum() > 0


@pytest.fixture
def torch_validates():
    """Torch's own default, which torch.compile turns off for the whole process at its first use."""
    before = D.Distribution._validate_args
    D.Distribution.set_default_validate_args(True)
    yield
    D.Distribution.set_default_validate_args(before)


@pytest.mark.usefixtures("torch_validates")
def test_validation_follows_torch_and_leaves_its_switch_alone():
    f, bad = flow(), torch.tensor([float("nan"), 0.0])
    p = f.at(contexts(7))
    with pytest.raises(ValueError, match="support"):
        p.log_prob(bad)
    with pytest.raises(ValueError, match="broadcast"):
        p.log_prob(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="event_shape"):
        p.log_prob(torch.zeros(7, 1))
    assert p.expand((2, 7))._validate_args
    assert D.Distribution._validate_args
    D.Distribution.set_default_validate_args(False)
    q = f.at(contexts(7))
    assert q.log_prob(bad).isnan().all()
    assert not q.expand((2, 7))._validate_args
    assert not D.Distribution._validate_args


def test_inside_independent_and_transformed():
    p, x = flow().at(contexts(5, 7)), torch.randn(4, 5, 7, 2)
    q = D.Independent(p, 1)
    assert (q.batch_shape, q.event_shape) == ((5,), (7, 2))
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x).sum(-1))
    assert q.rsample((3,)).shape == (3, 5, 7, 2)
    scale = torch.tensor([2.0, 0.5])
    t = D.TransformedDistribution(p, [D.transforms.AffineTransform(1.0, scale, event_dim=0)])
    assert t.event_shape == (2,)
    torch.testing.assert_close(t.log_prob(x), p.log_prob((x - 1) / scale) - scale.log().sum())
    assert t.rsample((3,)).shape == (3, 5, 7, 2)
    positive = D.TransformedDistribution(p, D.ExpTransform())
    assert (positive.sample() > 0).all()


def test_mixture_same_family_of_flows():
    p = flow().at(contexts(7))
    m = D.MixtureSameFamily(D.Categorical(torch.ones(7)), p)
    x = torch.randn(5, 2)
    want = torch.logsumexp(p.log_prob(x[:, None]), -1) - torch.tensor(7.0).log()
    torch.testing.assert_close(m.log_prob(x), want)
    assert m.sample((4,)).shape == (4, 2)


def test_kl_by_monte_carlo_against_the_closed_form():
    f = flow(context=0).double()
    with torch.no_grad():
        shift, raw = f.transform.phi
        s = 3 * torch.tanh(raw / 3)
        normal = D.Independent(D.Normal(-shift * (-s).exp(), (-s).exp()), 1)  # the same law: x = (z - t) e^-s
    p = f.at()
    q = D.MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    torch.manual_seed(0)
    x = p.rsample((100_000,))
    terms = p.log_prob(x) - q.log_prob(x)
    exact = D.kl_divergence(normal, D.Independent(D.Normal(torch.zeros_like(s), torch.ones_like(s)), 1))
    assert abs(terms.mean() - exact) < 4 * terms.std() / 100_000**0.5
    terms.mean().backward()
    assert f.transform.phi.grad.abs().min() > 0


def test_copies():
    p, x = flow().at(contexts(7)), torch.randn(7, 2)
    for q in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert torch.equal(q.log_prob(x), p.log_prob(x))

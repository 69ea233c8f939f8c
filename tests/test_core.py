"""The contract in miniature; the laws in ``tests/laws`` go through every case."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ContextError, DtypeError, ShapeError
from laws.cases import randomize


def test_draws_times_contexts_broadcast():
    flow = randomize(bj.real_nvp(4, 3, layers=4, hidden=(16,)))
    c = torch.randn(7, 3)
    x = flow.sample(5, c)
    assert x.shape == (5, 7, 4)
    assert flow.log_prob(x, c).shape == (5, 7)
    assert flow.log_prob(x[:, :1], c).shape == (5, 7)
    assert torch.allclose(flow.log_prob(x, c)[2, 3], flow.log_prob(x[2, 3], c[3]), atol=1e-5)


def test_log_det_against_autodiff():
    flow = randomize(bj.real_nvp(4, layers=4, hidden=(16,))).double()
    x = torch.randn(4, dtype=torch.float64)
    z, ladj = flow.to_latent(x)
    jac = torch.func.jacrev(lambda v: flow.to_latent(v)[0])(x)
    assert torch.allclose(ladj, torch.linalg.slogdet(jac).logabsdet, atol=1e-12)
    assert torch.allclose(flow.to_data(z)[0], x, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: f.log_prob(torch.zeros(6, 5), torch.zeros(6, 3)), ShapeError, "x has 5 features"),
        (lambda f: f.log_prob(torch.zeros(6, 1), torch.zeros(6, 3)), ShapeError, "features=4"),
        (lambda f: f.log_prob(torch.zeros(6, 4)), ContextError, "context=3 but got context=None"),
        (lambda f: f.log_prob(torch.zeros(6, 4), torch.zeros(3, 3)), ContextError, "use 1 or 6"),
        (lambda f: f.log_prob(torch.zeros(6, 4), torch.zeros(6, 2)), ContextError, "expected 3"),
        (lambda f: f.log_prob(torch.zeros(6, 4).double(), torch.zeros(6, 3)), DtypeError, "x.float()"),
        (lambda f: f.log_prob([[0.0] * 4], torch.zeros(6, 3)), DtypeError, "torch.as_tensor"),
        (lambda f: f.sample(-1, torch.zeros(3)), ValueError, "non-negative"),
    ],
)
def test_bad_input_names_the_remedy(call, error, words):
    flow = bj.real_nvp(4, 3)
    with pytest.raises(error) as info:
        call(flow)
    assert words in str(info.value)

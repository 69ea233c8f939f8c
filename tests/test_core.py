"""The contract in miniature; the laws in ``tests/laws`` go through every case."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, DtypeError, ShapeError
from bijectory.ops.shape import sum_event
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


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: bj.Flow(None, bj.StandardNormal(2)), "transform must be a Transform, got NoneType"),
        (lambda: bj.Flow(bj.StandardNormal(2), bj.Permutation((1, 0))), "transform must be a Transform"),
        (lambda: bj.Flow(bj.Permutation((1, 0)), bj.StandardNormal), "the class StandardNormal; call it"),
        (lambda: bj.Flow(bj.Permutation((1, 0)), bj.StandardNormal(2), embed=3), "embed must be a Module"),
        (lambda: bj.Inverse(bj.Affine()), "transform must be a Transform"),
        (lambda: bj.Elementwise(bj.Affine, 2), "the class Affine; call it"),
        (lambda: bj.Coupling("affine", [True, False]), "bijection must be a Bijection"),
        (lambda: bj.Autoregressive(None, 2), "bijection must be a Bijection"),
        (lambda: bj.StandardNormal(0), "positive int"),
        (lambda: bj.StandardNormal(2.5), "got 2.5"),
        (lambda: bj.StudentT(()), "positive int"),
        (lambda: bj.BoxUniform((2, -1)), "positive int"),
    ],
)
def test_constructors_refuse_what_is_not_a_part(build, words):
    with pytest.raises(ConfigError) as info:
        build()
    assert words in str(info.value)


def test_an_empty_network_of_the_users_own_is_not_replaced():
    """``nn.Sequential()`` is falsy, and still what the user asked for."""
    own = torch.nn.Sequential()
    assert bj.Coupling(bj.Shift(), [True, False], net=own).net is own
    assert bj.Elementwise(bj.Shift(), 3, context=3, net=own).net is own


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_determinants_are_summed_in_single_precision_at_least(dtype):
    terms = torch.tensor([256.0, 1.0, 1.0, 1.0], dtype=dtype)
    total = sum_event(terms, 1)
    assert total.dtype == torch.float32
    assert total.item() == 259.0  # 260 or 256 in bfloat16
    assert sum_event(terms.double(), 1).dtype == torch.float64

"""Power laws: the tail functions of the normal law, the tail transform, powers."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.ops.gauss import log_mills, log_ndtr_quantile, tail_exponent, tail_quantile

F64 = torch.float64
Z = torch.tensor([0.0, 1e-12, 1e-6, 0.1, 0.5, 0.999, 1.001, 2.0, 5.0, 12.0, 40.0, 1e3, 1e6], dtype=F64)


def exact_exponent(z):
    with mpmath.workdps(50):
        return float(-mpmath.log(mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)))) if z < 1e3 else None


def test_tail_functions_against_fifty_digits():
    near = Z[:-2]
    want = torch.tensor([exact_exponent(z) for z in near.tolist()], dtype=F64)
    torch.testing.assert_close(tail_exponent(near), want, rtol=1e-13, atol=1e-300)
    torch.testing.assert_close(tail_exponent(near.float()).double(), want, rtol=3e-6, atol=1e-30)
    torch.testing.assert_close(tail_quantile(tail_exponent(Z)), Z, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(tail_quantile(tail_exponent(Z.float())), Z.float(), rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(log_mills(near), scipy_log_mills(near), rtol=1e-12, atol=1e-12)


def scipy_log_mills(z):
    return torch.tensor(scipy.stats.norm.logsf(z.numpy()) - scipy.stats.norm.logpdf(z.numpy()))


def test_quantile_of_a_logarithm():
    x = torch.tensor([-1e3, -38.0, -5.0, -1.1, -0.9, -1e-3, 0.0, 0.3, 0.7, 2.0, 5.0, 8.0, 20.0], dtype=F64)
    log_p = torch.tensor(scipy.special.log_ndtr(x.numpy()))
    torch.testing.assert_close(log_ndtr_quantile(log_p), x, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(log_ndtr_quantile, log_p[2:10].requires_grad_())
    assert torch.autograd.gradgradcheck(log_ndtr_quantile, log_p[2:10].requires_grad_())


def test_quantile_has_all_its_derivatives():
    exponent = torch.tensor([1e-3, 0.5, 0.99, 1.01, 3.0, 50.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(tail_quantile, exponent)
    assert torch.autograd.gradgradcheck(tail_quantile, exponent)


@pytest.mark.parametrize("index", [0.05, 0.5, 2.0])
def test_normal_latents_become_generalised_pareto_data(index):
    """Half the mass on each side, and on each side the law of index lambda; exactly."""
    family = bj.PowerTails(index)
    x = torch.tensor([1e-3, 0.5, 3.0, 100.0, 1e8, -0.5, -1e5], dtype=F64)
    z, ladj = family.forward(x, torch.zeros(2, 7, dtype=F64))
    law = scipy.stats.genpareto(index, scale=math.sqrt(math.pi / 2))
    log_density = scipy.stats.norm.logpdf(z.numpy()) + ladj.numpy()
    np.testing.assert_allclose(log_density, law.logpdf(x.abs().numpy()) - math.log(2), rtol=1e-10)
    np.testing.assert_allclose(
        scipy.stats.norm.logsf(z.abs().numpy()), law.logsf(x.abs().numpy()) - math.log(2), rtol=1e-10
    )


def test_each_side_has_its_own_index_and_both_meet_smoothly():
    family, phi = bj.PowerTails(0.5), torch.tensor([[1.0], [-1.0]], dtype=F64)
    far = torch.tensor([-1e3, 1e3], dtype=F64)
    z, _ = family.forward(far, phi)
    assert -z[0] < z[1]  # the heavier left tail is pulled in further
    slopes = family.forward(torch.tensor([-1e-9, 1e-9], dtype=F64), phi)[1]
    assert slopes.abs().max() < 1e-8
    assert family.inverse(torch.tensor([1e6]), phi.float())[0].isinf()


def test_far_outliers_come_back():
    family, phi = bj.PowerTails(0.3), torch.zeros(2, 5)
    x = torch.tensor([1e30, -1e12, 1e6, 1e-30, 0.0])
    z, ladj = family.forward(x, phi)
    assert ladj.isfinite().all()
    torch.testing.assert_close(family.inverse(z, phi)[0], x, rtol=1e-4, atol=0)


def test_power_on_the_positive_half_line():
    family = bj.Power(2.0)
    phi = torch.tensor([[0.7]], dtype=F64)
    p = math.exp(2 * math.tanh(0.35))
    x = torch.tensor([1e-3, 1.0, 50.0], dtype=F64)
    y, ladj = family.forward(x, phi)
    np.testing.assert_allclose(y.numpy(), x.numpy() ** p, rtol=1e-13)
    np.testing.assert_allclose(ladj.exp().numpy(), p * x.numpy() ** (p - 1), rtol=1e-13)
    outside = torch.tensor([0.0, -1.0], dtype=F64)
    assert family.forward(outside, phi)[0].isnan().all()
    assert family.inverse(outside, phi)[1].isnan().all()


def test_bounds_are_checked():
    for build in (lambda: bj.Power(0.0), lambda: bj.PowerTails(-1.0), lambda: bj.PowerTails(1.0, math.inf)):
        with pytest.raises(ConfigError, match="positive finite"):
            build()

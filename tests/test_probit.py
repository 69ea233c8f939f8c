"""Logit against probit: SciPy near the middle, the asymptotic series far out, derivatives of two orders."""

import numpy as np
import pytest
import scipy.special
import torch

from bijectory.ops.probit import logit_to_probit, probit_to_logit

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_scipy(dtype):
    y = torch.linspace(-30, 30, 6001, dtype=dtype)
    want = scipy.special.log_ndtr(y.double().numpy()) - scipy.special.log_ndtr(-y.double().numpy())
    t, ladj = probit_to_logit(y)
    eps = torch.finfo(dtype).eps
    assert (np.abs(t.double().numpy() - want) <= 16 * eps * (1 + np.abs(want))).all()
    back, opposite = logit_to_probit(t)
    assert ((back - y).abs() <= 16 * eps * (1 + y.abs())).all()
    assert torch.allclose(ladj, -opposite, atol=64 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out(dtype):
    """``t = y^2 / 2 + log(y sqrt(2 pi)) + 1 / y^2 + ...`` and ``dt/dy = y + 1 / y + ...``."""
    y = torch.logspace(2, 9, 71, dtype=dtype)
    t, ladj = probit_to_logit(y)
    rtol = 16 * torch.finfo(dtype).eps
    series = y.double() ** 2 / 2 + (y.double() * (2 * torch.pi) ** 0.5).log() + y.double() ** -2
    assert torch.allclose(t.double(), series, rtol=max(rtol, 1e-11))
    assert torch.allclose(ladj.exp(), y + 1 / y, rtol=max(rtol * 64, 1e-7))
    for sign in (1, -1):
        back, opposite = logit_to_probit(sign * t)
        assert torch.allclose(back, sign * y, rtol=rtol)
        assert torch.allclose(opposite, -ladj, rtol=1e-5)


def test_two_orders_of_derivatives_on_both_sides_of_the_seam():
    t = torch.tensor([-60.0, -50.1, -49.5, -3, -1e-3, 0, 0.5, 49, 51, 200], dtype=torch.float64, requires_grad=True)
    for f, at in ((logit_to_probit, t), (probit_to_logit, t / 10)):
        assert torch.autograd.gradcheck(f, at)
        assert torch.autograd.gradgradcheck(f, at)
        y, ladj = f(at)
        assert torch.allclose(torch.autograd.grad(y.sum(), at)[0].log(), ladj, atol=1e-12)


def test_nan_stays_nan():
    for f in (logit_to_probit, probit_to_logit):
        y, ladj = f(torch.tensor([torch.nan, 1.0]))
        assert y.isnan().tolist() == ladj.isnan().tolist() == [True, False]

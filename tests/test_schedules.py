"""Gaussian paths: slopes against autodiff, ends, and the stochastic equations of the literature."""

import math

import pytest
import torch

from bijectory.errors import ConfigError
from bijectory.nets import Cosine, Straight, SubVariancePreserving, VarianceExploding, VariancePreserving

SCHEDULES = [Straight(), Cosine(), VariancePreserving(), SubVariancePreserving(), VarianceExploding()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_slopes_are_derivatives(schedule):
    t = torch.linspace(max(schedule.start, 0.01), 0.99, 50, dtype=torch.float64, requires_grad=True)
    for value, slope in ((schedule.alpha, schedule.alpha_slope), (schedule.sigma, schedule.sigma_slope)):
        if value(t).requires_grad and type(schedule).__name__ + value.__name__ != "VarianceExplodingalpha":
            (expected,) = torch.autograd.grad(value(t).sum(), t)
            torch.testing.assert_close(slope(t).detach(), expected, rtol=1e-10, atol=1e-10)
        else:
            assert torch.equal(slope(t), torch.zeros_like(t))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_paths_lead_from_data_to_noise(schedule):
    ends = torch.tensor([schedule.start, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends), schedule.sigma(ends)
    assert abs(alpha[0] - 1) < 1e-3
    assert sigma[0] < 0.02
    assert abs(alpha[1] / sigma[1]) < 0.021
    t = torch.linspace(schedule.start, 1, 100, dtype=torch.float64)
    assert bool((schedule.sigma(t).diff() > 0).all())
    assert bool((schedule.alpha(t).diff() <= 0).all())


def test_equations_of_song_and_others():
    t = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    beta = 0.1 + 19.9 * t
    integral = 0.1 * t + 19.9 * t**2 / 2
    vp, sub, ve = VariancePreserving(), SubVariancePreserving(), VarianceExploding()
    torch.testing.assert_close(vp.drift(t), -beta / 2)  # eq. 11
    torch.testing.assert_close(vp.diffusion(t), beta)
    torch.testing.assert_close(sub.drift(t), -beta / 2)  # eq. 12
    torch.testing.assert_close(sub.diffusion(t), beta * (1 - torch.exp(-2 * integral)))
    torch.testing.assert_close(ve.drift(t), torch.zeros_like(t))
    torch.testing.assert_close(ve.diffusion(t), 2 * math.log(5000) * ve.sigma(t) ** 2)  # eq. 9, d(sigma^2)/dt


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (VariancePreserving, {"beta_min": 0.0}),
        (VariancePreserving, {"beta_max": 0.01}),
        (SubVariancePreserving, {"start": 1.0}),
        (VarianceExploding, {"sigma_max": 0.001}),
    ],
)
def test_ranges_are_checked(build, arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        build(**arguments)


def gaussian_mixture_path(schedule, t):
    """Data from a mixture of two normals: log-density of ``z_t`` and exact mean of the data given ``z_t``."""
    mean, std = torch.tensor([[-1.0, 0.5], [2.0, -1.0]], dtype=torch.float64), torch.tensor([0.5, 0.3]).double()
    a, s = schedule.alpha(t), schedule.sigma(t)
    var = a**2 * std**2 + s**2  # of the components of z

    def joint(z):
        square = (z.unsqueeze(-2) - a * mean).square().sum(-1)
        return -square / (2 * var) - var.log() - math.log(2 * 2 * math.pi)

    def data(z):
        gain = (a * std**2 / var).unsqueeze(-1)
        each = mean + gain * (z.unsqueeze(-2) - a * mean)
        return (joint(z).softmax(-1).unsqueeze(-1) * each).sum(-2)

    return lambda z: joint(z).logsumexp(-1), data


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_conversions_agree_with_the_score_by_autodiff(schedule, t):
    t = torch.tensor(t, dtype=torch.float64)
    log_p, data = gaussian_mixture_path(schedule, t)
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (score,) = torch.autograd.grad(log_p(z).sum(), z)
    z = z.detach()
    x = data(z)
    e = (z - schedule.alpha(t) * x) / schedule.sigma(t)
    _, v = schedule.at(t, x, e)  # the marginal velocity is linear in the conditional means
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(schedule.score_from_velocity(t, z, v), score, **close)
    torch.testing.assert_close(schedule.velocity_from_score(t, z, score), v, **close)
    torch.testing.assert_close(schedule.noise_from_velocity(t, z, v), e, **close)
    torch.testing.assert_close(schedule.velocity_from_noise(t, z, e), v, **close)
    torch.testing.assert_close(schedule.data_from_velocity(t, z, v), x, **close)
    torch.testing.assert_close(schedule.velocity_from_data(t, z, x), v, **close)
    torch.testing.assert_close(schedule.drift(t) * z - schedule.diffusion(t) / 2 * score, v, **close)


def test_conversions_take_a_time_for_each_row():
    t, z, v = torch.rand(4) * 0.9 + 0.05, torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    for name in ("score_from_velocity", "velocity_from_score", "data_from_velocity", "velocity_from_noise"):
        convert = getattr(Cosine(), name)
        rows = torch.stack([convert(t[i], z[i], v[i]) for i in range(4)])
        torch.testing.assert_close(convert(t, z, v), rows)

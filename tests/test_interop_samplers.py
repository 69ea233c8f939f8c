"""Flows for nested samplers and ensembles of walkers, with known answers."""

import math

import numpy as np
import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, DtypeError, FlowError, NonFiniteError, ShapeError
from bijectory.interop import log_prob_function, prior_transform
from bijectory.testing import randomize

MEAN, SD = np.array([1.0, -0.5]), np.array([2.0, 0.5])  # of the flow below
SEEN, NOISE = np.array([2.0, 0.0]), 0.5
VARIANCE = SD**2 + NOISE**2
LOG_Z = float(-0.5 * ((SEEN - MEAN) ** 2 / VARIANCE + np.log(2 * np.pi * VARIANCE)).sum())
POSTERIOR_SD = 1 / np.sqrt(1 / SD**2 + 1 / NOISE**2)
POSTERIOR_MEAN = POSTERIOR_SD**2 * (MEAN / SD**2 + SEEN / NOISE**2)


def gaussian():
    """A flow that is the normal law of MEAN and SD."""
    return bj.Flow(bj.Standardize(2, MEAN.tolist(), SD.tolist()), bj.StandardNormal(2))


def log_likelihood(x):
    return float(-0.5 * (((x - SEEN) / NOISE) ** 2 + np.log(2 * np.pi * NOISE**2)).sum())


def test_the_cube_becomes_the_prior():
    transform = prior_transform(gaussian())
    np.testing.assert_allclose(transform([0.5, 0.5]), MEAN, rtol=1e-6)
    one = transform(np.array([0.8413447460685429, 0.5]))
    np.testing.assert_allclose(one, MEAN + np.array([SD[0], 0]), rtol=1e-6)
    assert one.dtype == np.float64
    u = np.random.default_rng(0).uniform(size=(20_000, 2))
    x = transform(u)
    assert abs(x.mean(0) - MEAN).max() < 4 * SD.max() / 20_000**0.5
    assert transform(np.zeros((3, 4, 2))).shape == (3, 4, 2)
    assert np.isfinite(transform([[0.0, 1.0], [1.0, 0.0]])).all()


def test_numbers_are_those_of_the_flow():
    flow = randomize(bj.nsf(3, 2, layers=2, hidden=(8,)))
    c = [0.5, -1.0]
    f, x = log_prob_function(flow, c), np.random.default_rng(0).normal(size=(5, 3))
    want = flow.log_prob(torch.tensor(x).float(), torch.tensor(c)).detach().numpy()
    np.testing.assert_allclose(f(x), want, rtol=1e-6)
    assert f(x).dtype == np.float64
    assert type(f(x[0])) is float
    assert f(x[0]) == pytest.approx(float(want[0]), rel=1e-5)
    assert f(x.reshape(5, 1, 3)).shape == (5, 1)
    u = np.random.default_rng(1).uniform(size=(7, 3))
    points = prior_transform(flow, c)(u)
    want = flow.to_data(torch.special.ndtri(torch.tensor(u)).float(), torch.tensor(c))[0]
    np.testing.assert_allclose(points, want.detach().numpy(), rtol=1e-5, atol=1e-5)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    f(x)
    assert torch.equal(before, torch.get_rng_state())


def test_bounds_and_points_that_are_not_finite():
    flow = bj.Flow(bj.Elementwise(bj.Logit(), 2), bj.StandardNormal(2))
    f = log_prob_function(flow, bounds=[(0, 1), (0, 1)])
    got = f([[0.5, 0.5], [1.5, 0.5], [0.5, -0.5], [math.nan, 0.5], [math.inf, 0.5]])
    assert np.isfinite(got[0])
    assert (got[1:] == -math.inf).all()
    with pytest.raises(NonFiniteError, match=r"NaN at \[1\.5, 0\.5\].*bounds="):
        log_prob_function(flow)([1.5, 0.5])


def test_wrong_arguments():
    flow, conditional = bj.nsf(2), bj.nsf(2, 3)
    for make in (prior_transform, log_prob_function):
        with pytest.raises(ContextError, match="context of 3; pass c"):
            make(conditional)
        with pytest.raises(ContextError, match="one context"):
            make(conditional, np.zeros((4, 3)))
        with pytest.raises(ContextError, match="without context"):
            make(flow, np.zeros(3))
        with pytest.raises(ConfigError, match="walks in vectors"):
            make(bj.StandardNormal((2, 2)))
        with pytest.raises(ConfigError, match="must be a Density"):
            make(np.zeros(2))
        with pytest.raises(ShapeError, match=r"expected \(2,\)"):
            make(flow)(np.zeros((5, 3)))
    with pytest.raises(FlowError, match="no quantile function in closed form"):
        prior_transform(bj.Flow(bj.LU(2), bj.GaussianMixture(2)))
    with pytest.raises(ConfigError, match="2 pairs"):
        log_prob_function(flow, bounds=[(0, 1)])
    assert issubclass(DtypeError, FlowError)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dynesty")
def test_dynesty_finds_the_evidence_of_a_gaussian_likelihood():
    dynesty = pytest.importorskip("dynesty")
    sampler = dynesty.NestedSampler(
        log_likelihood, prior_transform(gaussian()), 2, nlive=200, rstate=np.random.default_rng(0), bound="single"
    )
    sampler.run_nested(print_progress=False, dlogz=0.1)
    found = sampler.results
    error = found.logzerr[-1]
    assert error < 0.2
    assert abs(found.logz[-1] - LOG_Z) < 3 * error
    mean = found.importance_weights() @ found.samples
    assert (abs(mean - POSTERIOR_MEAN) < 0.25 * POSTERIOR_SD).all()


def test_emcee_recovers_the_moments_of_a_flow():
    emcee = pytest.importorskip("emcee")
    f = log_prob_function(gaussian())
    rng = np.random.default_rng(0)
    start = rng.normal(size=(32, 2))
    sampler = emcee.EnsembleSampler(32, 2, f, vectorize=True)
    sampler.random_state = np.random.RandomState(0).get_state()
    sampler.run_mcmc(start, 1500)
    x = sampler.get_chain(discard=200, flat=True)
    effective = len(x) / sampler.get_autocorr_time(tol=0).max()
    assert effective > 500
    assert (abs(x.mean(0) - MEAN) < 4 * SD / effective**0.5).all()
    assert (abs(x.std(0) / SD - 1) < 4 / effective**0.5).all()
    np.testing.assert_allclose(f(x[:10]), [f(row) for row in x[:10]], rtol=1e-6)

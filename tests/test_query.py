"""Conditional queries by Markov chains, and bridge sampling, against closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

import bijectory as bj
from bijectory.apps import Marginal, conditional
from bijectory.errors import ConfigError, LowESSError
from test_latents import COV, MEAN, gaussian, rest_given


class Correlated(bj.Transform):
    """N(0, COV) of many columns."""

    def __init__(self, d):
        super().__init__()
        a = np.random.default_rng(0).normal(size=(d, d))
        self.cov = a @ a.T / d + 0.1 * np.eye(d)
        self.root = torch.tensor(np.linalg.cholesky(self.cov))

    def forward(self, x, c=None):
        z = torch.linalg.solve_triangular(self.root, x.unsqueeze(-1), upper=False)[..., 0]
        return z, torch.full(z.shape[:-1], -self.root.diagonal().log().sum().item()).to(z)

    def inverse(self, z, c=None):
        return z @ self.root.T, torch.full(z.shape[:-1], self.root.diagonal().log().sum().item()).to(z)


def test_chains_take_over_where_weights_fail():
    layer = Correlated(28)
    flow = bj.Flow(layer, bj.StandardNormal(28)).double()
    known = np.array([1.0, -0.5])
    with pytest.raises(LowESSError, match="independent ones"):
        conditional(flow, {"x0": 1.0, "x1": -0.5}, 1000, method="importance")
    found = conditional(flow, {"x0": 1.0, "x1": -0.5}, 1000)
    assert (found.method, found.reliable) == ("chains", True)
    assert found.rhat <= 1.01
    assert found.ess >= 1000
    a, b, c = layer.cov[:2, :2], layer.cov[2:, :2], layer.cov[2:, 2:]
    mean, cov = b @ np.linalg.solve(a, known), c - b @ np.linalg.solve(a, b.T)
    rest = found.rows.to_numpy()[:, 2:]
    sd = np.sqrt(np.diag(cov))
    assert (np.abs(rest.mean(0) - mean) < 4.5 * sd / 1000**0.5).all()
    np.testing.assert_allclose(rest.std(0) / sd, 1, atol=0.12)
    exact = stats.multivariate_normal(cov=a).logpdf(known)
    assert abs(found.log_density - exact) < 4 * found.error < 0.1
    assert "Markov chains, R-hat" in found.summary()


def test_errors_of_bridge_sampling_are_honest():
    exact = stats.norm.logpdf(3.0, MEAN[0], COV[0, 0] ** 0.5)
    scores = []
    for seed in range(2):
        found = conditional(gaussian(), {"a": 3.0}, 200, method="chains", seed=seed)
        scores.append((found.log_density - exact) / found.error)
        assert found.error < 0.02
    assert np.abs(scores).max() < 4
    assert np.std(scores) > 0.1
    mean, cov = rest_given(3.0)
    rest = found.rows[["b", "c"]].to_numpy()
    assert (np.abs(rest.mean(0) - mean) < 4 * np.sqrt(np.diag(cov) / 200)).all()


@pytest.mark.slow  # ten seconds of one core
def test_chains_cross_between_modes():
    modes = bj.GaussianMixture(2, components=3).double()
    with torch.no_grad():
        modes.means.copy_(torch.tensor([[-4.0, -4.0], [4.0, 4.0], [4.0, -4.0]]))
        modes.log_scales.fill_(np.log(0.5))
    found = conditional(bj.Flow(bj.Chain(), modes), {"x0": 4.0}, 1000, method="chains")
    assert found.reliable
    assert (found.rows["x1"] > 0).mean() == pytest.approx(0.5, abs=0.07)
    exact = np.log(2 / 3) + stats.norm.logpdf(0, 0, 0.5)
    assert abs(found.log_density - exact) < max(4 * found.error, 0.01)


def test_chains_move_known_values_within_their_cells():
    model = gaussian(a={"step": 1.0, "integer": True})
    found = conditional(model, {"a": 2.0}, 2000, method="chains")
    u = stats.truncnorm((2 - MEAN[0]) / 2**0.5, (3 - MEAN[0]) / 2**0.5, MEAN[0], 2**0.5)  # the cell is [2, 3)
    mean = rest_given(u.mean())[0]
    assert (np.abs(found.rows[["b", "c"]].mean() - mean) < 0.1).all()


def test_queries_say_what_they_cannot():
    with pytest.raises(ConfigError, match="chains"):
        conditional(gaussian(), {"a": 0.0}, 10, method="gibbs")
    with pytest.raises(LowESSError, match="independent ones"):
        conditional(gaussian(), {"a": 0.0}, 10, method="chains", min_ess=90_000)


def test_marginals_of_many_columns_come_from_bridges():
    layer = Correlated(20)
    flow = bj.Flow(layer, bj.StandardNormal(20)).double()
    value, error = Marginal(flow, ["x3"]).log_prob({"x3": [0.5]}, n=300)
    exact = stats.norm.logpdf(0.5, 0, layer.cov[3, 3] ** 0.5)
    assert abs(value[0] - exact) < 4 * error[0] < 0.2

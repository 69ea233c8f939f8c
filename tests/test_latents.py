"""Latent tools and queries against closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import bijectory as bj
from bijectory.apps import (
    Marginal,
    Query,
    RoundTrip,
    TableFlow,
    conditional,
    counterfactual,
    interpolate,
    latent_path,
    mean_direction,
    round_trip,
    shift,
)
from bijectory.errors import ConfigError, ContextError, DataError, DomainError, LowESSError, NonFiniteError
from bijectory.tables import Column, Schema

MEAN = np.array([1.0, -2.0, 5.0])
COV = np.array([[2.0, 1.2, -0.5], [1.2, 1.5, 0.3], [-0.5, 0.3, 1.0]])
ROOT = torch.tensor(np.linalg.cholesky(COV))


class Gaussian(bj.Transform):
    """N(MEAN, COV), of the first features, shifted by a context if there is one."""

    def __init__(self, context=0):
        super().__init__()
        self.context = context

    def forward(self, x, c=None):
        centred = x - torch.tensor(MEAN) - (0 if c is None else c)
        z = torch.linalg.solve_triangular(ROOT, centred.unsqueeze(-1), upper=False)[..., 0]
        return z, torch.full(z.shape[:-1], -ROOT.diagonal().log().sum().item()).to(z)

    def inverse(self, z, c=None):
        x = z @ ROOT.T + torch.tensor(MEAN) + (0 if c is None else c)
        return x, torch.full(x.shape[:-1], ROOT.diagonal().log().sum().item()).to(x)


NAMES = ["a", "b", "c"]


def gaussian(*, given=False, **kinds):
    scales = dict(zip(NAMES, zip(MEAN, np.sqrt(np.diag(COV)), strict=True), strict=True))
    columns = [Column(name=k, loc=m, scale=s, **kinds.get(k, {})) for k, (m, s) in scales.items()]
    columns += [Column(name="g", role="given")] if given else []
    flow = bj.Flow(Gaussian(int(given)), bj.StandardNormal(3)).double()
    return TableFlow(flow, Schema(columns=tuple(columns), rows=10))


def rest_given(value):
    """Mean and covariance of b and c given a."""
    slope = COV[1:, 0] / COV[0, 0]
    return MEAN[1:] + slope * (value - MEAN[0]), COV[1:, 1:] - np.outer(slope, COV[0, 1:])


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_conditional_rows_of_a_normal(value):
    found = conditional(gaussian(), {"a": value}, 4000, seed=1)
    mean, cov = rest_given(value)
    rest = found.rows[["b", "c"]].to_numpy()
    error = np.sqrt(np.diag(cov) / 4000)
    assert (np.abs(rest.mean(0) - mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(rest.T), cov, atol=0.08)
    assert stats.kstest(rest[:, 0], "norm", (mean[0], cov[0, 0] ** 0.5)).pvalue > 1e-3
    assert set(found.rows["a"]) == {value}
    exact = stats.norm.logpdf(value, MEAN[0], COV[0, 0] ** 0.5)
    assert abs(found.log_density - exact) < 4 * found.error < 0.05
    assert found.ess > 4000
    assert found.distinct > 3000


def test_conditional_rows_of_two_modes():
    modes = bj.GaussianMixture(2, components=3).double()
    with torch.no_grad():
        modes.means.copy_(torch.tensor([[-4.0, -4.0], [4.0, 4.0], [4.0, -4.0]]))
        modes.log_scales.fill_(np.log(0.5))
    found = conditional(bj.Flow(bj.Chain(), modes), {"x0": 4.0}, 2000)
    up = (found.rows["x1"] > 0).mean()
    assert up == pytest.approx(0.5, abs=0.06)
    assert found.rows["x1"].abs().sub(4).std() == pytest.approx(0.5, abs=0.05)


def test_standard_errors_of_marginal_log_densities_are_honest():
    marginal = Marginal(gaussian(), ["c", "a"])
    rows = pd.DataFrame({"c": [5.0, 6.5], "a": [1.0, 4.0]})
    exact = stats.multivariate_normal(MEAN[[2, 0]], COV[np.ix_([2, 0], [2, 0])]).logpdf(rows.to_numpy())
    scores = []
    for seed in range(4):
        value, error = marginal.log_prob(rows, n=500, seed=seed)
        scores.append((value - exact) / error)
    assert np.abs(scores).max() < 4
    assert 0.4 < np.std(scores) < 1.8
    assert list(marginal.sample(5, seed=0).columns) == ["c", "a"]
    value, error = Marginal(gaussian(), NAMES).log_prob(pd.DataFrame([MEAN], columns=NAMES))
    assert value[0] == pytest.approx(stats.multivariate_normal(MEAN, COV).logpdf(MEAN))
    assert error[0] == 0


def test_known_columns_on_a_lattice_are_cells():
    model = gaussian(a={"step": 1.0, "integer": True})
    found = conditional(model, {"a": 2.0}, 2000)
    mass = np.diff(stats.norm.cdf([2.0, 3.0], MEAN[0], COV[0, 0] ** 0.5))[0]
    assert abs(found.log_density - np.log(mass)) < 4 * found.error < 0.05
    drawn = conditional(model, {"b": -2.0}, 50).rows["a"]
    assert (drawn == drawn.round()).all()


def test_queries_refuse():
    model = gaussian(b={"kind": "bounded", "low": -9.0, "high": 9.0, "centre": -9.0, "spread": 18.0})
    for known, error, words in [
        ({"zz": 1.0}, DataError, "no column 'zz'"),
        ({"a": np.nan}, NonFiniteError, "'a'"),
        ({"b": 10.0}, DomainError, "'b' is 10"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, ConfigError, "nothing is left"),
    ]:
        with pytest.raises(error, match=words):
            conditional(model, known)
    with pytest.raises(LowESSError, match="too improbable"):
        conditional(gaussian(), {"a": 0.0}, 10, min_ess=1e9)
    with pytest.raises(ConfigError, match="n must be"):
        conditional(gaussian(), {"a": 0.0}, 0)
    with pytest.raises(ConfigError, match="g must be known"):
        conditional(gaussian(given=True), {"a": 0.0})
    with pytest.raises(ConfigError, match="list of names"):
        Marginal(gaussian(), "a")
    with pytest.raises(ConfigError, match="joint density"):
        Marginal(gaussian(given=True), ["a"])
    with pytest.raises(ConfigError, match="without a context"):
        conditional(bj.real_nvp(2, context=1), {"x0": 0.0})


def test_given_columns_can_be_known_too():
    found = conditional(gaussian(given=True), {"a": 3.0, "g": 2.0}, 2000)
    mean, cov = rest_given(1.0)  # the context moves every column by 2
    assert (np.abs(found.rows[["b", "c"]].mean().to_numpy() - mean - 2) < 4 * np.sqrt(np.diag(cov) / 2000)).all()
    assert set(found.rows["g"]) == {2.0}
    free = conditional(gaussian(given=True), {"g": 2.0}, 500)
    assert isinstance(free, Query)
    assert free.ess == 500


def test_counterfactuals_keep_the_latent_and_change_the_context():
    model = gaussian(given=True)
    rows = model.sample(20, given={"g": [0.0]}, seed=0)
    changed = counterfactual(model, rows, given={"g": 3.0})
    np.testing.assert_allclose(changed[NAMES], rows[NAMES] + 3)  # a shift, by construction
    np.testing.assert_allclose(model.transform(changed), model.transform(rows), atol=1e-12)
    np.testing.assert_allclose(counterfactual(model, rows, given={"g": 0.0}), rows)
    each = counterfactual(model, rows, given={"g": np.arange(20.0)})
    np.testing.assert_allclose(each["a"], rows["a"] + np.arange(20))
    flow, x = bj.maf(2, context=1).double(), torch.randn(5, 2).double()
    old, new = torch.zeros(5, 1).double(), torch.ones(5, 1).double()
    other = counterfactual(flow, x, context=old, given=new)
    torch.testing.assert_close(flow.to_latent(other, new)[0], flow.to_latent(x, old)[0])
    assert not torch.allclose(other, x)
    for bad in ({"a": 1.0}, {"zz": 1.0}):
        with pytest.raises(ContextError, match="cannot be changed"):
            counterfactual(model, rows, given=bad)
    with pytest.raises(ContextError, match="given has 2 rows"):
        counterfactual(model, rows, given={"g": [1.0, 2.0]})
    with pytest.raises(ContextError, match="cannot be changed"):
        counterfactual(gaussian(), rows, given={"g": 1.0})
    with pytest.raises(ContextError, match="no context"):
        counterfactual(bj.maf(2), x.float(), given=new)


def test_interpolation_and_directions():
    model = gaussian()
    rows = model.sample(40, seed=0)
    way = interpolate(model, rows[:1], rows[1:2], steps=5)
    pd.testing.assert_frame_equal(way.iloc[[0, -1]].reset_index(drop=True), rows[:2])
    straight = interpolate(model, rows[:1], rows[1:2], steps=3, spherical=False)
    np.testing.assert_allclose(straight.iloc[1], rows[:2].mean())  # the map is linear
    assert not np.allclose(way.iloc[2], straight.iloc[1])
    direction = mean_direction(model, rows[:20], rows[20:])
    np.testing.assert_allclose(direction @ ROOT.numpy().T, rows[:20].mean() - rows[20:].mean())
    np.testing.assert_allclose(
        shift(model, rows, direction, 0.5) - rows, np.tile(0.5 * direction @ ROOT.numpy().T, (40, 1))
    )
    np.testing.assert_allclose(np.linalg.norm(latent_path(*np.eye(2), 7, spherical=True), axis=1), 1)
    with pytest.raises(ConfigError, match="steps"):
        interpolate(model, rows[:1], rows[1:2], steps=1)
    with pytest.raises(DataError, match="one row each"):
        interpolate(model, rows, rows)
    with pytest.raises(ConfigError, match="direction has shape"):
        shift(model, rows, [1.0])
    both = pd.concat([rows[:2], pd.DataFrame({"g": [0.0, 1.0]})], axis=1)
    given = gaussian(given=True)
    with pytest.raises(ContextError, match="different given"):
        interpolate(given, both[:1], both[1:])
    assert set(interpolate(given, both[:1], both[1:], given={"g": 0.0})["g"]) == {0.0}


def test_round_trips_are_measured():
    model = gaussian()
    rows = model.sample(30, seed=0)
    found = round_trip(model, rows)
    assert isinstance(found, RoundTrip)
    assert found.ok
    assert found.error.shape == (3,)
    model.flow.transform.inverse = lambda z, c=None: (z, z[..., 0])
    assert not round_trip(model, rows).ok

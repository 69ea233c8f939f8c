"""Conditional densities as regression: scikit-learn's conformance, known answers, coverage, and bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import bijectory as bj
from bijectory.apps import ConditionalFlow, Predictive, TableFlow, calibration_of, crps_of_draws
from bijectory.errors import ConfigError, ContextError, DataError, NonFiniteError
from bijectory.tables import Column, Schema

QUICK = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}, "epochs": 3, "draws": 200}


@pytest.mark.filterwarnings("ignore::bijectory.tables.DataWarning")
@parametrize_with_checks([ConditionalFlow(**QUICK)])
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


class Linear(bj.Transform):
    """y = 1 + 2 x + spread z, or with -z: the linear-Gaussian truth, rising and falling."""

    context = 1

    def __init__(self, spread=0.5, sign=1.0):
        super().__init__()
        self.spread, self.sign = spread, sign

    def forward(self, x, c=None):
        return self.sign * (x - 1 - 2 * c) / self.spread, torch.full(x.shape[:-1], -np.log(self.spread)).to(x)

    def inverse(self, z, c=None):
        return 1 + 2 * c + self.spread * self.sign * z, torch.full(z.shape[:-1], np.log(self.spread)).to(z)


class TwoModes(bj.Transform):
    """Half N(x - 3, 0.5), half N(x + 3, 0.5)."""

    context = 1

    def forward(self, x, c=None):
        u = x - c
        cdf = (torch.special.ndtr((u - 3) / 0.5) + torch.special.ndtr((u + 3) / 0.5)) / 2
        z = torch.special.ndtri(cdf)
        log_pdf = torch.logaddexp(-0.5 * ((u - 3) / 0.5) ** 2, -0.5 * ((u + 3) / 0.5) ** 2)
        return z, (log_pdf + 0.5 * z**2).sum(-1)  # the constants cancel: log(2 * 0.5) = 0

    def inverse(self, z, c=None):
        low, high = torch.zeros_like(z + c) - 20, torch.zeros_like(z + c) + 20
        for _ in range(60):
            mid = (low + high) / 2
            up = self.forward(mid, c)[0] > z
            low, high = torch.where(up, low, mid), torch.where(up, mid, high)
        return mid, -self.forward(mid, c)[1]


def known(transform, **column):
    columns = (Column(name="x0", role="given"), Column(name="y", **column))
    return TableFlow(bj.Flow(transform, bj.StandardNormal(1)).double(), Schema(columns=columns, rows=10))


def truth(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 1))
    return x, 1 + 2 * x[:, 0] + 0.5 * rng.normal(size=rows)


def by(model, **given):
    """A fitted estimator whose flow is a known one."""
    x, y = truth(50)
    estimator = ConditionalFlow(**{**QUICK, "epochs": 1}, random_state=0).fit(x, y)
    estimator.flow_, estimator.predictive_ = model, Predictive(model, **given)
    return estimator


def normal_crps(mean, spread, y):
    w = (y - mean) / spread  # Gneiting and Raftery 2007, eq. 21 and below
    return spread * (w * (2 * stats.norm.cdf(w) - 1) + 2 * stats.norm.pdf(w) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_linear_gaussian_is_exact(sign):
    model = by(known(Linear(sign=sign)))
    assert model.predictive_.exact
    x, y = truth(40)
    mean, q = 1 + 2 * x[:, 0], np.array([0.01, 0.3, 0.5, 0.95])
    np.testing.assert_allclose(model.predict(x), mean, atol=1e-10)
    np.testing.assert_allclose(
        model.predict_quantiles(x, q), mean[:, None] + 0.5 * stats.norm.ppf(q), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(model.predict_quantiles(x, 0.3), model.predict_quantiles(x, q)[:, 1])
    np.testing.assert_allclose(model.cdf(x, y), stats.norm.cdf(y, mean, 0.5), atol=1e-12)
    np.testing.assert_array_equal(model.pit(x, y), model.cdf(x, y))
    np.testing.assert_allclose(model.crps(x, y), normal_crps(mean, 0.5, y), atol=3e-4)
    np.testing.assert_allclose(model.log_prob(x, y), stats.norm.logpdf(y, mean, 0.5))
    assert model.score(x, y) == pytest.approx(model.log_prob(x, y).mean())
    for kind, tolerance in (("central", 1e-9), ("hpd", 0.02)):
        ends = model.predict_interval(x, 0.8, kind)
        np.testing.assert_allclose(ends, mean[:, None] + 0.5 * stats.norm.ppf([0.1, 0.9]), atol=tolerance)
        np.testing.assert_allclose(stats.norm.cdf(ends, mean[:, None], 0.5) @ [-1, 1], 0.8, atol=1e-9)
    region = np.array(model.predict_region(x, 0.8))
    np.testing.assert_allclose(region[:, 0], mean[:, None] + 0.5 * stats.norm.ppf([0.1, 0.9]), atol=0.04)
    assert np.isinf(model.predict_quantiles(x, [0.0, 1.0])).all()


def test_two_modes_give_two_intervals():
    model = by(known(TwoModes()))
    x = np.array([[0.0], [10.0]])
    np.testing.assert_allclose(model.predict(x), [0.0, 10.0], atol=0.02)
    regions = model.predict_region(x, 0.8)
    assert [len(r) for r in regions] == [2, 2]
    half = 0.5 * stats.norm.ppf(0.9)
    np.testing.assert_allclose(regions[1] - 10, [[-3 - half, -3 + half], [3 - half, 3 + half]], atol=0.1)
    central, shortest = (model.predict_interval(x, 0.45, kind) for kind in ("central", "hpd"))
    assert np.diff(central)[0] > 4  # from one mode to the other
    assert np.diff(shortest)[0] < 2  # within one
    t = np.linspace(-8, 8, 40_001)
    cdf = (stats.norm.cdf(t, 3, 0.5) + stats.norm.cdf(t, -3, 0.5)) / 2
    exact = np.trapezoid((cdf - (t >= 1.0)) ** 2, t)
    assert model.crps(x[:1], [1.0]) == pytest.approx(exact, abs=0.03)  # a jump of 5 between two nodes


def test_draws_stand_in_where_there_is_no_exact_answer():
    x, y = truth(60)
    exact, drawn = by(known(Linear())), by(known(Linear()), draws=4000)
    drawn.predictive_.exact = False
    np.testing.assert_allclose(drawn.predict(x), exact.predict(x), atol=5 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(drawn.cdf(x, y), exact.cdf(x, y), atol=5 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(drawn.pit(x, y), exact.pit(x, y), atol=5 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(drawn.crps(x, y), exact.crps(x, y), atol=0.05)
    np.testing.assert_allclose(
        drawn.predict_quantiles(x, [0.2, 0.5]), exact.predict_quantiles(x, [0.2, 0.5]), atol=0.06
    )
    assert np.isinf(drawn.predict_quantiles(x, [0.0, 1.0])).all()


def test_crps_of_draws_has_no_bias():
    rng = np.random.default_rng(0)
    few = crps_of_draws(rng.normal(size=(40_000, 3)), np.full(40_000, 0.7))
    exact = normal_crps(0.0, 1.0, 0.7)
    assert few.mean() == pytest.approx(exact, abs=4 * few.std() / 200)
    assert few.std() / 200 < 0.05 * exact
    with pytest.raises(ConfigError, match="at least 2 draws"):
        crps_of_draws(np.zeros((2, 1)), np.zeros(2))


def test_calibration_accepts_the_truth_and_refuses_a_narrow_model():
    x, y = truth(800, seed=1)
    right = by(known(Linear())).calibration(x, y)
    assert right.ok
    assert (np.abs(right.table["coverage"] - right.table["level"]) < 0.05).all()
    assert ((right.table["low"] <= right.table["coverage"]) & (right.table["coverage"] <= right.table["high"])).all()
    narrow = by(known(Linear(spread=0.25))).calibration(x, y, levels=[0.9])
    assert not narrow.ok
    assert narrow.table["coverage"][0] == pytest.approx(2 * stats.norm.cdf(1.645 / 2) - 1, abs=0.05)
    assert not narrow.table["ok"][0]
    assert "p = " in str(narrow)
    with pytest.raises(ConfigError, match=r"90 % is 0\.9"):
        by(known(Linear())).calibration(x, y, levels=[90])
    with pytest.raises(DataError, match="at least one row"):
        calibration_of(np.empty((0, 1)), ["y"])


@pytest.mark.parametrize("kind", ["central", "hpd"])
@pytest.mark.parametrize("exact", [True, False])
def test_conformal_intervals_cover_whatever_the_model(kind, exact):
    model = by(known(Linear(spread=0.25)), draws=200)
    model.predictive_.exact = exact
    with pytest.raises(ContextError, match="conformalize"):
        model.predict_interval([[0.0]], conformal=True)
    x, y = truth(1000, seed=2)
    model.conformalize(*truth(400, seed=3))
    inside = {}
    for conformal in (False, True):
        ends = model.predict_interval(x, 0.8, kind, conformal=conformal)
        inside[conformal] = ((ends[:, 0] <= y) & (y <= ends[:, 1])).mean()
    assert inside[False] < 0.6
    assert inside[True] == pytest.approx(0.8, abs=0.06)  # 3 standard errors of 400 and 1000 rows
    few = model.conformalize(*truth(5)).predict_interval(x[:2], 0.9, kind, conformal=True)
    assert np.isinf(few).all()


def test_outputs_on_a_lattice():
    model = by(known(Linear(), step=1.0, integer=True))
    x = np.array([[0.0], [0.0]])
    np.testing.assert_array_equal(model.predict_quantiles(x[:1], [0.05, 0.5, 0.95]), [[0, 1, 1]])
    np.testing.assert_allclose(model.cdf(x, [0.0, 1.0]), stats.norm.cdf([0.0, 2.0]))  # the cell of y is [y, y + 1)
    rng = np.random.default_rng(0)
    counts = np.floor(1 + 0.5 * rng.normal(size=2000))
    pit = model.pit(np.zeros((2000, 1)), counts)
    assert stats.kstest(pit, "uniform").pvalue > 1e-3
    assert stats.kstest(model.cdf(np.zeros((2000, 1)), counts), "uniform").pvalue < 1e-9


@pytest.fixture(scope="module")
def two():
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    return x, pd.DataFrame({"a": x["a"] + rng.normal(size=300), "v": np.exp(rng.normal(size=300))})


def test_several_outputs(two):
    x, y = two
    model = ConditionalFlow(**QUICK, positive=["v"], random_state=0).fit(x, y)
    assert model.outputs_ == ["a_", "v"]
    assert not model.predictive_.exact
    assert model.predict(x).shape == model.cdf(x, y).shape == model.crps(x, y).shape == (300, 2)
    assert model.predict_quantiles(x, [0.1, 0.5, 0.9]).shape == (300, 2, 3)
    assert model.predict_interval(x, 0.9, "hpd").shape == (300, 2, 2)
    drawn = model.sample(x, 7, seed=0)
    assert drawn.shape == (300, 7, 2)
    assert (drawn[..., 1] > 0).all()
    np.testing.assert_array_equal(drawn, model.sample(x, 7, seed=0))
    assert model.log_prob(x, y).shape == (300,)
    assert set(model.calibration(x, y).p_value) == {"a_", "v"}
    with pytest.raises(ConfigError, match="one target"):
        model.predict_region(x)


def test_copies_pipelines_and_searches(two):
    x, y = two[0], two[1]["a"].rename("y")
    model = ConditionalFlow(**QUICK, random_state=0).fit(x, y).conformalize(x, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_interval(x, conformal=True), model.predict_interval(x, conformal=True))
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x), model.predict(x))
    assert model.fit(x, y, sample_weight=np.ones(300)).score(x, y, sample_weight=np.ones(300)) == model.score(x, y)
    line = make_pipeline(StandardScaler(), ConditionalFlow(**QUICK, random_state=0))
    search = GridSearchCV(line, {"conditionalflow__epochs": [1, 15]}, cv=2).fit(x.to_numpy(), y)
    assert search.best_params_ == {"conditionalflow__epochs": 15}
    assert search.score(x.to_numpy(), y) < 0  # a log-likelihood, not an R²


def test_bad_input(two):
    x, y = two[0], two[1]["a"]
    quick = ConditionalFlow(**QUICK, random_state=0)
    with pytest.raises(NotFittedError):
        quick.predict(x)
    with pytest.raises(DataError, match="y is constant"):
        quick.fit(x, np.ones(300))
    with pytest.raises(NonFiniteError, match="row 3, column 'b'"):
        quick.fit(x.assign(b=x["b"].where(x.index != 3)), y)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        quick.fit(x, y.where(y.index != 3))
    with pytest.raises(ConfigError, match="draws"):
        ConditionalFlow(**{**QUICK, "draws": 1}).fit(x, y)
    quick.fit(x, y)
    with pytest.raises(DataError, match=r"y has shape \(299,\), expected 300 rows of 1"):
        quick.log_prob(x, y[:-1])
    for q in ([0.5, 1.5], [[0.5]], [float("nan")]):
        with pytest.raises(ConfigError, match="probabilities"):
            quick.predict_quantiles(x, q)
    with pytest.raises(ConfigError, match=r"90 % is 0\.9"):
        quick.predict_interval(x, 90)
    with pytest.raises(ConfigError, match="kind='widest'"):
        quick.predict_interval(x, 0.9, "widest")
    with pytest.raises(ConfigError, match="n must be"):
        quick.sample(x, -1)
    with pytest.raises(NonFiniteError, match="column 'a'"):
        quick.predict(x.assign(a=np.inf))

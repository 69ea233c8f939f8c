"""Conditional flows against noise whose spread depends on the features, and in scikit-learn's tools."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bijectory as bj
from bijectory.apps import ConditionalFlow
from test_regression import QUICK, by, known, normal_crps


class Widening(bj.Transform):
    """y = sin(x) + exp(x / 2) z: the spread grows with the feature."""

    context = 1

    def forward(self, x, c=None):
        return (x - c.sin()) * (-c / 2).exp(), (-c / 2).expand(x.shape).sum(-1)

    def inverse(self, z, c=None):
        return c.sin() + (c / 2).exp() * z, (c / 2).expand(z.shape).sum(-1)


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n, 1))
    return x, np.sin(x[:, 0]) + np.exp(x[:, 0] / 2) * rng.normal(size=n)


def test_answers_for_a_spread_that_depends_on_the_feature_are_exact():
    model, (x, y) = by(known(Widening())), rows(300)
    mean, sd = np.sin(x[:, 0]), np.exp(x[:, 0] / 2)
    q = np.array([0.05, 0.5, 0.9])
    np.testing.assert_allclose(
        model.predict_quantiles(x, q), mean[:, None] + sd[:, None] * stats.norm.ppf(q), atol=1e-9
    )
    ends = model.predict_interval(x, 0.9)
    np.testing.assert_allclose(ends, mean[:, None] + sd[:, None] * stats.norm.ppf([0.05, 0.95]), atol=1e-9)
    np.testing.assert_allclose(model.log_prob(x, y), stats.norm.logpdf(y, mean, sd))
    np.testing.assert_allclose(model.crps(x, y), normal_crps(mean, sd, y), atol=1e-3)
    np.testing.assert_allclose(model.pit(x, y), stats.norm.cdf(y, mean, sd), atol=1e-12)
    assert stats.kstest(model.pit(x, y), "uniform").pvalue > 1e-3
    assert model.calibration(x, y).ok


def test_a_spread_that_depends_on_the_feature_is_learned():
    torch.manual_seed(0)
    words = {"recipe": "real_nvp", "recipe_args": {"layers": 4, "hidden": (32,)}, "epochs": 40, "lr": 3e-3}
    model = ConditionalFlow(**words, random_state=0).fit(*rows(3000))
    x, y = rows(1500, seed=1)
    mean, sd = np.sin(x[:, 0]), np.exp(x[:, 0] / 2)
    lost = stats.norm.logpdf(y, mean, sd).mean() - model.score(x, y)
    assert -0.02 < lost < 0.06
    ends = model.predict_interval(x, 0.8)
    wide = x[:, 0] > 1
    for part in (wide, ~wide):  # on either side, and not only on average
        inside = ((ends[:, 0] <= y) & (y <= ends[:, 1]))[part].mean()
        assert inside == pytest.approx(0.8, abs=0.05)
    assert model.crps(x, y).mean() < 1.05 * normal_crps(mean, sd, y).mean()
    wrong = np.abs(model.predict_quantiles(x, 0.9) - mean - sd * stats.norm.ppf(0.9)) / sd
    assert np.mean(wrong) < 0.15


@pytest.mark.filterwarnings("ignore::bijectory.tables.DataWarning")
def test_tools_of_scikit_learn_take_it():
    x, y = rows(150)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 0] ** 2})
    pipe = make_pipeline(StandardScaler(), ConditionalFlow(**QUICK, random_state=0))
    assert np.isfinite(cross_val_score(pipe, frame, y, cv=3)).all()
    assert np.isfinite(cross_val_score(pipe, frame, np.column_stack([y, -y + x[:, 0]]), cv=2)).all()
    search = GridSearchCV(pipe, {"conditionalflow__epochs": [1, 4]}, cv=2).fit(frame, y)
    assert search.best_params_["conditionalflow__epochs"] in (1, 4)
    assert search.predict(frame[:3]).shape == (3,)
    assert list(ConditionalFlow(**QUICK).fit(frame, pd.Series(y, name="target")).outputs_) == ["target"]

"""Baselines against known densities."""

import numpy as np
import pytest
from scipy import stats

from bijectory.apps.baselines import fit_baselines
from bijectory.errors import DataError


def test_order_of_merit_on_a_known_mixture():
    rng = np.random.default_rng(0)

    def draw(n):
        side = rng.choice([-3.0, 3.0], (n, 1))
        return np.hstack((side, side)) + rng.normal(size=(n, 2)) * 0.5

    train, test = draw(2000), draw(2000)
    diagonal, full, mixture, kernel = (b.mean for b in fit_baselines(train, test))
    parts = [stats.multivariate_normal([s, s], 0.25 * np.eye(2)).logpdf(test) for s in (-3, 3)]
    truth = (np.logaddexp(*parts) - np.log(2)).mean()
    assert diagonal < full < kernel < mixture
    assert mixture == pytest.approx(truth, abs=0.02)


def test_one_column_two_rows_and_too_few():
    assert len(fit_baselines(np.array([[0.0], [1.0]]), np.array([[0.5]]))) == 4
    with pytest.raises(DataError, match=r"2 \+ 1 rows"):
        fit_baselines(np.zeros((1, 2)), np.zeros((1, 2)))


def test_subsampling_is_stated():
    rng = np.random.default_rng(0)
    kernel = fit_baselines(rng.normal(size=(6000, 1)), rng.normal(size=(100, 1)))[3]
    assert kernel.note == "fitted to 5,000 of 6,000 training rows"
    assert kernel.mean == pytest.approx(-1.42, abs=0.15)

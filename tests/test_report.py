"""The report says what its data say, in one file without a network."""

import dataclasses
import re

import numpy as np
import pytest
from scipy import stats

from bijectory.apps.baselines import fit_baselines
from bijectory.report.content import Content, anomalies, interval, scores, verdicts
from bijectory.report.html import render


def content(shift=0.0, columns=("a", "b<script>"), n=400):
    """A perfect model of correlated normal data; ``shift`` moves its samples and spoils its density."""
    rng = np.random.default_rng(0)
    d = len(columns)
    cov = np.eye(d) + 0.8 * (np.ones((d, d)) - np.eye(d))
    train, test, draws = (rng.multivariate_normal(np.zeros(d), cov, n) for _ in range(3))
    law = stats.multivariate_normal(np.full(d, shift), cov)
    return Content(
        title="toy & co",
        columns=columns,
        heldout=test,
        samples=draws + shift,
        log_prob=np.atleast_1d(law.logpdf(test)),
        train_log_prob=law.logpdf(train),
        sample_log_prob=law.logpdf(draws + shift),
        latents=(np.linalg.inv(np.linalg.cholesky(cov)) @ (test - shift).T).T,
        baselines=fit_baselines(train, test),
        history=[{"epoch": 0, "train_nll": 3.0, "val_nll": None}, {"epoch": 1, "train_nll": 2.5, "val_nll": 2.6}],
        audit=[("round trip", "1e-7", "1e-5", "ok")],
        facts={"recipe": "real_nvp"},
        notes=["column a is nearly constant"],
    )


def lights(c):
    return {v.name: v.light for v in verdicts(c)}


def test_a_perfect_model_gets_no_bad_light_and_a_spoiled_one_does():
    assert "bad" not in lights(content()).values()
    spoiled = lights(content(shift=3.0))
    assert spoiled["beats the full Gaussian"] == "bad"
    assert spoiled["samples match every column"] == "bad"
    assert spoiled["held-out rows are typical of the model"] == "bad"
    failed = dataclasses.replace(content(), audit=[("round trip", "1", "1e-5", "fail")])
    assert lights(failed)["invertible and normalised"] == "bad"


def test_overfitting_is_seen():
    c = content()
    assert lights(c)["does not overfit"] == "good"
    assert lights(dataclasses.replace(c, train_log_prob=c.train_log_prob + 5))["does not overfit"] == "bad"


def test_scores_in_nats_and_bits():
    c = content()
    ours, diagonal = scores(c)[:2]
    assert ours.nats == pytest.approx(c.log_prob.mean())
    assert ours.bits_per_dim == pytest.approx(-c.log_prob.mean() / (2 * np.log(2)))
    assert diagonal.gain == pytest.approx((c.log_prob - c.baselines[0].log_prob).mean())
    assert diagonal.gain_low < diagonal.gain < diagonal.gain_high


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [low <= 0 <= high for low, high in (interval(rng.normal(size=80)) for _ in range(150))]
    assert 0.89 <= np.mean(hits) <= 0.99


def test_anomalies_are_the_least_likely_rows():
    c = content()
    rows = anomalies(c)
    assert [r[0] for r in rows] == np.argsort(c.log_prob)[:10].tolist()
    assert rows[0][2] == c.heldout[rows[0][0]].tolist()


@pytest.mark.parametrize("columns", [("x",), ("a", "b<script>"), tuple("abcdefgh")])
def test_page_is_self_contained_and_escaped(tmp_path, columns):
    path = render(content(columns=columns), tmp_path)
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html
    assert not re.search(r"(src|href)=[\"'](?!data:)", html)
    assert html.count("data:image/png;base64,") == 5
    assert {p.stem for p in (tmp_path / "figures").glob("*.png")} >= {"corner", "likelihoods", "learning"}
    assert "toy &amp; co" in html

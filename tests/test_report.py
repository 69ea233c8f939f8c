"""The report says what its data say, in one file without a network."""

import dataclasses
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bijectory import FitConfig, fit_table
from bijectory.apps import load_rows
from bijectory.apps.baselines import fit_baselines
from bijectory.errors import CheckpointError
from bijectory.report import read_run, write_report
from bijectory.report.content import Content, anomalies, interval, scores, verdicts
from bijectory.report.figures import learning_curves
from bijectory.report.html import render
from bijectory.tables import DataWarning


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
        history=[{"epoch": 0, "train_loss": 3.0, "val_loss": None}, {"epoch": 1, "train_loss": 2.5, "val_loss": 2.6}],
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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a small conditional fit with a positive, a bounded and a constant column."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=600)
    table = pd.DataFrame({"a": a, "b": np.exp(a + 0.3 * rng.normal(size=600)), "c": rng.beta(2, 3, 600), "k": 1.0})
    folder = tmp_path_factory.mktemp("run") / "lognormal"
    with pytest.warns(DataWarning, match="constant"):
        fit_table(
            table,
            recipe="real_nvp",
            recipe_args={"layers": 2, "hidden": (16,)},
            given=["a"],
            positive=["b"],
            bounded={"c": (0, 1)},
            config=FitConfig(epochs=30, batch_size=64, lr=1e-2, patience=None, progress=False),
            out=folder,
        )
    return folder, table


def test_run_folder_becomes_a_report(run):
    folder, _ = run
    html = write_report(folder).read_text(encoding="utf-8")
    assert "given a" in html
    assert "k = 1" in html
    assert "residuals of a linear regression" in html
    c = read_run(folder)
    assert c.columns == ["b", "c"]
    assert len(c.history) == 30
    assert len(c.audit) > 5


def test_baselines_of_a_run_are_in_the_units_of_the_data(run):
    """The true conditional density is normal in log b and beta in c; the Gaussian baseline on log-like scale is close."""
    folder, _ = run
    c = read_run(folder)
    held = c.heldout
    a = load_rows(folder)["test"]["a"].to_numpy()
    truth = stats.lognorm(0.3, scale=np.exp(a)).logpdf(held[:, 0]) + stats.beta(2, 3).logpdf(held[:, 1])
    by_name = {b.name.split(",")[0]: b.mean for b in c.baselines}
    assert truth.mean() - 1.0 < by_name["full Gaussian"] < truth.mean() + 0.1
    assert abs(c.log_prob.mean() - truth.mean()) < 0.5


def test_damaged_record_is_named(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run[0], folder)
    (folder / "audit.json").write_text('{"rows": [')
    with pytest.raises(CheckpointError, match=r"audit\.json is damaged"):
        read_run(folder)


def test_learning_curves_say_what_was_learned_by():
    c = content()
    (ax,) = learning_curves(c).axes
    assert ax.get_ylabel() == "log-likelihood, nats a row"
    assert ax.lines[0].get_ydata().tolist() == [-3.0, -2.5]
    (ax,) = learning_curves(dataclasses.replace(c, objective="ot_flow_matching")).axes
    assert ax.get_ylabel() == "loss: ot_flow_matching"
    assert ax.lines[0].get_ydata().tolist() == [3.0, 2.5]

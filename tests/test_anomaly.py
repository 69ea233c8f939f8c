"""Anomaly detection: honest rates, power, the column to blame, and refusals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

import bijectory as bj
from bijectory.apps import anomaly
from bijectory.apps.anomaly import (
    METHODS,
    Detector,
    StateDensity,
    Surprise,
    auroc,
    benjamini_hochberg,
    code_length,
    conformal_p_values,
    explain_images,
    false_alarm_rate,
    latent_radius,
    perturb_pixels,
    perturb_rows,
    read_labels,
    rows_needed,
)
from bijectory.errors import ConfigError, DataError, NonFiniteError
from bijectory.report import write_anomaly_report
from bijectory.report.anomaly_content import anomaly_verdicts
from bijectory.tables import Column
from images_support import QUICK, blobs, simple

NAMES = ["a", "b", "c", "d"]
TABLE_METHODS = [m for m in METHODS if m not in ("input-complexity", "likelihood-ratio")]


def gaussian(seed=1, spread=2.0, columns=4, **first):
    """An exact flow: a Gaussian with strongly dependent columns, far from standard units."""
    generator = torch.Generator().manual_seed(seed)
    layer = bj.LU(columns, max_shear=20.0, bias=False)
    with torch.no_grad():
        layer.factors.copy_(spread * torch.randn(columns, columns, generator=generator))
        layer.factors.diagonal().zero_()
    scale = torch.logspace(-1, 2, columns).tolist()
    chain = bj.Chain(bj.Standardize(columns, [5.0] * columns, scale), layer)
    flow = bj.Flow(chain, bj.StandardNormal(columns)).double()
    schema = bj.Schema(columns=tuple(Column(name=n, **(first if n == "a" else {})) for n in NAMES[:columns]), rows=100)
    return bj.TableFlow(flow, schema)


@pytest.fixture(scope="module")
def model():
    return gaussian()


def test_p_values_count_held_out_scores():
    known = np.array([0.0, 1.0, 1.0, 5.0])
    np.testing.assert_allclose(conformal_p_values(known, [-1, 0, 1, 2, 5, 6, np.inf]), [1, 1, 0.8, 0.4, 0.4, 0.2, 0.2])
    assert np.isnan(conformal_p_values(known, [np.nan]))
    with pytest.raises(DataError, match="no held-out"):
        conformal_p_values([], [1.0])
    with pytest.raises(DataError, match="NaN"):
        conformal_p_values([1.0, np.nan], [1.0])


def test_benjamini_hochberg_holds_the_rate_and_ignores_missing():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5, np.nan])
    expected = [True, True, True, True, False, False]  # 4th smallest 0.04 <= 4/5 * 0.05
    assert benjamini_hochberg(p, 0.05).tolist() == expected
    assert not benjamini_hochberg([np.nan], 0.05).any()
    with pytest.raises(ConfigError, match="rate"):
        benjamini_hochberg(p, 0.0)


@pytest.mark.parametrize("method", TABLE_METHODS)
def test_false_alarms_are_as_rare_as_promised_on_fresh_draws(model, method):
    """Given n held-out rows the number of alarms among m fresh ones is beta-binomial, exactly and for any score."""
    n, m, fpr = 1999, 1500, 0.05
    detector = Detector(model, model.sample(n, seed=0), reference=model.sample(500, seed=2), method=method)
    alarms = int(detector.flag(model.sample(m, seed=1), fpr).sum())
    k = int(fpr * (n + 1))
    low, high = stats.betabinom(m, k, n + 1 - k).ppf([1e-4, 1 - 1e-4])
    assert low <= alarms <= high


def test_a_wrong_flow_keeps_the_rate_and_training_rows_would_not():
    """The p-values promise nothing about the flow; calibration on other rows than its own breaks the promise."""
    wrong, true = gaussian(seed=5), gaussian(seed=1)
    detector = Detector(wrong, true.sample(1999, seed=0))
    rate = detector.flag(true.sample(2000, seed=1), 0.05).mean()
    assert 0.03 < rate < 0.07
    own = Detector(wrong, wrong.sample(1999, seed=0))
    assert own.flag(true.sample(2000, seed=1), 0.05).mean() > 0.2


@pytest.mark.parametrize("method", TABLE_METHODS)
def test_shifted_rows_are_found(model, method):
    detector = Detector(model, model.sample(999, seed=0), method=method)
    rows = model.sample(300, seed=1)
    shifted = rows + 8 * rows.std()
    assert detector.flag(shifted, 0.01).mean() > 0.9
    assert detector.flag(rows, 0.01).mean() < 0.05


def test_rows_too_close_to_the_mode_are_found_by_typicality_alone():
    model = bj.TableFlow(
        bj.Flow(bj.Standardize(64), bj.StandardNormal(64)).double(),
        bj.Schema(columns=tuple(Column(name=f"x{i}") for i in range(64)), rows=10),
    )
    modes = 0.1 * model.sample(50, seed=3)
    held_out = model.sample(999, seed=0)
    assert Detector(model, held_out).flag(modes, 0.01).sum() == 0
    for method in ("typicality", "density-of-states"):
        assert Detector(model, held_out, method=method).flag(modes, 0.01).all()


def test_scores_are_what_they_say(model):
    rows = model.sample(200, seed=1)
    x = torch.tensor(rows.to_numpy(), requires_grad=True)
    log_p = model.flow.log_prob(x)
    (gradient,) = torch.autograd.grad(log_p.sum(), x)
    held_out, log_p = model.sample(300, seed=0), log_p.detach().numpy()
    options = {"reference": held_out}
    np.testing.assert_allclose(Detector(model, held_out).score(rows), -log_p)
    entropy = -model.score_samples(held_out).mean()
    found = Detector(model, held_out, method="typicality", **options).score(rows)
    np.testing.assert_allclose(found, np.abs(-log_p - entropy))
    z = model.transform(rows).to_numpy()
    np.testing.assert_allclose(Detector(model, held_out, method="radius").score(rows), np.sqrt((z**2).sum(1)))
    scaled = gradient.numpy() * held_out.to_numpy().std(0)
    found = Detector(model, held_out, method="score-norm", **options).score(rows)
    np.testing.assert_allclose(found, np.linalg.norm(scaled, axis=1))
    np.testing.assert_allclose(anomaly.score_norm(model, rows), np.linalg.norm(gradient.numpy(), axis=1))
    other = gaussian(seed=5)
    found = Detector(model, held_out, method="likelihood-ratio", background=other).score(rows)
    np.testing.assert_allclose(found, other.score_samples(rows) - log_p)


def test_the_score_norm_has_no_units(model):
    """The same density of columns in other units: the same norms."""
    rows, held_out = model.sample(50, seed=1), model.sample(400, seed=0)
    factor = np.array([2.0**-10, 1.0, 2.0**10, 8.0])
    chain = bj.Chain(bj.Standardize(4, [0.0] * 4, factor.tolist()), *model.flow.transform)
    other = bj.TableFlow(bj.Flow(chain, model.flow.base).double(), model.schema)
    a = Detector(model, held_out, method="score-norm", reference=held_out).score(rows)
    b = Detector(other, held_out * factor, method="score-norm", reference=held_out * factor).score(rows * factor)
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("column", NAMES)
def test_the_corrupted_column_is_named_first_though_its_value_is_ordinary(model, column):
    """The value comes from another row: nothing is wrong with it but its company."""
    rows = model.sample(400, seed=1)
    bad = rows.assign(**{column: np.roll(rows[column].to_numpy(), 7)})
    detector = Detector(model, model.sample(999, seed=0))
    flagged = detector.flag(bad, 0.01)
    assert flagged.sum() > 5
    found = detector.explain(bad[flagged])
    assert (found.ranking()[0] == column).mean() > 0.75  # two columns may tell on each other alone
    error = (found.repairs[column] - rows[column][flagged]).abs().median()
    assert error < 0.2 * (bad[column] - rows[column])[flagged].abs().median()
    assert found.text()[0].startswith(f"{column} (")
    assert (found.nats.to_numpy() >= 0).all()


def test_the_deficit_of_a_gaussian_is_known(model):
    """max_v log p(v | rest) - log p(x_j | rest) = (x_j - mean)^2 / (2 var), the conditional moments from the precision."""
    rows = model.sample(20, seed=1)
    w = torch.func.jacrev(lambda x: model.flow.to_latent(x)[0])(torch.zeros(4, dtype=torch.float64)).detach().numpy()
    precision = w.T @ w
    centred = rows.to_numpy() - 5.0
    expected = (centred @ precision) ** 2 / (2 * np.diag(precision))
    found = anomaly.explain_rows(model, rows, model.sample(4000, seed=0)).nats.to_numpy()
    close = np.abs(found - expected) < 0.05 + 0.1 * expected
    assert close.mean() > 0.8  # the values that are tried are a grid
    assert (found < expected + 1e-6).all()


def test_impossible_values_are_flagged_and_named():
    model = gaussian(kind="bounded", low=-1e3, high=1e3)
    constant = Column(name="k", kind="constant", value=2.0)
    schema = bj.Schema(columns=(*model.schema.columns, constant), rows=100)
    model = bj.TableFlow(model.flow, schema)
    detector = Detector(model, model.sample(199, seed=0))
    rows = model.sample(3, seed=1)
    rows.loc[0, "a"], rows.loc[1, "k"], rows.loc[2, "c"] = 2e3, 3.0, np.inf
    assert detector.flag(rows, 0.01).all()
    assert detector.p_values(rows).tolist() == [1 / 200] * 3
    found = detector.explain(rows)
    assert found.ranking()[0].tolist() == ["a", "k", "c"]
    assert found.repairs.loc[1, "k"] == 2.0
    assert np.isfinite(found.nats.loc[0, ["b", "c", "d", "k"]]).all()
    for method in ("radius", "score-norm", "density-of-states"):
        assert Detector(model, model.sample(398, seed=0), method=method).flag(rows, 0.01).all()


def test_missing_values_are_refused_or_left_alone(model):
    detector = Detector(model, model.sample(199, seed=0))
    rows = model.sample(3, seed=1)
    rows.loc[1, "b"] = np.nan
    with pytest.raises(NonFiniteError, match="row 1"):
        detector.flag(rows)
    assert np.isnan(detector.p_values(rows, nonfinite="propagate")).tolist() == [False, True, False]
    assert not detector.flag(rows, nonfinite="propagate")[1]
    assert detector.explain(rows).nats.isna().all(axis=1).tolist() == [False, True, False]


def test_what_cannot_be_judged_is_refused(model):
    rows = model.sample(50, seed=0)
    with pytest.raises(ConfigError, match="at least 99 held-out rows"):
        Detector(model, rows).flag(rows, 0.01)
    for fpr in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="fpr"):
            Detector(model, rows).flag(rows, fpr)
    with pytest.raises(ConfigError, match="control"):
        Detector(model, rows).flag(rows, 0.1, control="fdr")
    with pytest.raises(ConfigError, match="unknown"):
        Detector(model, rows, method="likelihood")
    with pytest.raises(ConfigError, match="background"):
        Detector(model, rows, method="likelihood-ratio")
    with pytest.raises(ConfigError, match="images only"):
        Detector(model, rows, method="input-complexity")
    with pytest.raises(ConfigError, match="the background has columns"):
        Detector(model, rows, method="likelihood-ratio", background=gaussian(columns=3))
    with pytest.raises(DataError, match="pass held_out"):
        Detector(model)
    with pytest.raises(DataError, match="fewer than 2"):
        Detector(model, rows[:1])
    with pytest.raises(DataError, match="'d'"):
        Detector(model, rows).score(rows[["a", "b", "c"]])


def test_discoveries_are_controlled(model):
    """A tenth of anomalies: flagged rows hold few false ones, and a table without any is left alone."""
    detector = Detector(model, model.sample(4999, seed=0))
    ordinary, strange = model.sample(900, seed=1), model.sample(100, seed=2) + 8 * model.sample(999, seed=0).std()
    flagged = detector.flag(pd.concat([ordinary, strange]), 0.1, control="discoveries")
    assert flagged[900:].mean() > 0.9
    assert flagged[:900].sum() / flagged.sum() < 0.2
    assert detector.flag(ordinary, 0.1, control="discoveries").sum() < 10


def test_perturbed_rows_keep_columns_and_lose_dependence():
    a = np.random.default_rng(0).normal(size=2000)
    frame = pd.DataFrame({"a": a, "b": a})
    out = perturb_rows(frame, share=0.5, seed=1)
    for name in "ab":
        assert sorted(out[name]) == sorted(frame[name])
    assert 0.15 < out.corr().iloc[0, 1] < 0.35  # a pair is whole with probability 1/4
    with pytest.raises(ConfigError, match="share"):
        perturb_rows(frame, share=0.0)


def test_complexity_orders_images():
    rng = np.random.default_rng(0)
    flat, ramp = np.zeros((16, 16), int), np.add.outer(np.arange(16), np.arange(16)) * 8
    noise = rng.integers(0, 256, (16, 16))
    lengths = code_length(np.stack([flat, ramp, noise]))
    assert lengths[0] < lengths[1] < 0.3 * lengths[2]
    assert lengths[2] == pytest.approx(256 * 8 * np.log(2), rel=0.1)  # noise cannot be compressed
    assert code_length(np.zeros((2, 8, 8, 3))).shape == (2,)


def test_images_have_detectors_too():
    """A flow that likes smooth images better than its own kind: complexity takes the advantage away."""
    chain = bj.Chain(bj.Reshape((1, 8, 8), (64,)), bj.Standardize(64, [128.0] * 64, [70.0] * 64))
    density = bj.Dequantized(bj.Flow(chain, bj.StandardNormal(64)), levels=256)
    model = bj.ImageFlow(density, bj.apps.ImageSchema(shape=(1, 8, 8), levels=256, layout="HW"))
    rng = np.random.default_rng(0)
    own = rng.integers(0, 256, (250, 8, 8)).astype(np.uint8)
    smooth = np.full((20, 8, 8), 128, np.uint8) + rng.integers(0, 3, (20, 1, 1)).astype(np.uint8)
    held_out, fresh = own[:200], own[200:]
    plain, corrected = (Detector(model, held_out, method=m) for m in ("log-likelihood", "input-complexity"))
    assert plain.score(smooth).max() < plain.score(fresh).min()  # the paradox
    assert corrected.score(smooth).min() > corrected.score(fresh).max()
    for method in ("typicality", "radius", "score-norm", "density-of-states"):
        assert Detector(model, held_out, method=method).p_values(fresh).shape == (50,)


# -- the guarantees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fpr", [0.01, 0.05])
def test_over_many_seeds_the_false_alarms_are_those_that_were_allowed(fpr):
    """On average over held-out sets the rate is floor(alpha (n+1)) / (n+1); alarms of one set are beta-binomial."""
    n, m, repeats = 250, 100, 1000
    rng = np.random.default_rng(0)
    k = int(fpr * (n + 1))
    alarms = [(conformal_p_values(rng.gumbel(size=n), rng.gumbel(size=m)) <= fpr).sum() for _ in range(repeats)]
    law = stats.betabinom(m, k, n + 1 - k)
    assert abs(np.sum(alarms) - repeats * law.mean()) < 4 * law.std() * np.sqrt(repeats)
    assert abs(law.mean() / m - fpr) < 1 / (n + 1)
    spread = np.std(alarms) / law.std()
    assert 0.85 < spread < 1.15  # and they vary as they should, more than binomial counts


def test_the_interval_of_the_rate_holds_nine_sets_of_ten():
    n, fpr, rng = 400, 0.05, np.random.default_rng(1)
    mean, low, high = false_alarm_rate(n, fpr)
    cuts = np.sort(rng.normal(size=(2000, n)), axis=1)[:, n - int(fpr * (n + 1))]
    rates = stats.norm.sf(cuts)  # of a row with p <= fpr: its score is at least the k-th largest
    assert abs(((rates > low) & (rates < high)).mean() - 0.9) < 4 * np.sqrt(0.09 / 2000)
    assert abs(rates.mean() - mean) < 4 * rates.std() / np.sqrt(2000)
    assert false_alarm_rate(10, 0.05) == (0.0, 0.0, 0.0)


def test_over_many_seeds_discoveries_are_controlled():
    """The expected share of false discoveries is at most the rate times the share of ordinary rows."""
    rng, rate, found = np.random.default_rng(2), 0.2, []
    for _ in range(400):
        p = conformal_p_values(rng.normal(size=1000), np.r_[rng.normal(size=80), rng.normal(4.0, 1.0, size=20)])
        flagged = benjamini_hochberg(p, rate)
        found.append((flagged[:80].sum() / max(flagged.sum(), 1), flagged[80:].mean()))
    shares, power = np.array(found).T
    assert shares.mean() < 0.8 * rate + 3 * shares.std() / np.sqrt(len(shares))
    assert shares.mean() > 0.5 * rate  # nothing is wasted
    assert power.mean() > 0.8


def test_so_many_held_out_rows_are_needed():
    assert [rows_needed(a) for a in (0.01, 0.05, 0.1, 0.5, 0.7, 1 / 3)] == [99, 19, 9, 1, 1, 2]
    for fpr in (0.01, 0.05, 1 / 3):
        n = rows_needed(fpr)
        assert conformal_p_values(np.arange(n), [np.inf])[0] <= fpr * (1 + 1e-12)
        assert conformal_p_values(np.arange(n - 1), [np.inf])[0] > fpr
    for fpr in (0, 1, 2, float("nan")):
        with pytest.raises(ConfigError, match="fpr must be in"):
            rows_needed(fpr)


def test_findings_say_what_was_found_and_what_cannot_be(model):
    detector = Detector(model, model.sample(150, seed=0))
    rows = model.sample(300, seed=1)
    rows.iloc[:30] += 8 * rows.std()
    found = detector.judge(rows, 0.05)
    np.testing.assert_allclose(found.p_value, detector.p_values(rows))
    assert found.flagged.tolist() == detector.flag(rows, 0.05).tolist()
    assert set(found.worst(30)) == set(range(30))
    assert "about 15.0 expected" in found.summary()
    assert found.caution() is None
    assert "between" in detector.judge(rows, 0.01).caution()
    rated = found.evaluate(np.arange(300) < 30)
    assert (rated.recall, rated.auroc) == (1.0, 1.0)
    assert rated.false_alarms == found.flagged[30:].mean()
    assert rated.false_discoveries == found.flagged[30:].sum() / found.flagged.sum()
    alone = detector.judge(rows, 0.05, control="discoveries")
    assert "fewer than 40 anomalies among 300 rows" in alone.caution()  # 300 / (0.05 * 151) = 39.7
    assert "hold out 5999 rows" in alone.caution()
    assert "0.05 of them false" in alone.summary()
    with pytest.raises(DataError, match="write 1 for anomalies"):
        found.evaluate(np.arange(300))
    with pytest.raises(DataError, match="one kind"):
        found.evaluate(np.zeros(300))
    with pytest.raises(DataError, match="2 labels for 300 rows"):
        found.evaluate([0, 1])
    with pytest.raises(DataError, match="write 1"):
        read_labels(["good", "bad"], 2)
    with pytest.raises(DataError, match="write 1"):
        read_labels([0, np.nan], 2)


def test_auroc_is_that_of_scikit_learn_with_an_honest_error():
    rng = np.random.default_rng(0)
    y, s = rng.random(500) < 0.3, rng.integers(0, 10, 500).astype(float)
    s[y] += 2
    value, error = auroc(y, s)
    assert value == pytest.approx(roc_auc_score(y, s))
    draws = []
    for _ in range(200):
        s = rng.integers(0, 10, 500).astype(float)
        s[y] += 2
        draws.append(auroc(y, s, resamples=0)[0])
    assert error == pytest.approx(np.std(draws), rel=0.25)
    assert auroc([0, 1, 1], [0.0, np.inf, np.nan], resamples=0)[0] == 1.0


# -- images ------------------------------------------------------------------------------------------------------------


def pixels_apart(size=8):
    """Independent pixels around 128 with standard deviation 20."""
    d = size**2
    chain = bj.Chain(bj.Reshape((1, size, size), (d,)), bj.Standardize(d, [128.0] * d, [20.0] * d))
    density = bj.Dequantized(bj.Flow(chain, bj.StandardNormal(d)), levels=256)
    return bj.ImageFlow(density, bj.apps.ImageSchema(shape=(1, size, size), levels=256, layout="HW"))


def test_the_patch_that_was_changed_is_to_blame():
    model, rng = pixels_apart(), np.random.default_rng(0)
    held_out, images = model.sample(300, seed=0), model.sample(40, seed=1)
    places = rng.integers(0, 4, (40, 2))
    for image, (i, j) in zip(images, places, strict=True):
        image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = 255
    for method in ("log-likelihood", "density-of-states"):
        detector = Detector(model, held_out, method=method)
        assert detector.flag(images, 0.05).mean() > 0.9
        found = detector.explain(images)
        assert found.nats.shape == (40, 4, 4)
        assert (found.nats.reshape(40, -1).argmax(1) == places @ [4, 1]).mean() > 0.95
    plain = Detector(model, held_out, method="log-likelihood")
    found = plain.explain(images[:1])
    i, j = places[0]
    repaired = images[:1].copy()
    repaired[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = 128
    bound = plain.score(images[:1])[0] - plain.score(repaired)[0]
    assert 0.7 * bound < found.nats[0, i, j] < bound + 5  # of 8 contents the best is nearly the mode; noise is fresh
    assert found.text()[0].startswith(f"rows {2 * i}-{2 * i + 1}, columns {2 * j}-{2 * j + 1} (")
    assert found.picture().shape == (2, 8, 8, 3)
    assert found.heat()[0, 2 * i, 2 * j] == found.nats[0, i, j]


def test_patches_at_the_edge_are_smaller_and_colours_have_patches_too():
    images = np.zeros((1, 5, 7, 3), np.uint8)
    images[:, 3:, 6:] = 9
    reference = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((5, 7, 3), np.uint8)  # the best is 0
    found = explain_images(lambda x: x.sum((1, 2, 3)).astype(float), images, reference, patch=3)
    assert found.nats.tolist() == [[[0, 0, 0], [0, 0, 54]]]
    assert found.text() == ["rows 3-4, columns 6-6 (54.0 nats)"]
    assert found.picture(10).shape == (2, 5, 7, 3)
    with pytest.raises(ConfigError, match="patch"):
        explain_images(lambda x: x, images, images, patch=0)


def test_images_are_judged_by_two_scores_and_rows_by_the_likelihood(model):
    images = pixels_apart()
    assert Detector(images, images.sample(100, seed=0)).method == "combined"
    assert Detector(model, model.sample(100, seed=0)).method == "log-likelihood"


def test_states_that_are_ordinary_one_by_one_and_strange_together():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2000, 1))
    states = np.hstack([a, a + 0.1 * rng.normal(size=(2000, 1))])
    strange = np.array([[1.5, -1.5]])
    for joint, found in ((True, True), (False, False)):
        density = StateDensity(states, joint=joint)
        assert (density.nats(strange)[0] > np.quantile(density.nats(states), 0.999)) == found
    density = StateDensity(rng.normal(size=(5000, 1)))
    x = np.linspace(-2, 2, 9)[:, None]
    np.testing.assert_allclose(density.nats(x), -stats.norm.logpdf(x[:, 0]), atol=0.15)
    assert np.isnan(density.nats(np.array([[np.inf]])))[0]
    with pytest.raises(DataError, match="finite"):
        StateDensity(np.array([[np.nan], [1.0]]))


def test_surprise_is_minus_the_log_of_a_p_value_and_goes_on():
    rng = np.random.default_rng(0)
    surprise = Surprise(rng.exponential(size=20_000))
    x = np.array([0.1, 1.0, 2.0, 3.0, 6.0, 12.0])
    np.testing.assert_allclose(surprise.nats(x), x, rtol=0.1)
    assert (np.diff(surprise.nats(np.linspace(-1, 50, 2000))) >= 0).all()
    assert np.isnan(surprise.nats(np.array([np.nan])))[0]
    assert surprise.nats(np.array([np.inf]))[0] == np.inf
    with pytest.raises(DataError, match="finite"):
        Surprise(np.array([np.inf, 1.0]))


def test_combined_finds_what_either_score_finds(model):
    rows, held_out = model.sample(300, seed=1), model.sample(2000, seed=0)
    detector = Detector(model, held_out, method="combined")
    assert detector.score(rows).mean() == pytest.approx(2.0, abs=0.4)  # of each surprise 1, where p-values are uniform
    mode = pd.DataFrame(np.full((1, 4), 5.0), columns=NAMES)
    assert detector.p_values(mode)[0] < 0.05 < Detector(model, held_out).p_values(mode)[0]
    with pytest.raises(DataError, match="at least 4"):
        Detector(model, held_out, reference=held_out[:3], method="combined")


def test_perturbed_pixels_are_as_many_as_asked():
    images = np.full((20, 30, 30), 7, np.uint8)
    out = perturb_pixels(images, share=0.3, levels=10, seed=1)
    assert out.max() <= 9
    assert (out != 7).mean() == pytest.approx(0.27, abs=0.02)  # a tenth of the draws is the old level
    assert (images == 7).all()
    with pytest.raises(ConfigError, match="share"):
        perturb_pixels(images, share=1.5)


def test_a_flow_of_classes_judges_images_by_their_likeliest_class():
    x, y = blobs(300)
    model = bj.fit_images(x, y, recipe=simple, config=QUICK, audit=False).model
    fresh, _ = blobs(200, seed=1)
    guess = np.array(model.schema.classes)[model.class_log_prob(fresh[:9]).argmax(1)]
    np.testing.assert_allclose(latent_radius(model, fresh[:9]), np.linalg.norm(model.encode(fresh[:9], guess), axis=1))
    for method in ("log-likelihood", "density-of-states"):
        detector = Detector(model, fresh[:100], reference=fresh[100:], method=method)
        assert detector.flag(np.full((5, 4, 4), 7), 0.02).all()


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_judges_what_was_promised(model, tmp_path):
    detector = Detector(model, model.sample(1500, seed=0))
    rows = model.sample(500, seed=1)
    odd = np.arange(500) < 25
    rows[odd] += 8 * rows.std()
    rows.loc[499, "b"] = np.nan
    found = detector.judge(rows, 0.05, nonfinite="propagate")
    lights = {v.name: v.light for v in anomaly_verdicts(found, found.evaluate(odd))}
    assert lights["rows flagged"] == "warn"  # more than chance
    assert {v for k, v in lights.items() if k != "rows flagged"} == {"good"}
    page = write_anomaly_report(tmp_path / "report", detector, rows, found, labels=odd).read_text()
    assert page.count("<figure") == 3
    assert "false alarms as promised: good" in page
    clean = detector.judge(model.sample(500, seed=2), 0.05)
    assert {v.light for v in anomaly_verdicts(clean, None)} == {"good"}
    other = Detector(model, gaussian(seed=5).sample(1500, seed=0))  # calibrated on rows of another kind
    wrong = other.judge(rows[~odd][:-1], 0.05)
    lights = {v.name: v.light for v in anomaly_verdicts(wrong, wrong.evaluate(np.arange(474) % 2))}  # labels at random
    assert lights["the rest is ordinary"] == "bad"
    assert lights["anomalies are told apart"] == "bad"
    few = Detector(model, model.sample(25, seed=0)).judge(rows[:100], 0.05, control="discoveries")
    assert {v.name: v.light for v in anomaly_verdicts(few, None)}["held-out rows suffice"] == "warn"
    assert "cannot be told from chance" in write_anomaly_report(tmp_path / "few", detector, rows[:100], few).read_text()
    alarming = dataclasses.replace(found, flagged=np.ones(500, bool))
    lights = {v.name: v.light for v in anomaly_verdicts(alarming, alarming.evaluate(odd))}
    assert lights["false alarms as promised"] == "bad"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "schema.json").write_text("{}")
    with pytest.raises(ConfigError, match="run folder"):
        write_anomaly_report(tmp_path / "run", detector, rows, found)

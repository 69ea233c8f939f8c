"""Anomaly detection: honest rates, power, the column to blame, and refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import bijectory as bj
from bijectory.apps import anomaly
from bijectory.apps.anomaly import METHODS, Detector, benjamini_hochberg, code_length, conformal_p_values, perturb_rows
from bijectory.errors import ConfigError, DataError, NonFiniteError
from bijectory.tables import Column

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
    plain, corrected = Detector(model, held_out), Detector(model, held_out, method="input-complexity")
    assert plain.score(smooth).max() < plain.score(fresh).min()  # the paradox
    assert corrected.score(smooth).min() > corrected.score(fresh).max()
    for method in ("typicality", "radius", "score-norm", "density-of-states"):
        assert Detector(model, held_out, method=method).p_values(fresh).shape == (50,)
    with pytest.raises(ConfigError, match="tables"):
        plain.explain(fresh)

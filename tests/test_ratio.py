"""Density ratios: against what is known of normal densities, their errors, and their uses."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bijectory as bj
from bijectory.apps import ImportanceWarning, TableDifference
from bijectory.apps.ratio import (
    ClassifierRatio,
    FlowRatio,
    calibrate_ratio,
    check_ratio,
    compare_tables,
    fit_ratio,
    ratio_weights,
    two_sample_test,
)
from bijectory.errors import ConfigError, DataError, NonFiniteError
from bijectory.report import ratio_verdicts
from test_comparison import normal


def rows(rng, n, mean=0.0, columns=2, sd=1.0):
    return pd.DataFrame(rng.normal(mean, sd, (n, columns)), columns=[*"abcdefghij"[:columns]])


@pytest.mark.parametrize("classifier", ["linear", "discriminant", "quadratic", "boosting", "auto"])
def test_the_ratio_of_two_normals_is_found(classifier):
    """Trees know it roughly: better than the best constant, whose error is the spread of the truth, 0.7."""
    rng = np.random.default_rng(0)
    trees = classifier == "boosting"
    p, q, new = rows(rng, 1500 if trees else 3000, 0.5), rows(rng, 1500), rows(rng, 500, 0.25)
    true = 0.5 * new.sum(axis=1) - 2 * 0.5**2 / 2
    found = fit_ratio(p, q, classifier=classifier, members=1 if trees else 32).log_ratio(new)
    assert np.sqrt(np.mean((found - true) ** 2)) < (0.6 if trees else 0.15)
    assert abs(np.mean(found - true)) < 0.12  # the sizes of the tables do not enter


def test_columns_are_found_by_name_and_units_do_not_matter():
    rng = np.random.default_rng(0)
    p, q, new = rows(rng, 400, 0.5), rows(rng, 400), rows(rng, 50)
    plain = fit_ratio(p, q, classifier="quadratic", members=1).log_ratio(new)
    factor = [1e3, 1e-3]
    scaled = fit_ratio(p * factor, (q * factor)[["b", "a"]], classifier="quadratic", members=1).log_ratio(
        (new * factor)[["b", "a"]]
    )
    np.testing.assert_allclose(plain, scaled, atol=1e-3)


def test_standard_errors_are_the_spread_of_independent_fits():
    rng = np.random.default_rng(0)
    new = rows(rng, 40)
    fits = [
        fit_ratio(rows(rng, 300, 0.5), rows(rng, 300), classifier="linear", seed=s).log_ratio_and_error(new)
        for s in range(15)
    ]
    spread = np.std([f.value for f in fits], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([f.se**2 for f in fits], axis=0))
    assert 0.7 < np.mean(claimed) / np.mean(spread) < 1.4
    one = fit_ratio(rows(rng, 50), rows(rng, 50), classifier="linear", members=1).log_ratio_and_error(new)
    assert np.isnan(one.se).all()


def test_telescoping_beats_one_classifier_where_the_two_hardly_overlap():
    """N(0, 0.1^2) against N(0, 1) in 10 dimensions: the two are told apart without error, the ratio is far."""
    rng = np.random.default_rng(0)
    p, q, new = rows(rng, 1000, columns=10, sd=0.1), rows(rng, 1000, columns=10), rows(rng, 200, columns=10, sd=0.1)
    true = stats.norm.logpdf(new, 0, 0.1).sum(1) - stats.norm.logpdf(new).sum(1)
    words = {"classifier": "quadratic", "members": 1}
    plain = fit_ratio(p, q, **words).log_ratio(new)
    bridged = fit_ratio(p, q, method="telescoping", bridges=8, **words).log_ratio(new)
    normal = fit_ratio(p, q, classifier="discriminant", members=1).log_ratio(new)
    error = [np.sqrt(np.mean((f - true) ** 2)) for f in (plain, bridged, normal)]
    assert error[1] < 0.6 * error[0]
    assert error[2] < error[1]  # which two normal densities need least


def test_the_ratio_of_flows_is_exact_and_knows_its_ensemble():
    p, q = normal(mean=1.0), normal()
    new = q.sample(50, seed=0)
    ratio = FlowRatio(p, q)
    np.testing.assert_allclose(ratio.log_ratio(new), new.sum(axis=1) - 1.0)
    assert np.isnan(ratio.log_ratio_and_error(new).se).all()
    several = FlowRatio([normal(mean=m) for m in (0.9, 1.0, 1.1)], [q] * 3).log_ratio_and_error(new)
    expected = np.std([p.score_samples(new) for p in (normal(mean=0.9), normal(mean=1.0), normal(mean=1.1))], 0, ddof=1)
    np.testing.assert_allclose(several.se, expected)
    narrow = normal(kind="bounded", low=-1.0, high=1.0)
    found = FlowRatio(narrow, q).log_ratio({"a": [0.0, 2.0], "b": [0.0, 0.0]})
    assert np.isfinite(found[0])
    assert found[1] == -np.inf
    with pytest.raises(DataError, match="'c'"):
        FlowRatio(p, normal(names=("a", "b", "c")))
    with pytest.raises(ConfigError, match="members"):
        FlowRatio([p, p], q)


def test_latents_of_a_flow_leave_the_ratio_as_it_is():
    """In latent space a log-normal is normal, and the quadratic classifier is exact."""
    rng = np.random.default_rng(0)
    chain = bj.Elementwise(bj.Log(), 2)
    schema = bj.Schema(columns=tuple(bj.tables.Column(name=n, kind="positive", low=0.0) for n in "ab"), rows=10)
    flow = bj.TableFlow(bj.Flow(chain, bj.StandardNormal(2)).double(), schema)
    p, q, new = (np.exp(rows(rng, n, m)) for n, m in ((1500, 0.5), (1500, 0.0), (300, 0.0)))
    true = 0.5 * np.log(new).sum(axis=1) - 0.25
    latent = fit_ratio(p, q, flow=flow, classifier="quadratic", members=2).log_ratio(new)
    plain = fit_ratio(p, q, classifier="quadratic", members=2).log_ratio(new)
    error = [np.sqrt(np.mean((f - true) ** 2)) for f in (latent, plain)]
    assert error[0] < 0.2
    assert error[0] < 0.5 * error[1]


def correlated(rng, n, d):
    x = rng.normal(size=(n, d))
    x[:, 1::2] = 0.8 * x[:, ::2] + 0.6 * x[:, 1::2]
    return x


@pytest.mark.parametrize(
    ("classifier", "d", "repeats"), [("discriminant", 2, 12), ("quadratic", 2, 12), ("discriminant", 10, 6)]
)
def test_standard_errors_cover(classifier, d, repeats):
    """Of points at p and q the errors hold 68 % and 95 %, as a normal error would, within the noise of the repeats."""
    one, two, sizes = [], [], []
    for seed in range(repeats):
        rng = np.random.default_rng([seed, d])
        p, q = correlated(rng, 1000, d), rng.normal(size=(1000, d))
        ratio = fit_ratio(p, q, classifier=classifier, seed=seed)
        new = np.concatenate([correlated(rng, 200, d), rng.normal(size=(200, d))])
        cov = np.kron(np.eye(d // 2), [[1.0, 0.8], [0.8, 1.0]])
        true = stats.multivariate_normal(cov=cov).logpdf(new) - stats.norm.logpdf(new).sum(1)
        found = ratio.log_ratio_and_error(new)
        error = np.abs(found.value - true)
        one.append(np.mean(error < found.se))
        two.append(np.mean(error < 2 * found.se))
        sizes.append(np.sqrt(np.mean(error**2)))
    assert 0.55 < np.mean(one) < 0.82
    assert 0.86 < np.mean(two) < 0.995
    assert np.mean(sizes) < 0.35 * true.std()


def test_fifty_dimensions_are_learned_from_two_thousand_rows():
    rng = np.random.default_rng(0)
    p, q, new = correlated(rng, 2000, 50), rng.normal(size=(2000, 50)), correlated(rng, 500, 50)
    cov = np.kron(np.eye(25), [[1.0, 0.8], [0.8, 1.0]])
    true = stats.multivariate_normal(cov=cov).logpdf(new) - stats.norm.logpdf(new).sum(1)
    found = fit_ratio(p, q, classifier="discriminant").log_ratio_and_error(new)
    error = found.value - true
    assert np.sqrt(np.mean(error**2)) < 1.3  # the best constant has 4
    assert np.mean(np.abs(error) < 2 * found.se) > 0.8


def test_the_choice_of_a_classifier_follows_the_tables():
    rng = np.random.default_rng(0)
    p, q = rows(rng, 1500, 0.6), rows(rng, 1500)
    ring = rng.normal(size=(1500, 2))
    ring *= (2 + 0.2 * rng.normal(size=1500))[:, None] / np.linalg.norm(ring, axis=1)[:, None]
    assert fit_ratio(p, q, members=1).classifiers[0] in ("linear", "discriminant")  # both are right
    assert fit_ratio(ring, q.to_numpy(), members=1).classifiers == ("boosting",)
    wide = correlated(rng, 1500, 10)
    assert fit_ratio(wide, rng.normal(size=(1500, 10)), members=1).classifiers == ("discriminant",)


@pytest.mark.parametrize("how", ["platt", "temperature", "isotonic"])
def test_calibration_repairs_an_overconfident_ratio(how):
    rng = np.random.default_rng(0)
    p, q, new = rows(rng, 4000, 0.5), rows(rng, 4000), rows(rng, 500, 0.25)
    true = 0.5 * new.sum(axis=1) - 0.25
    loud = ClassifierRatio(["a", "b"], [[lambda x, k=k: k * (0.5 * x.sum(1) - 0.25)] for k in (2.9, 3.1)])
    found = calibrate_ratio(loud, p, q, how=how)
    error = [np.sqrt(np.mean((f.log_ratio(new) - true) ** 2)) for f in (loud, found)]
    assert error[1] < (0.25 if how == "isotonic" else 0.1)
    assert error[1] < 0.2 * error[0]
    fresh = rows(rng, 4000, 0.5), rows(rng, 4000)
    assert check_ratio(found, *fresh).ok
    assert not check_ratio(loud, *fresh).ok
    if how != "isotonic":
        assert found.slope == pytest.approx(1 / 3, abs=0.05)
    assert np.isfinite(found.log_ratio(rows(rng, 5, 50.0))).all()
    with pytest.raises(DataError, match="at least 20"):
        calibrate_ratio(loud, p[:5], q)
    with pytest.raises(ConfigError, match="isotonic"):
        calibrate_ratio(loud, p, q, how="beta")


def test_checks_tell_a_fit_from_an_overconfident_one():
    rng = np.random.default_rng(0)
    p, q = rows(rng, 1000, 0.5), rows(rng, 1000)
    fresh = rows(rng, 2000, 0.5), rows(rng, 2000)
    assert check_ratio(fit_ratio(p, q, members=2), *fresh).ok
    few = ClassifierRatio(["a", "b"], [[lambda x: 4 * (0.5 * x.sum(1) - 0.25)]])
    found = check_ratio(few, *fresh)
    assert not found.ok
    assert found.slope < 0.75


def test_weights_turn_one_table_into_the_other():
    rng = np.random.default_rng(0)
    p, q = rows(rng, 4000, 0.7), rows(rng, 4000)
    found = ratio_weights(fit_ratio(p, q, classifier="linear", members=2), q)
    assert found.weights.mean() == pytest.approx(1)
    assert np.average(q["a"], weights=found.weights) == pytest.approx(0.7, abs=0.12)
    assert found.ess == pytest.approx(4000 / np.exp(2 * 0.7**2), rel=0.35)  # n / E_q[r^2]
    assert found.reliable
    assert found.weights.max() <= found.raw.max() * 1.05
    far = ClassifierRatio(["a"], [[lambda x: 4 * x[:, 0] - 8]])
    with pytest.warns(ImportanceWarning, match="Pareto"):
        bad = ratio_weights(far, q[["a"]])
    assert bad.khat > 0.7
    assert not bad.reliable
    with pytest.raises(DataError, match="finite"):
        ratio_weights(FlowRatio(normal(kind="bounded", low=-1, high=1), normal()), {"a": [5.0], "b": [5.0]})


def test_p_values_of_equal_tables_are_uniform_and_of_others_small():
    rng = np.random.default_rng(0)
    p = [
        two_sample_test(rows(rng, 40), rows(rng, 60), classifier="linear", permutations=99, seed=s).p_value
        for s in range(60)
    ]
    assert np.sum(np.array(p) <= 0.05) <= stats.binom(60, 0.05).ppf(0.9999)
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    rho = 0.8  # the columns by themselves agree
    a = rng.normal(size=(400, 2))
    b = np.stack([a[:, 0], rho * a[:, 0] + np.sqrt(1 - rho**2) * a[:, 1]], axis=1)
    found = two_sample_test(rng.normal(size=(400, 2)), b, permutations=199)
    assert found.p_value == 1 / 200
    assert found.auc > 0.6


def test_the_ratio_to_a_background_tells_what_is_out_of_distribution():
    """The first column is the same everywhere and drowns the likelihood of the second; in the ratio it cancels."""
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 0.5])
    p, background = rng.normal(size=(2000, 2)) * scale, rng.standard_t(3, size=(2000, 2)) * [1.0, 2.0]
    ratio = fit_ratio(p, background, classifier="quadratic", members=1)
    inside, outside = rng.normal(size=(500, 2)) * scale, np.stack([0.1 * rng.normal(size=500), np.full(500, 1.1)], 1)
    likelihood = [stats.norm.logpdf(x, 0, scale).sum(1) for x in (inside, outside)]
    area = [
        stats.mannwhitneyu(*s).statistic / 500**2
        for s in (likelihood, [ratio.log_ratio(inside), ratio.log_ratio(outside)])
    ]
    assert area[1] > 0.93
    assert area[1] > area[0] + 0.05


def test_two_tables_are_compared():
    rng = np.random.default_rng(0)
    a, b = (pd.DataFrame(rng.normal(size=(600, 3)), columns=["u", "v w", "ä"]) for _ in range(2))
    b["ä"] = 0.8 * b["u"] + 0.6 * b["ä"]  # the columns by themselves agree
    a["u"] += 0.3
    found = compare_tables(a.assign(k=1.0, only=2), b.assign(k=1.0), drop=["only"], classifier="quadratic")
    assert isinstance(found, TableDifference)
    assert found.test.p_value == 0.001
    assert [v.light for v in ratio_verdicts(found)] == ["warn", "good", "good"]
    assert set(found.columns.index[:2]) == {"u", "ä"}
    assert found.columns.loc["ä", "p_value"] > 0.05
    assert found.columns.loc["u", "shift"] == pytest.approx(0.3, abs=0.1)
    assert "'k'" in found.notes[0]
    assert "differ" in found.summary()
    mean = np.average(b["u"], weights=found.weights)
    assert abs(mean - a["u"].mean()) < abs(b["u"].mean() - a["u"].mean()) / 2
    same = compare_tables(a, a.iloc[::-1], classifier="quadratic")
    assert same.test.p_value > 0.05
    assert "cannot be told apart" in same.summary()
    assert "600 rows are in both" in same.notes[0]
    for other, words in (
        (b[["u", "v w"]], "'ä' is in the first"),
        (b.assign(z=1.0), "'z' is in the second"),
        (b[:9], "9 rows"),
    ):
        with pytest.raises(DataError, match=words):
            compare_tables(a, other)
    with pytest.raises(DataError, match="nothing to compare"):
        compare_tables(a * 0, b * 0)
    with pytest.raises(DataError, match="--drop"):
        compare_tables(a, b, drop=["zz"])


def test_what_has_no_ratio_is_refused():
    rng = np.random.default_rng(0)
    p = rows(rng, 30)
    for call in (fit_ratio, two_sample_test):
        with pytest.raises(DataError, match="'b'"):
            call(p, p[["a"]])
        with pytest.raises(DataError, match="rows"):
            call(p, p[:5])
        with pytest.raises(NonFiniteError, match="row 0"):
            call(p, p.replace(p.iloc[0, 1], np.nan))
        with pytest.raises(ConfigError, match="quadratic"):
            call(p, p, classifier="svm")
    with pytest.raises(ConfigError, match="telescoping"):
        fit_ratio(p, p, method="kliep")
    with pytest.raises(ConfigError, match="members=0"):
        fit_ratio(p, p, members=0)
    with pytest.raises(ConfigError, match="permutations"):
        two_sample_test(p, p, permutations=3)

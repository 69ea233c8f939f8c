"""Numbers at the edge: depth, adverse weights, bfloat16, batches, threads. The figures are those of ``measures.py``."""

import concurrent.futures

import numpy as np
import pytest
import torch

import bijectory as bj
import measures
from bijectory.densities.audit import FAIL
from bijectory.testing import randomize
from laws.cases import RECIPES

DEEP = {"nice": 1e-5, "gin": 1e-5, "real_nvp": 1e-5, "maf": 1e-5, "iaf": 1e-5, "nsf": 1e-4, "nsf_ar": 1e-4}


@pytest.mark.parametrize("name", [n for n in DEEP if n != "nsf_ar"])  # in full size among the slow ones
def test_depth_128_is_finite_and_invertible_at_initialisation(name):
    error, lost = measures.round_trip(*measures.stack(name, 128, hidden=(32,)))
    assert lost == 0
    assert error <= 2 * DEEP[name]


@pytest.mark.slow  # half a minute
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layers", [32, 64, 128])
@pytest.mark.parametrize("name", DEEP)
def test_depth_at_initialisation_in_full_size(name, layers, seed):
    error, lost = measures.round_trip(*measures.stack(name, layers, seed))
    assert lost == 0
    assert error <= {32: 3e-6 if DEEP[name] == 1e-5 else 3e-5, 64: DEEP[name], 128: 2 * DEEP[name]}[layers]


@pytest.mark.parametrize("name", DEEP)
def test_log_determinant_in_float32_at_depth_32(name):
    flow, x = measures.stack(name, 32)
    assert measures.ladj_against_float64(flow, x) <= (1.5e-5 if name in measures.SPLINES else 2e-6)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", DEEP)
def test_larger_weights_stay_finite(name, factor):
    """Initial matrices times 2 and 4: 32 layers, no row lost, and still invertible."""
    flow, x = measures.stack(name, 32)
    error, lost = measures.round_trip(measures.scaled(flow, factor), x)
    assert lost == 0
    assert error <= 1e-3


def some(*quick):
    """All recipes, those that are not named in the slow tier only."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in DEEP]


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("name", some("real_nvp", "gin"))  # splines take ten seconds each
def test_check_names_the_layer_where_invertibility_is_lost(name, factor):
    """Trained-like weights and more: whatever does not come back is reported with its layer, whatever does is not."""
    flow, x = measures.stack(name, 32, hidden=(32,))
    flow = measures.scaled(randomize(flow), factor)
    error, lost = measures.round_trip(flow, x)
    audit = flow.check(x)
    row = audit["round trip of the worst layer"]
    if lost or error > 0.1:  # of N(0, 1) data: a hundred times the bound of the check
        assert not audit.ok
        assert "round trip of" in str([r.name for r in audit.rows if r.verdict == FAIL])
        assert row.note.startswith("layer ")
        assert row.note.split(",")[0].endswith(f" of {len(flow.transform)}")
    elif error < 1e-4:
        assert row.verdict != FAIL


@pytest.mark.parametrize("name", ["real_nvp", "maf", "iaf"])
def test_deep_affine_stacks_stay_finite_with_any_weights_and_invertible_with_trained_like_ones(name):
    flow, x = measures.stack(name, 32, hidden=(32,))
    error, lost = measures.round_trip(randomize(flow), x)
    assert lost == 0
    assert error <= 0.5  # 2e4 and more with scales that reach e^40 together
    for factor in (2, 4):
        assert measures.round_trip(measures.scaled(randomize(flow), factor), x)[1] == 0


@pytest.mark.parametrize("layers", [1, 5, 8, 9, 32])
def test_affine_scales_are_free_up_to_eight_layers(layers):
    bounds = {t.bijection.max_log_scale for t in bj.maf(3, layers=layers, hidden=(4,)).transform}
    assert bounds == {3.0 if layers <= 8 else 24.0 / layers}


@pytest.mark.parametrize("name", ["nsf", pytest.param("nsf_ar", marks=pytest.mark.slow)])
def test_bounded_splines_stay_finite_with_any_weights(name):
    flow, x = measures.stack(name, 32, hidden=(32,))
    for factor in (2, 4, 100):
        assert measures.round_trip(measures.scaled(randomize(flow), factor), x)[1] == 0


@pytest.mark.parametrize("name", DEEP)
def test_bfloat16_autocast(name):
    """Networks compute in bfloat16, nothing else does: a formula that read 8 bits would be 0.04 nats off."""
    for seed in range(3):
        _, worst, dtype = measures.bfloat16(*measures.stack(name, 4, seed, features=4))
        assert dtype == torch.float32, "log-densities stay in single precision"
        assert worst <= (0.005 if name in measures.SPLINES else 0.002)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("name", measures.NAMES)
def test_bfloat16_autocast_of_every_recipe(name, context):
    """Both directions keep the digits of the data; residual layers alone have the data pass through their networks."""
    flow, x = bj.recipes.RECIPES[name].build(4, context).eval(), torch.randn(64, 4)
    c = torch.randn(64, context) if context else None
    with torch.no_grad():
        (z, _), want = flow.to_latent(x, c), flow.log_prob(x, c)
        with torch.autocast("cpu", torch.bfloat16):
            back, ladj = flow.to_data(z, c)
            got = flow.log_prob(x, c)
    assert got.dtype == back.dtype == ladj.dtype == torch.float32
    assert (got - want).abs().max() <= (0.03 if "residual" in str(flow.transform).lower() else 0.01)
    assert (back - x).abs().max() <= (0.01 if "residual" in str(flow.transform).lower() else 0.001)


def test_a_network_in_bfloat16_is_read_in_the_precision_of_the_data():
    """No other wiring rounds: both directions of every wiring agree under autocast."""
    x, c = torch.randn(50, 3), torch.randn(50, 2)
    image, tokens = torch.randn(50, 2, 4, 4), torch.randn(50, 3, 2)
    for layer, v in [
        (bj.Coupling(bj.Affine(), [True, False, False], 2), x),
        (bj.Autoregressive(bj.Affine(), 3, 2), x),
        (bj.Elementwise(bj.Affine(), 3, 2), x),
        (bj.ImageCoupling(bj.Affine(), 2, context=2), image),
        (bj.Causal(bj.Affine(), 3, 2, 2, width=8, heads=2), tokens),
    ]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            z, ladj = layer(v, c)
            back, ladj_back = layer.inverse(z, c)
        assert z.dtype == ladj.dtype == back.dtype == torch.float32
        assert (back - v).abs().max() <= 2e-4, type(layer)
        assert (ladj + ladj_back).abs().max() <= 2e-4, type(layer)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("build", [bj.LU, bj.QR, bj.Householder, bj.Rotation, bj.MatrixExp])
def test_linear_layers_keep_the_digits_of_the_data_under_autocast(build, context):
    layer = randomize(build(5, context))
    x, c = torch.randn(64, 5), torch.randn(64, context) if context else None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, ladj = layer.forward(x, c)
        back, ladj_back = layer.inverse(z, c)
    assert z.dtype == ladj.dtype == torch.float32
    assert (back - x).abs().max() <= 2e-5
    assert (ladj + ladj_back).abs().max() <= 1e-5


def test_one_by_one_convolutions_keep_the_digits_of_the_data_under_autocast():
    layer, x = randomize(bj.Conv1x1(5)), torch.randn(3, 5, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, _ = layer.forward(x)
        assert z.dtype == torch.float32
        assert (layer.inverse(z)[0] - x).abs().max() <= 2e-5


@pytest.mark.parametrize("case", [c for c in RECIPES if isinstance(c.features, int)], ids=str)
def test_a_row_does_not_depend_on_its_batch(case):
    s = case.subject(max(case.contexts), torch.float32)
    flow = s.trained()
    x, c = s.x(9), s.side(9)
    scale = 1 + flow.log_prob(x, c).detach().abs().max().item()
    assert measures.batch_against_rows(flow, x, c) <= (1e-5 if flow.transform.solver == "integral" else 2e-6) * scale


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["nsf", "maf", "real_nvp", "residual", "cnf", "naf"])
def test_threads_share_a_flow(name, frozen):
    flow = measures.flow_of(name, 2)
    flow = flow.frozen() if frozen else flow
    x = flow.sample(7, generator=torch.Generator().manual_seed(0))
    assert measures.threads(flow, x, calls=5) == 0


@pytest.mark.slow  # a minute
@pytest.mark.parametrize(("name", "calls"), [("nsf", 2_500), ("maf", 10_000)])
def test_threads_share_a_flow_for_long(name, calls):
    """Eight threads, 100,000 scores in all; the program of the reliability page asks for as many of ``nsf`` alone."""
    flow = measures.flow_of(name, 2).float()
    x = flow.sample(50, generator=torch.Generator().manual_seed(0))
    assert measures.threads(flow, x, calls=calls) == 0


def test_threads_score_tables_alike():
    """The estimator too: the same rows from eight threads, equal to the last bit."""
    x = np.random.default_rng(0).normal(size=(80, 2))
    model = bj.apps.FlowDensity("real_nvp", recipe_args={"layers": 2, "hidden": (8,)}, epochs=1, random_state=0).fit(x)
    want = model.score_samples(x)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: model.score_samples(x), range(40)):
            assert np.array_equal(got, want)
    one = np.array([model.score_samples(row[None])[0] for row in x])
    assert np.abs(one - want).max() <= 1e-12


def test_one_seed_one_result():
    """Weights, training and draws repeat to the last bit, whatever the global generators did before."""
    outcomes = []
    for before in (3, 1000):
        torch.randn(before)
        torch.manual_seed(1)
        flow = bj.nsf(2, layers=2, hidden=(8,))
        x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        bj.training.fit(flow, x, config=bj.training.FitConfig(epochs=3, seed=5, progress=False))
        outcomes.append(flow.sample(20, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(*outcomes)

"""Variational inference: supports, starts, fits against known posteriors, what is refused, storage."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Beta,
    Dirichlet,
    Gamma,
    HalfCauchy,
    HalfNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    Uniform,
)

import bijectory as bj
from bijectory.apps.importance import ImportanceWarning
from bijectory.apps.variational import Diagnostics, Mode, Parameters, fit_posterior, variational_config
from bijectory.apps.variational.density import UnnormalizedDensity
from bijectory.apps.variational.diagnostics import diagnose
from bijectory.apps.variational.laplace import explore, hessian, mixture_weights, moment_match
from bijectory.errors import CheckpointError, ConfigError, DtypeError, FlowError, NonFiniteError, ShapeError

F64 = torch.float64
QUICK = variational_config(epochs=2, batch_size=128)
AFFINE = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (8,)}}
SPLINE = {"recipe_args": {"layers": 2, "hidden": (8,)}}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(x):
    """Correlated, far from the origin, with log Z = 2 + log(2 pi) + log det L."""
    root = torch.tensor([[2.0, 0.0], [3.0, 0.5]], dtype=F64)
    z = torch.linalg.solve_triangular(root, (x - torch.tensor([30.0, -5.0], dtype=F64)).T, upper=False)
    return 2.0 - 0.5 * z.square().sum(0)


LOG_Z = 2.0 + math.log(2 * math.pi)  # det L = 1


def two_modes(x):
    """Two normals at +-4 of sd 0.5, with a quarter and three quarters of the mass."""
    parts = torch.stack([Normal(-4.0, 0.5).log_prob(x).sum(-1), Normal(4.0, 0.5).log_prob(x).sum(-1)])
    return (parts + torch.tensor([[0.25], [0.75]]).log()).logsumexp(0)


# -- parameters --------------------------------------------------------------------------------------------------------


def test_parameters_in_every_way_they_can_be_written():
    assert Parameters.declare(2).columns == ("x0", "x1")
    assert Parameters.declare(["a", "b"], positive=["b"]).entries[1][1].support == "positive"
    assert Parameters.declare(["a"], bounded={"a": (0, math.inf)}).entries[0][1].support == "positive"
    assert Parameters.declare({"a": (-math.inf, math.inf)}).entries[0][1].support == "real"
    again = Parameters.declare({"a": bj.Parameter((1, 2), 3), "b": bj.Parameter("ordered", 2)})
    assert Parameters.from_list(again.to_list()) == again == Parameters.declare(again)


@pytest.mark.parametrize(
    ("parameters", "kwargs", "message"),
    [
        (0, {}, "at least one"),
        ([], {}, "at least one"),
        (["a", "a"], {}, "repeat"),
        ("ab", {}, "names with supports"),
        ({"a": "simplex"}, {}, "'a': support 'simplex' is none of"),
        ({"a": (1, 0)}, {}, "lower bound must be below"),
        ({"a": (-math.inf, 0)}, {}, "minus the parameter"),
        ({"a": 3.0}, {}, "not a pair"),
        ({"a": "ordered"}, {}, "size of at least 2"),
        (["a"], {"positive": ["b"]}, r"\['b'\] are not declared"),
    ],
)
def test_parameters_that_are_refused(parameters, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        Parameters.declare(parameters, **kwargs)


def test_supports_hold_by_construction_and_log_dets_are_counted():
    declared = Parameters.declare(
        {
            "o": bj.Parameter("ordered", 3),
            "r": "real",
            "p": "positive",
            "b": (-1, 3),
            "s": (2, math.inf),
            "v": bj.Parameter((5, math.inf), 2),
        }
    )
    assert declared.width == len(declared.columns) == len(declared.limits()) == 9
    chain = declared.unconstrain().double()
    u = 3 * torch.randn(500, 9, generator=generator(), dtype=F64)
    x, ladj = chain.inverse(u)
    v = declared.named(x)
    assert (v["o"].diff() > 0).all()
    assert (v["p"] > 0).all()
    assert ((v["b"] > -1) & (v["b"] < 3)).all()
    assert (v["s"] > 2).all()
    assert (v["v"] > 5).all()
    jac = torch.autograd.functional.jacobian(lambda row: chain.inverse(row)[0], u[0])
    assert ladj[0].item() == pytest.approx(torch.linalg.slogdet(jac).logabsdet.item())
    assert torch.allclose(chain.forward(x)[0], u, atol=1e-6)


def test_whiten_learns_mean_and_covariance():
    x = torch.randn(5000, 2, generator=generator(), dtype=F64) @ torch.tensor([[2.0, 1.0], [0.0, 0.1]], dtype=F64) + 7
    layer = bj.Whiten(2).double()
    layer.initialize(x)
    z, _ = layer(x)
    assert torch.allclose(torch.cov(z.T, correction=0), torch.eye(2, dtype=F64), atol=1e-9)
    assert z.mean(0).abs().max() < 1e-9
    before = layer.root
    layer.initialize(3 * x)
    assert layer.root == before
    with pytest.raises(bj.errors.DataError, match="singular"):
        bj.Whiten(2).double().initialize(x[:, :1].expand(-1, 2))
    with pytest.raises(ConfigError, match="lower triangle"):
        bj.Whiten(2, [0.0, 0.0], [[1.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ConfigError, match="root"):
        bj.Whiten(2, [0.0, 0.0], [[1.0]])


def test_ordered_has_no_image_of_other_vectors():
    assert bj.Ordered(2)(torch.tensor([1.0, 1.0]))[1].isnan()
    with pytest.raises(ConfigError, match="features"):
        bj.Ordered(0)


# -- joints ------------------------------------------------------------------------------------------------------------


def test_a_joint_is_the_sum_of_its_parts():
    y = torch.tensor([1.0, 2.0], dtype=F64)
    joint = bj.Joint(
        {
            "mu": Normal(0.0, 5.0),
            "tau": HalfCauchy(5.0),
            "theta": lambda v: Normal(v["mu"][:, None].expand(-1, 2), v["tau"][:, None]),
            "p": Uniform(1.0, 4.0),
            "m": MultivariateNormal(torch.zeros(2), torch.eye(2)),
        },
        lambda v: Normal(v["theta"], 1.0).log_prob(y).sum(-1),
    )
    assert joint.parameters.columns == ("mu", "tau", "theta[0]", "theta[1]", "p", "m[0]", "m[1]")
    supports = [p.support for _, p in joint.parameters.entries]
    assert supports == ["real", "positive", "real", (1.0, 4.0), "real"]
    x = torch.tensor([[0.5, 2.0, 1.0, -1.0, 2.0, 0.1, 0.2]], dtype=F64).expand(3, -1)
    want = Normal(0.0, 5.0).log_prob(x[0, 0]) + HalfCauchy(5.0).log_prob(x[0, 1])
    want = want + Normal(0.5, 2.0).log_prob(x[0, 2:4]).sum() - math.log(3)
    want = want - math.log(2 * math.pi) - 0.025 + Normal(x[0, 2:4], 1.0).log_prob(y).sum()
    assert torch.allclose(joint(x), want.expand(3), atol=1e-6)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Bernoulli(0.5), "discrete"),
        (Dirichlet(torch.ones(3)), "cannot be mapped"),
        (Normal(torch.zeros(2, 2), 1.0), "use a vector"),
        (Pareto(torch.tensor([1.0, 2.0]), 1.0), "differ between"),
        (lambda v: 3.0, "must be a torch Distribution, got float"),
    ],
)
def test_joints_that_are_refused(prior, message):
    with pytest.raises(ConfigError, match=message):
        bj.Joint({"a": prior})


# -- where to start ----------------------------------------------------------------------------------------------------


def test_the_start_of_a_gaussian_is_the_gaussian():
    density = UnnormalizedDensity(gaussian, Parameters.declare(2))
    (found,) = explore(density, 4, generator())
    assert found.converged
    assert torch.allclose(found.loc, torch.tensor([30.0, -5.0], dtype=F64), atol=1e-3)
    assert torch.allclose(found.root, torch.tensor([[2.0, 0.0], [3.0, 0.5]], dtype=F64), atol=1e-3)
    assert found.elbo == pytest.approx(LOG_Z, abs=1e-3)


def test_the_start_counts_the_log_det_of_a_support():
    def log_normal(x):  # standard normal in log x: the mode of x itself lies at exp(-1)
        return -0.5 * x[:, 0].log() ** 2 - x[:, 0].log()

    (found,) = explore(UnnormalizedDensity(log_normal, Parameters.declare(["a"], positive=["a"])), 2, generator())
    assert found.loc.item() == pytest.approx(0, abs=1e-4)
    assert found.elbo == pytest.approx(0.5 * math.log(2 * math.pi), abs=1e-4)


def test_hessians_by_autodiff_and_by_differences_agree():
    density = UnnormalizedDensity(lambda x: -(x[:, 0] ** 2 * x[:, 1]).exp(), Parameters.declare(2))
    u = torch.tensor([0.5, -0.7], dtype=F64)
    want = torch.autograd.functional.hessian(lambda v: density.free(v[None]).sum(), u)

    class Once(torch.autograd.Function):  # differentiable once only
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return -(x[:, 0] ** 2 * x[:, 1]).exp()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            e = (x[:, 0] ** 2 * x[:, 1]).exp()
            return -grad[:, None] * torch.stack([2 * x[:, 0] * x[:, 1] * e, x[:, 0] ** 2 * e], -1)

    once = UnnormalizedDensity(Once.apply, Parameters.declare(2))
    assert torch.allclose(hessian(density, u), want, atol=1e-10)
    assert torch.allclose(hessian(once, u), want, atol=1e-5)


def test_both_modes_are_found_with_their_shares():
    density = UnnormalizedDensity(two_modes, Parameters.declare(2))
    modes = explore(density, 8, generator())
    assert len(modes) == 2
    assert modes[0].point[0] > 0
    assert torch.allclose(mixture_weights(modes), torch.tensor([0.75, 0.25], dtype=F64), atol=1e-3)
    loc, root = moment_match(modes)
    assert torch.allclose(loc, torch.tensor([2.0, 2.0], dtype=F64), atol=1e-2)
    assert torch.allclose((root @ root.T)[0], torch.tensor([12.25, 12.0], dtype=F64), atol=1e-1)


def test_a_funnel_is_not_entered_to_its_end():
    def funnel(x):
        return Normal(0.0, 3.0).log_prob(x[:, 0]) + Normal(0.0, (x[:, :1] / 2).exp()).log_prob(x[:, 1:]).sum(-1)

    best = explore(UnnormalizedDensity(funnel, Parameters.declare(6)), 4, generator())[0]
    assert best.elbo > -3.0  # log Z = 0; the spike at the end of a path has an ELBO of minus thousands


# -- fits --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return fit_posterior(gaussian, {"a": "real", "b": "real"}, config=QUICK, draws=4000, starts=4)


def test_a_gaussian_is_found_exactly(fitted):
    found = fitted.diagnostics
    assert found.verdict == "good"
    assert -found.free_energy == pytest.approx(LOG_Z, abs=0.01)
    assert found.log_evidence == pytest.approx(LOG_Z, abs=max(4 * found.log_evidence_se, 1e-3))
    assert found.ess > 0.98 * 4000
    assert [m.covered for m in found.modes] == [True]
    assert abs(found.modes[0].deficit) < 0.1
    table = fitted.table()
    assert list(table.columns) == ["mean", "se", "sd", "q5", "median", "q95"]
    assert (table["mean"] - [30.0, -5.0]).abs().lt(5 * table["se"]).all()
    assert table["sd"].to_numpy() == pytest.approx([2.0, math.sqrt(9.25)], rel=0.05)
    assert table.loc["a", "q95"] == pytest.approx(30 + 2 * 1.645, abs=0.3)
    assert fitted.training["steps"] == 25  # nothing left to gain after one epoch
    assert fitted.training["stop_reason"] == "nothing left to gain"


def test_draws_densities_and_words(fitted):
    draws = fitted.sample(500, seed=1)
    assert draws.equals(fitted.sample(500, seed=1))
    assert list(draws.columns) == ["a", "b"]
    want = fitted.log_prob(draws)
    assert fitted.log_prob(torch.tensor(draws.to_numpy())) == pytest.approx(want)
    assert fitted.log_prob({"b": draws["b"], "a": draws["a"]}) == pytest.approx(want)
    assert gaussian(torch.tensor(draws.to_numpy())).numpy() - LOG_Z == pytest.approx(want, abs=0.3)
    weights = fitted.importance_weights(draws)
    assert weights.ess > 480
    assert fitted.importance_weights() is fitted.draws.weights
    for word in ("VariationalPosterior(a, b: good)", "free energy", "Pareto k", "effective draws", "verdict", "mean"):
        assert word in fitted.summary()
    assert abs(fitted.table("flow").loc["a", "mean"] - 30) < 0.5


def test_posteriors_refuse_what_they_cannot_do(fitted):
    with pytest.raises(ConfigError, match=r"lack the columns \['b'\]"):
        fitted.log_prob({"a": [1.0]})
    with pytest.raises(ShapeError, match=r"expected \(rows, 2\)"):
        fitted.log_prob(np.zeros((3, 4)))
    with pytest.raises(ConfigError, match="non-negative"):
        fitted.sample(-1)
    with pytest.raises(ConfigError, match="no chains"):
        fitted.table("chains")
    with pytest.raises(ConfigError, match="no source"):
        fitted.table("best")
    with pytest.raises(ConfigError, match="no method"):
        fitted.polish("gibbs")
    with pytest.raises(ConfigError, match="at least 2 chains"):
        fitted.polish(chains=1)


def test_supports_are_respected_and_constants_known():
    joint = bj.Joint({"g": Gamma(3.0, 2.0), "p": Beta(2.0, 5.0), "s": HalfNormal(2.0)})
    posterior = fit_posterior(joint, config=variational_config(epochs=3, batch_size=128), warn=False, **SPLINE)
    draws = posterior.sample(2000, seed=0)
    assert (draws > 0).to_numpy().all()
    assert (draws["p"] < 1).all()
    assert abs(posterior.diagnostics.log_evidence) < 4 * posterior.diagnostics.log_evidence_se + 0.02
    table = posterior.table()
    assert table["mean"].to_numpy() == pytest.approx([1.5, 2 / 7, 2 * math.sqrt(2 / math.pi)], rel=0.05)
    assert table["sd"].to_numpy() == pytest.approx([math.sqrt(3) / 2, 0.1597, 2 * math.sqrt(1 - 2 / math.pi)], rel=0.08)


@pytest.mark.parametrize("objective", ["forward", "alpha"])
def test_adaptive_importance_needs_no_gradient(objective):
    def through_numpy(x):
        return torch.from_numpy(-0.5 * ((x.detach().numpy() - 1.0) / 0.7) ** 2).sum(-1)

    config = variational_config(epochs=8, batch_size=256, lr=2e-2)
    with pytest.raises(FlowError, match=r"no gradient.*objective=\"forward\""):
        fit_posterior(through_numpy, 2, config=config)
    posterior = fit_posterior(through_numpy, 2, objective=objective, start="broad", config=config, **AFFINE)
    assert posterior.diagnostics.ess > 0.9 * 8192
    assert posterior.diagnostics.log_evidence == pytest.approx(math.log(2 * math.pi * 0.49), abs=0.02)


def half(x):  # x0 > x1, undeclared
    return torch.where(x[:, 0] > x[:, 1], -0.5 * x.square().sum(-1), -math.inf)


def test_a_density_that_ends_needs_its_support():
    with pytest.raises(NonFiniteError, match=r"-inf for \d+% of the draws at the start, such as x0.*forward"):
        fit_posterior(half, 2, config=QUICK)


@pytest.mark.slow
def test_the_forward_divergence_does_not_need_it():
    posterior = fit_posterior(
        half, 2, objective="forward", config=variational_config(epochs=6, batch_size=256), warn=False
    )
    assert posterior.diagnostics.outside > 0
    assert posterior.diagnostics.free_energy == math.inf
    assert posterior.diagnostics.log_evidence == pytest.approx(math.log(math.pi), abs=0.05)
    draws = posterior.sample(1000, corrected=True, seed=0)
    assert (draws["x0"] > draws["x1"]).all()


def test_two_modes_are_covered():
    config = variational_config(epochs=2, batch_size=256)
    posterior = fit_posterior(two_modes, 1, config=config, warn=False, starts=4, **SPLINE)
    assert len(posterior.diagnostics.modes) == 2
    assert not posterior.diagnostics.missed
    assert posterior.diagnostics.log_evidence == pytest.approx(0, abs=0.05)
    assert (posterior.sample(4000, corrected=True, seed=0)["x0"] < 0).mean() == pytest.approx(0.25, abs=0.05)


def test_a_missed_mode_is_seen_although_the_weights_are_perfect():
    density = UnnormalizedDensity(two_modes, Parameters.declare(2))
    modes = explore(density, 8, generator())
    flow = bj.Flow(bj.Whiten(2, modes[0].loc, modes[0].root), bj.StandardNormal(2)).double()
    with pytest.warns(ImportanceWarning, match="misses 1 of 2 modes"):
        _, found = diagnose(flow, density, modes, 4000, generator(), warn=True)
    assert found.khat <= found.khat_limit
    assert found.log_evidence == pytest.approx(math.log(0.75), abs=0.02)  # a quarter of the mass is lost silently
    assert found.verdict == "missed modes"
    assert "MISSED" in str(found)
    assert Diagnostics.from_dict(found.to_dict()) == found
    assert isinstance(found.modes[0], Mode)


def test_annealing_recipes_and_flows_of_your_own():
    config = variational_config(epochs=2, batch_size=64)
    for recipe in ("planar", "iaf", bj.real_nvp(2, layers=2, hidden=(8,))):
        posterior = fit_posterior(gaussian, 2, recipe=recipe, anneal=0.5, config=config, draws=1000)
        assert posterior.diagnostics.ess > 800
        assert posterior.training["steps"] == 50
    args = {"layers": 2, "hidden": (4,), "bins": 3}
    posterior = fit_posterior(gaussian, 2, recipe_args=args, config=config, draws=1000)
    assert posterior.diagnostics.verdict == "good"


# -- what is refused ---------------------------------------------------------------------------------------------------


def half_nan(x):
    return torch.where(x[:, 0] > 0, -x.square().sum(-1), math.nan)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: -x.square(), ShapeError, r"shape \(7, 2\) for 7 rows, expected \(7,\)"),
        (lambda x: -x.square().sum(), ShapeError, "not over rows"),
        (lambda x: 3.0, DtypeError, "must return a Tensor, got float"),
        (lambda x: x[:, 0] * math.nan, NonFiniteError, r"nan for 7 of 7 rows, first at x0=.*Declare the support"),
        (half_nan, NonFiniteError, "stable forms"),
        (lambda x: torch.full((len(x),), -math.inf, dtype=F64) + 0 * x[:, 0], NonFiniteError, "-inf at all 512 places"),
        (lambda x: -x.detach().square().sum(-1), FlowError, "no gradient"),
        (lambda x: torch.zeros(len(x), requires_grad=True) * 1.0, FlowError, "no gradient"),
        (lambda x: -(x - x.mean(0)).square().sum(-1), ShapeError, "depends on the other rows"),
    ],
)
def test_densities_that_are_refused(function, error, message):
    with pytest.raises(error, match=message):
        fit_posterior(function, 2, config=QUICK)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "declare the parameters"),
        ({"parameters": 2, "recipe": "nfs"}, "did you mean nsf"),
        ({"parameters": 2, "recipe": "glow"}, "for images"),
        ({"parameters": 3, "recipe": bj.real_nvp(2)}, "3 parameters"),
        ({"parameters": 2, "recipe": bj.real_nvp(2, 1)}, "reads a context"),
        ({"parameters": 2, "objective": "elbo"}, "no objective"),
        ({"parameters": 2, "anneal": 1.0}, "share in"),
        ({"parameters": 2, "draws": 3}, "at least 100"),
        ({"parameters": 2, "recipe_args": {"layer": 3}}, "layer"),
    ],
)
def test_settings_that_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        fit_posterior(lambda x: -x.square().sum(-1), config=QUICK, **kwargs)


def test_a_joint_needs_no_parameters_and_a_density_must_be_callable():
    with pytest.raises(ConfigError, match="leave `parameters` out"):
        fit_posterior(bj.Joint({"a": Normal(0.0, 1.0)}), 1)
    with pytest.raises(ConfigError, match="callable"):
        fit_posterior(3, 1)
    with pytest.raises(ConfigError, match="alpha must be positive"):
        bj.AlphaDivergence(gaussian, alpha=0.0)


# -- storage -----------------------------------------------------------------------------------------------------------


def test_a_posterior_comes_back(fitted, tmp_path):
    polished = fitted.polish("independence", chains=4, draws=50, thin=1)
    polished.save(tmp_path)
    again = bj.VariationalPosterior.load(tmp_path)
    assert repr(again) == repr(polished)
    assert again.diagnostics == polished.diagnostics
    assert again.training == polished.training
    pd.testing.assert_frame_equal(again.table(), polished.table())
    pd.testing.assert_frame_equal(again.table("weighted"), polished.table("weighted"))
    assert again.sample(5, seed=3).equals(polished.sample(5, seed=3))
    with pytest.raises(ConfigError, match="not stored"):
        again.polish()
    whole = bj.VariationalPosterior.load(tmp_path, log_density=gaussian)
    assert whole.polish("independence", chains=4, draws=20, thin=1).chains.draws.shape == (4, 20, 2)


def test_folders_that_hold_no_posterior(fitted, tmp_path):
    bj.save(bj.real_nvp(2), tmp_path / "flow")
    with pytest.raises(CheckpointError, match="not a posterior"):
        bj.VariationalPosterior.load(tmp_path / "flow")
    fitted.save(tmp_path / "run")
    (tmp_path / "run" / "draws.safetensors").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="cannot be read"):
        bj.VariationalPosterior.load(tmp_path / "run")

"""Score models against closed forms: likelihood, both samplers, conversions, the objective and its bound."""

import math

import pytest
import torch
from scipy.stats import kstest

import bijectory as bj
from bijectory.nets import (
    Cosine,
    Field,
    ProbabilityFlow,
    Straight,
    SubVariancePreserving,
    TimeMLP,
    VarianceExploding,
    VariancePreserving,
)
from bijectory.objectives import find_objective
from bijectory.testing import randomize

PATHS = [VariancePreserving(), SubVariancePreserving(), VarianceExploding(sigma_max=20.0)]
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
MEANS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)  # of a mixture of two equal normals
STD = 0.3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def column(t, z):
    return t.reshape((*t.shape, *(1,) * (z.dim() - t.dim()))) if t.dim() else t


class ExactScore(Field):
    """Score of the mixture's marginals on a path."""

    event_shape = (1,)

    def __init__(self, path) -> None:
        super().__init__()
        self.path = path

    def components(self, t, z):
        a, s = self.path.alpha(t), self.path.sigma(t)
        var = column(a.square() * STD**2 + s.square(), z)
        away = z - column(a, z) * MEANS.squeeze(-1).to(z)
        return var, away

    def forward(self, t, z, c=None):
        var, away = self.components(t, z)
        weights = (-away.square() / (2 * var)).softmax(-1)
        return -(weights * away).sum(-1, keepdim=True) / var

    def log_prob(self, t, z):
        var, away = self.components(t, z)
        return (-away.square() / (2 * var) - (2 * math.pi * var).log() / 2).logsumexp(-1) - math.log(2)

    def cdf(self, t):
        a, s = float(self.path.alpha(t)), float(self.path.sigma(t))
        scale = math.sqrt(a**2 * STD**2 + s**2)

        def value(z):
            z = torch.as_tensor(z).unsqueeze(-1)
            return torch.special.ndtr((z - a * MEANS.squeeze(-1)) / scale).mean(-1).numpy()

        return value


class Reading(Field):
    """What another model says, read as a network of its own: the score, the noise, ..."""

    def __init__(self, model, what) -> None:
        super().__init__()
        self.model, self.what, self.event_shape = model, what, model.event_shape

    def forward(self, t, z, c=None):
        if self.what != "v":
            return getattr(self.model, {"data": "denoised"}.get(self.what, self.what))(t, z, c)
        a, s = self.model.schedule.alpha(t), self.model.schedule.sigma(t)
        size = (a.square() + s.square()).sqrt()
        z = z * column(size, z)
        turned = column(a, z) * self.model.noise(t, z, c) - column(s, z) * self.model.denoised(t, z, c)
        return turned / column(size, z)


class Gain(Field):
    """Prediction of the noise for normal data of deviation ``std`` by a model that believes in ``believed``."""

    event_shape = (1,)

    def __init__(self, path, believed) -> None:
        super().__init__()
        self.path, self.log_std = path, torch.nn.Parameter(torch.tensor(math.log(believed), dtype=torch.float64))

    def forward(self, t, z, c=None):
        a, s = self.path.alpha(t), self.path.sigma(t)
        return column(s / (a.square() * (2 * self.log_std).exp() + s.square()), z) * z


def diffusion(field, steps=64, method="tsit5"):
    """The flow of a field on a path, whose base has the deviation of unit data at the path's end."""
    end = torch.tensor(1.0, dtype=torch.float64)
    size = math.hypot(float(field.schedule.alpha(end)), float(field.schedule.sigma(end)))
    n = field.event_shape[0]
    last = bj.Standardize(n, [0.0] * n, [size] * n)
    return bj.Flow(bj.Chain(bj.Continuous(field, method, steps), last), bj.StandardNormal(n)).double()


# -- the probability flow ----------------------------------------------------------------------------------------------


@each_path
def test_likelihood_of_the_exact_score_is_that_of_the_data(path):
    score = ExactScore(path)
    power = 1.0 if isinstance(path, VarianceExploding) else 2.0
    flow = diffusion(ProbabilityFlow(score, path, "score", power), 40)
    first, last = (torch.tensor(t, dtype=torch.float64) for t in (path.start, 1.0))
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    z, ladj = flow.transform[:1](x)
    assert (score.log_prob(last, z) + ladj - score.log_prob(first, x)).abs().max() < 2e-5
    # the base is a little off the marginal at the end, which shows far out only
    assert (flow.log_prob(x) - score.log_prob(first, x)).abs().mean() < 0.02


@pytest.mark.parametrize("what", ["v", "noise", "data", "score", "velocity"])
@each_path
def test_every_reading_of_one_model_has_the_same_likelihood(path, what):
    model = randomize(ProbabilityFlow(TimeMLP(2, hidden=(8,)), path, "velocity" if what == "v" else "v")).double()
    again = ProbabilityFlow(Reading(model, what), path, what)
    x = points(5, 2)
    want, got = diffusion(model, 8), diffusion(again, 8)
    torch.testing.assert_close(got.log_prob(x), want.log_prob(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got.to_data(x)[0], want.to_data(x)[0], rtol=1e-8, atol=1e-8)


def test_a_velocity_on_straight_lines_is_the_flow_matching_layer():
    net = randomize(TimeMLP(2, hidden=(8,))).double()
    plain = bj.Continuous(net)
    model = ProbabilityFlow(net, Straight(), "velocity")
    x = points(5, 2)
    for a, b in zip(bj.Continuous(model)(x), plain(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    backwards = bj.Continuous(ProbabilityFlow(Reading(model, "v"), Straight(), "v"))
    # the same field as a rotation in time: denoised and noise are 0/0 nowhere inside, and the ends are not visited
    torch.testing.assert_close(model.velocity(torch.tensor(0.3).double(), x), net(torch.tensor(0.3).double(), x))
    t = torch.tensor([0.2, 0.4, 0.5, 0.7, 0.9], dtype=torch.float64)
    torch.testing.assert_close(backwards.field.velocity(t, x), net(t, x))


@each_path
def test_divergence_in_closed_form(path):
    field = randomize(ProbabilityFlow(TimeMLP(3, 2, (8,)), path, "v", 2.0)).double()
    s, z, c = torch.rand(5, generator=seeded()).double(), points(5, 3), points(5, 2, seed=1)
    for k in range(5):
        v, trace = field.with_divergence(s[k], z[k], c[k])
        jacobian = torch.func.jacrev(lambda u, k=k: field(s[k], u, c[k]))(z[k])
        torch.testing.assert_close(trace, jacobian.trace())
        torch.testing.assert_close(v, field(s[k], z[k], c[k]))
    rows = field.with_divergence(s, z, c)[1]
    torch.testing.assert_close(rows[-1], trace)


def test_grid_of_times():
    field = ProbabilityFlow(TimeMLP(1), VariancePreserving(start=0.01), "v", 3.0)
    s = torch.linspace(0, 1, 7, dtype=torch.float64, requires_grad=True)
    t = field.time(s)
    assert t[[0, -1]].tolist() == pytest.approx([0.01, 1.0])
    torch.testing.assert_close(torch.autograd.grad(t.sum(), s)[0], field.pace(s))


def test_readings_that_divide_by_zero_are_refused():
    for predicts in ("noise", "score", "data"):
        with pytest.raises(bj.errors.ConfigError, match="divides by zero"):
            ProbabilityFlow(TimeMLP(2), Straight(), predicts)
    with pytest.raises(bj.errors.ConfigError, match="predicts"):
        ProbabilityFlow(TimeMLP(2), Cosine(), "epsilon")
    with pytest.raises(bj.errors.ConfigError, match="power"):
        ProbabilityFlow(TimeMLP(2), Cosine(), "v", 0.5)


# -- samplers ----------------------------------------------------------------------------------------------------------

SAMPLERS = {
    "ode": None,
    "euler": {"method": "euler", "steps": 400},
    "ancestral": {"steps": 200},
    "ddim": {"steps": 200, "stochasticity": 0.0},
    "corrected": {"steps": 100, "corrections": 1, "snr": 0.2},
    "half": {"method": "euler", "steps": 400, "stochasticity": 0.5},
}


@each_path
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_follow_the_data(path, sampler):
    score = ExactScore(path)
    power = 1.0 if isinstance(path, VarianceExploding) else 2.0
    flow = diffusion(ProbabilityFlow(score, path, "score", power), 32)
    n, settings = 3000, SAMPLERS[sampler]
    x = (
        flow.sample(n, generator=seeded(1))
        if settings is None
        else bj.sde_sample(flow, n, generator=seeded(1), **settings)
    )
    assert kstest(x.squeeze(-1).numpy(), score.cdf(torch.tensor(path.start))).statistic < 0.035  # 1.9 / sqrt(n)


def test_langevin_steps_keep_the_marginal():
    """At a first time with much noise, a Langevin step of the wrong size or temperature shows in the draws."""
    path = VariancePreserving(start=0.2)
    score = ExactScore(path)
    flow = diffusion(ProbabilityFlow(score, path, "score"))
    x = bj.sde_sample(flow, 20000, steps=60, corrections=5, snr=0.2, generator=seeded(1))
    assert kstest(x.squeeze(-1).numpy(), score.cdf(torch.tensor(0.2))).statistic < 0.014  # 2 / sqrt(n)


def test_draws_carry_contexts_and_layers_around_the_model():
    layer = bj.Elementwise(bj.Affine(), 2, 3, (8,))
    core = randomize(bj.score_sde(2, 3, hidden=(8,), steps=4))
    flow = bj.Flow(bj.Chain(layer, bj.Chain(core.transform)), core.base)
    c = torch.randn(7, 3, generator=seeded())
    a, b = (bj.sde_sample(flow, 5, c, steps=3, generator=seeded(2)) for _ in range(2))
    assert a.shape == (5, 7, 2)
    assert torch.equal(a, b)
    assert not a.requires_grad
    inner = bj.sde_sample(core, 5, c, steps=3, generator=seeded(2))
    assert torch.equal(a, layer.inverse(inner, c)[0])


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"method": "heun"}, {"corrections": -1}, {"snr": 0.0}, {"stochasticity": 1.5}],
)
def test_refused_settings_of_the_sampler(settings):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(settings))):
        bj.sde_sample(bj.score_sde(2), 1, **settings)


def test_a_flow_without_a_score_model_is_named():
    with pytest.raises(bj.errors.ConfigError, match="ProbabilityFlow"):
        bj.sde_sample(bj.cnf(2), 1)
    with pytest.raises(bj.errors.ConfigError, match="ProbabilityFlow"):
        bj.ScoreMatching()(bj.cnf(2), bj.Batch(torch.zeros(3, 2)))
    with pytest.raises(bj.errors.ConfigError, match="StandardNormal"):
        bj.ScoreMatching()(bj.StandardNormal(2), bj.Batch(torch.zeros(3, 2)))


# -- the objective -----------------------------------------------------------------------------------------------------


def believing(path, believed):
    return diffusion(ProbabilityFlow(Gain(path, believed), path, "noise"))


def gradients(path, believed, objective, blocks=20):
    flow = believing(path, believed)
    (p,) = flow.parameters()
    torch.manual_seed(0)
    g = [
        torch.autograd.grad(objective(flow, bj.Batch(0.7 * torch.randn(2000, 1, dtype=torch.float64))), p)[0]
        for _ in range(blocks)
    ]
    return torch.stack(g)


@pytest.mark.parametrize("weighting", ["likelihood", "sigma2", "v", "velocity"])
@each_path
def test_gradient_vanishes_at_the_true_score_and_nowhere_near(path, weighting):
    objective = bj.ScoreMatching(weighting)
    g = gradients(path, 0.7, objective)
    assert abs(g.mean()) < 4 * g.std() / len(g) ** 0.5
    low, high = (gradients(path, b, objective) for b in (0.5, 1.0))
    assert low.mean() < -4 * low.std() / len(low) ** 0.5
    assert high.mean() > 4 * high.std() / len(high) ** 0.5


def bound_in_closed_form(path, std, believed):
    """Entropy at the start, weighted error of the score on a fine grid, and divergence at the end."""
    u = torch.linspace(0, 1, 20001, dtype=torch.float64)
    t = path.start + (1 - path.start) * u**4
    a, s = path.alpha(t), path.sigma(t)
    var, wrong = (a.square() * k**2 + s.square() for k in (std, believed))
    error = (1 / wrong - 1 / var).square() * var  # E |score - true score|^2
    integral = torch.trapezoid(path.diffusion(t) / 2 * error, t)
    end = (a[-1].square() + s[-1].square()).item()  # variance of the base
    entropy = 0.5 * math.log(2 * math.pi * math.e * var[0].item())
    ratio = var[-1].item() / end
    return entropy + integral.item() + 0.5 * (ratio - 1 - math.log(ratio))


@pytest.mark.parametrize("times", ["log-ratio", "uniform"])
@each_path
def test_likelihood_weighting_is_the_bound(path, times):
    x = points(20000, 1)
    x = 0.7 * x / x.square().mean().sqrt()
    for believed in (0.7, 0.4, 1.2):
        flow = believing(path, believed).eval()
        torch.manual_seed(0)
        value = bj.ScoreMatching(times=times, eval_draws=16)(flow, bj.Batch(x)).item()
        assert value == pytest.approx(bound_in_closed_form(path, 0.7, believed), abs=0.05)
    # the model's own density is a normal of the believed deviation at the start
    first = torch.tensor(path.start, dtype=torch.float64)
    for believed in (0.4, 0.7, 1.2):
        a2, s2 = path.alpha(first).square().item(), path.sigma(first).square().item()
        var, own = a2 * 0.49 + s2, a2 * believed**2 + s2
        nll = 0.5 * math.log(2 * math.pi * own) + var / own / 2
        gap = bound_in_closed_form(path, 0.7, believed) - nll
        assert gap > -1e-3
        assert gap < 1e-2 or believed != 0.7, "tight where the score is right"


def test_uniform_and_importance_times_have_one_expectation():
    flow = bj.score_sde(2, hidden=(8,)).double().eval()
    x, values = points(2000, 2), []
    for times in ("uniform", "log-ratio"):
        torch.manual_seed(0)
        values.append(bj.ScoreMatching("sigma2", times, 40)(flow, bj.Batch(x)).item())
    assert values[0] == pytest.approx(values[1], rel=0.03)


def test_value_is_a_weighted_mean_and_trains_what_it_should():
    layer = bj.Elementwise(bj.Affine(), 2, 1, (4,))
    core = bj.score_sde(2, 1, hidden=(8,))
    flow = bj.Flow(bj.Chain(layer, core.transform), bj.DiagonalNormal(2))
    x, c = torch.randn(6, 2, generator=seeded()), torch.randn(6, 1, generator=seeded(1))
    for weighting, whole in (("likelihood", True), ("sigma2", False)):
        objective = bj.ScoreMatching(weighting)
        flow.zero_grad()
        torch.manual_seed(3)
        objective(flow, bj.Batch(x, c)).backward()
        assert all(p.grad is not None and p.grad.any() for p in core.parameters())
        assert all((p.grad is not None) == whole for p in (*layer.parameters(), *flow.base.parameters()))
        torch.manual_seed(3)
        first = objective(flow, bj.Batch(x, c, torch.tensor([1.0, 0, 0, 0, 0, 0])))
        torch.manual_seed(3)
        moved = x.clone()
        moved[1:] += 1
        assert torch.equal(objective(flow, bj.Batch(moved, c, torch.tensor([2.0, 0, 0, 0, 0, 0]))), first)


def test_evaluation_has_less_noise():
    flow = bj.score_sde(2, hidden=(8,))
    batch, spread = bj.Batch(torch.randn(64, 2, generator=seeded())), {}
    torch.manual_seed(0)
    for mode in (True, False):
        flow.train(mode)
        spread[mode] = torch.stack([bj.ScoreMatching()(flow, batch).detach() for _ in range(40)]).std().item()
    assert spread[False] < 0.7 * spread[True]


@pytest.mark.parametrize("settings", [{"weighting": "snr"}, {"times": "even"}, {"eval_draws": 0}])
def test_refused_settings_of_the_objective(settings):
    with pytest.raises(bj.errors.ConfigError, match=next(iter(settings))):
        bj.ScoreMatching(**settings)


# -- the recipe --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", ["vp", "sub_vp", "ve"])
def test_density_integrates_to_one_whatever_the_network(sde):
    flow = randomize(bj.score_sde(1, sde=sde, hidden=(8,), steps=48), scale=0.6).double()
    x = torch.linspace(-15, 15, 4001, dtype=torch.float64)
    mass = torch.trapezoid(flow.log_prob(x[:, None]).detach().exp(), x)
    assert mass.item() == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("sde", ["vp", "sub_vp", "ve"])
def test_a_fresh_model_is_the_standard_normal(sde):
    flow, x = bj.score_sde(2, sde=sde), torch.randn(5, 2, generator=seeded())
    torch.testing.assert_close(flow.log_prob(x), bj.StandardNormal(2).log_prob(x), atol=0.1, rtol=0)


def test_it_is_saved_and_loaded(tmp_path):
    flow = randomize(bj.score_sde(2, 1, sde="sub_vp", hidden=(8,), steps=2))
    bj.save(flow, tmp_path / "score")
    x, c = torch.randn(5, 2), torch.randn(5, 1)
    again = bj.load(tmp_path / "score")
    assert torch.equal(again.log_prob(x, c), flow.log_prob(x, c))
    assert "schedule=SubVariancePreserving" in repr(again)


def test_a_table_is_fitted_by_score_matching():
    x = points(600, 2).numpy()
    assert isinstance(find_objective("score_matching"), bj.ScoreMatching)
    fitted = bj.fit_table(
        {"a": 3 + x[:, 0], "b": x[:, 1] + x[:, 0]},
        recipe="score_sde",
        given=["a"],
        recipe_args={"hidden": (32, 32), "steps": 8},
        objective=bj.ScoreMatching("v"),
        config=bj.FitConfig(epochs=25, batch_size=64, progress=False, lr=5e-3),
        audit=False,
    )
    assert fitted.scores["test"]["log_likelihood"] > -1.7  # -1.42 is the truth, -1.9 without the given column
    drawn = fitted.model.sample(200, given={"a": [4.0]}, seed=0)
    assert drawn["b"].mean() == pytest.approx(0.9, abs=0.4)


@pytest.mark.slow
def test_score_and_flow_matching_models_trained_apart_agree_in_likelihood():
    """Two moons; one model learns v on a VP path, the other the velocity on straight lines."""
    target = bj.TwoMoons(0.15)
    rows, held = (target.sample(n, generator=seeded(n)) for n in (4000, 1000))
    mean, std = rows.mean(0), rows.std(0)
    straight = bj.Continuous(ProbabilityFlow(TimeMLP(2, 0, (128, 128), "silu", 4), Straight(), "v"), steps=32)
    models = {"likelihood": bj.score_sde(2), "velocity": bj.Flow(straight, bj.StandardNormal(2))}
    found = {}
    for weighting, flow in models.items():
        config = bj.FitConfig(epochs=150, batch_size=512, lr=3e-3, ema_decay=0.99, patience=None, progress=False)
        bj.fit(flow, (rows - mean) / std, objective=bj.ScoreMatching(weighting), config=config)
        with torch.no_grad():
            found[weighting] = flow.log_prob((held - mean) / std) - std.log().sum()
    truth = target.log_prob(held).mean()
    gaps = {k: (truth - v.mean()).item() for k, v in found.items()}
    print({k: round(v, 3) for k, v in gaps.items()}, "nats below the truth")
    assert all(-0.05 < gap < 0.25 for gap in gaps.values())
    assert (found["likelihood"] - found["velocity"]).mean().abs() < 0.15

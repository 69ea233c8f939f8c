"""Flow matching: the minimiser in closed form, paths, times, weights, chains and contexts, reflow, and what is refused."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.errors import ConfigError, ContextError, ShapeError
from bijectory.nets import (
    Cosine,
    Field,
    Straight,
    SubVariancePreserving,
    TimeMLP,
    VarianceExploding,
    VariancePreserving,
)
from bijectory.nets.schedules import like
from bijectory.objectives import find_objective
from bijectory.objectives.matching import EVALUATION_PAIRS
from bijectory.objectives.times import stratified

F64 = torch.float64
MEAN, STD = torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)
PATHS = {
    "straight": bj.Interpolant(),
    "cosine": bj.Interpolant(Cosine()),
    "vp": bj.Interpolant(VariancePreserving()),
    "sub-vp": bj.Interpolant(SubVariancePreserving()),
    "ve": bj.Interpolant(VarianceExploding(0.1, 5.0)),
    "constant": bj.Interpolant(noise=bj.objectives.ConstantNoise(0.3)),
    "bridge": bj.Interpolant(noise=bj.objectives.BrownianBridge(0.7, margin=0.02)),
    "sine": bj.Interpolant(Cosine(), bj.objectives.SineSquared(0.5)),
}


class GaussianVelocity(Field):
    """The marginal velocity of normal data in closed form, plus an error that is linear in ``1, z, t, tz``."""

    def __init__(self, path):
        super().__init__()
        self.path, self.event_shape = path, (2,)
        self.error = nn.Parameter(torch.zeros(4, 2, dtype=F64))

    def forward(self, t, z, c=None):
        s, noise, t = self.path.schedule, self.path.noise, like(t, z)
        a, b = s.alpha(t), s.sigma(t)
        g = noise.width(t) if noise else torch.zeros_like(t)
        variance = a**2 * STD**2 + b**2 + g**2
        pull = (z - a * MEAN) / variance
        v = s.alpha_slope(t) * (MEAN + a * STD**2 * pull) + s.sigma_slope(t) * b * pull
        if noise:
            v = v + noise.slope(t) * g * pull
        one, late = self.error[0] + self.error[1] * z, self.error[2] + self.error[3] * z
        return v + one + t * late


class Scaled(bj.Density):
    """A normal base of another width."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.event_shape = scale, torch.Size((2,))

    def log_prob(self, x, c=None):
        raise NotImplementedError

    def rsample(self, shape=(), c=None, *, generator=None):
        return self.scale * torch.randn(*shape, 2, dtype=F64)


def gaussian_rows(n, seed):
    return MEAN + STD * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)


def velocity_flow(path):
    base = Scaled(5.0) if isinstance(path.schedule, VarianceExploding) else bj.StandardNormal(2).double()
    return bj.Flow(bj.Continuous(GaussianVelocity(path)), base)


def gradient_z(path, objective, weigh=None, batches=200, n=250):
    """Largest z-score of the mean gradient of the loss with respect to the error, at error 0."""
    torch.manual_seed(0)
    flow, gradients = velocity_flow(path), []
    for k in range(batches):
        x = gaussian_rows(n, k)
        batch = bj.Batch(x) if weigh is None else weigh(x)
        (g,) = torch.autograd.grad(objective(flow, batch), flow.transform.field.error)
        gradients.append(g)
    g = torch.stack(gradients)
    return float((g.mean(0) / (g.std(0) / batches**0.5)).abs().max())


@pytest.mark.parametrize("name", PATHS)
def test_the_minimiser_is_the_marginal_velocity(name):
    assert gradient_z(PATHS[name], bj.FlowMatching(PATHS[name])) < 4.5


def test_a_wrong_velocity_is_seen():
    wrong = bj.FlowMatching(bj.Interpolant(noise=bj.objectives.ConstantNoise(0.6)))  # the field is that of 0.3
    assert gradient_z(PATHS["constant"], wrong) > 8


@pytest.mark.parametrize("times", [bj.objectives.LogitNormalTimes(-0.5), bj.objectives.PowerTimes(2.0)])
def test_times_and_weighting_do_not_move_the_minimiser(times):
    assert gradient_z(Straight_(), bj.FlowMatching(times=times, weighting=lambda t: 1 + t)) < 4.5


def Straight_():
    return bj.Interpolant(Straight())


@pytest.mark.parametrize("coupling", [bj.objectives.Independent(), bj.SchrodingerBridge(100.0, block=64)])
def test_weights_make_rows_count(coupling):
    """Rows from a wider normal with importance weights are rows of the data."""

    def weigh(x):
        x = MEAN + (x - MEAN) * 1.3
        log_w = (-((x - MEAN) ** 2) / 2 * (1 / STD**2 - 1 / (1.3 * STD) ** 2)).sum(1)
        return bj.Batch(x, None, log_w.exp())

    batches = 60 if isinstance(coupling, bj.SchrodingerBridge) else 200
    assert gradient_z(Straight_(), bj.FlowMatching(coupling=coupling), weigh, batches) < 4.5
    assert (
        gradient_z(Straight_(), bj.FlowMatching(coupling=coupling), lambda x: weigh(x)._replace(weight=None), batches)
        > 8
    )


def test_weights_are_whole_rows():
    flow, x, w = bj.cnf(2), torch.randn(300, 2), torch.randint(0, 3, (300,)).float()
    for coupling in (bj.objectives.Independent(), bj.OptimalTransport()):
        objective = bj.FlowMatching(coupling=coupling)
        torch.manual_seed(0)
        weighted = torch.stack([objective(flow, bj.Batch(x, None, w)) for _ in range(40)])
        whole = torch.stack([objective(flow, bj.Batch(x.repeat_interleave(w.long(), 0))) for _ in range(40)])
        error = (weighted.std() ** 2 + whole.std() ** 2).sqrt() / 40**0.5
        assert abs(weighted.mean() - whole.mean()) < 5 * error + 0.02  # assignments of repeated rows differ a little


@pytest.mark.parametrize("name", [n for n in PATHS if n != "constant"])
def test_paths_join_the_ends(name):
    path = PATHS[name]
    x, e = torch.randn(6, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
    at = lambda t: path.at(torch.full((6,), t, dtype=F64), x, e)[0]
    start = 0.0 if path.noise else path.start
    leave = path.schedule.sigma(torch.tensor(start, dtype=F64)) / path.schedule.sigma(torch.ones((), dtype=F64))
    torch.testing.assert_close(at(start), x + leave * e, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(at(1.0), e + path.schedule.alpha(torch.ones((), dtype=F64)) * x, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", PATHS)
def test_velocities_are_slopes_of_paths(name):
    path, t = PATHS[name], torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    x, e = torch.randn(3, 2, dtype=F64), torch.randn(3, 2, dtype=F64)

    def at(t):
        torch.manual_seed(0)
        return path.at(t, x, e)

    slope = (at(t + 1e-5)[0] - at(t - 1e-5)[0]) / 2e-5
    torch.testing.assert_close(at(t)[1], slope, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    "times", [bj.objectives.UniformTimes(), bj.objectives.LogitNormalTimes(0.3, 0.7), bj.objectives.PowerTimes(0.5)]
)
def test_times_have_their_distribution(times):
    from scipy import stats

    t = times.quantile(stratified(4000, torch.zeros(1, dtype=F64)))
    assert bool(((t > 0) & (t < 1)).all())
    if isinstance(times, bj.objectives.LogitNormalTimes):
        known = stats.norm(0.3, 0.7).cdf(torch.logit(t).numpy())
    else:
        known = (t ** (1 / getattr(times, "power", 1.0))).numpy()
    assert stats.kstest(known, "uniform").statistic < 2 / 4000  # stratified: far below the 0.02 of independent times


def test_evaluation_repeats_itself_and_varies_little():
    flow, batch = bj.cnf(2).eval(), bj.Batch(torch.randn(64, 2))
    objective = bj.FlowMatching()
    losses = []
    for seed in (0, 0, *range(1, 20)):
        torch.manual_seed(seed)
        losses.append(float(objective(flow, batch).detach()))
    assert losses[0] == losses[1]
    flow.train()
    noisy = torch.stack([objective(flow, batch).detach() for _ in range(20)]).std()
    assert torch.tensor(losses[1:]).std() < 3 * noisy * (64 / EVALUATION_PAIRS) ** 0.5


def test_layers_before_the_continuous_one_are_kept():
    flow = bj.Flow(bj.Chain(bj.Chain(bj.ActNorm(2)), bj.Continuous(TimeMLP(2))), bj.StandardNormal(2))
    x = torch.randn(500, 2) * 100 + 50
    flow.initialize(x)
    loss = bj.FlowMatching()(flow, bj.Batch(x))
    assert loss < 3  # in standardised units
    loss.backward()
    assert all(p.grad is None for p in flow.transform[0].parameters())
    assert all(p.grad is not None for p in flow.transform[1].parameters())


def test_contexts_reach_field_base_and_embedding():
    base = bj.Flow(bj.Elementwise(bj.Affine(), 2, 3, (8,)), bj.StandardNormal(2))
    flow = bj.Flow(bj.Continuous(TimeMLP(2, 3)), base, nn.Linear(4, 3))
    flow(torch.zeros(2), torch.zeros(4))
    loss = bj.FlowMatching(coupling=bj.ConditionalOptimalTransport())(
        flow, bj.Batch(torch.randn(50, 2), torch.randn(50, 4))
    )
    loss.backward()
    assert flow.embed.weight.grad is not None
    assert flow.transform.field.net.layers[0].weight.grad is not None


def test_the_field_sees_the_context_of_its_row():
    """Where rows are their contexts and the base is a point, the velocity is minus the context: loss 0."""

    class Minus(Field):
        def __init__(self):
            super().__init__()
            self.event_shape, self.context, self.scale = (2,), 2, nn.Parameter(torch.ones(()))

        def forward(self, t, z, c=None):
            return -self.scale * c

    flow = bj.Flow(bj.Continuous(Minus()), bj.DiagonalNormal(2))
    with torch.no_grad():
        flow.base.log_scale.fill_(-20.0)
    rows = torch.randn(64, 2)
    for objective in (bj.FlowMatching(), bj.FlowMatching(coupling=bj.ConditionalOptimalTransport())):
        assert objective(flow, bj.Batch(rows, rows)) < 1e-6


def test_events_of_any_shape():
    class Still(Field):
        def __init__(self):
            super().__init__()
            self.event_shape, self.scale = (3, 2, 2), nn.Parameter(torch.zeros(()))

        def forward(self, t, z, c=None):
            return self.scale * z * like(t, z)

    flow = bj.Flow(bj.Continuous(Still()), bj.StandardNormal((3, 2, 2)))
    loss = bj.FlowMatching(coupling=bj.OptimalTransport())(flow, bj.Batch(torch.randn(8, 3, 2, 2)))
    assert loss.shape == ()
    assert bj.reflow(flow, 3).x.shape == (3, 2, 3, 2, 2)


def test_objectives_on_altered_batches_take_it_up():
    objective = bj.ContextDropout(0.5, objective=bj.NoisyData(0.1, bj.FlowMatching()))
    assert objective(bj.cnf(2, 1), bj.Batch(torch.zeros(9, 2), torch.ones(9, 1))).isfinite()


def test_names():
    assert find_objective("flow_matching") == bj.FlowMatching()
    assert find_objective("ot_flow_matching") == bj.FlowMatching(coupling=bj.ConditionalOptimalTransport())


# -- reflow ------------------------------------------------------------------------------------------------------------


def test_reflow_gives_ends_of_solutions_with_their_contexts():
    flow, c = bj.cnf(2, 1).double(), torch.randn(5, 1, dtype=F64)
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    pairs = bj.reflow(flow, 5, c)
    assert pairs.c.shape == (5, 1, 1)
    x, e = pairs.x.unbind(1)
    torch.testing.assert_close(flow.to_latent(x, c)[0], e, atol=1e-3, rtol=1e-3)
    loss = bj.FlowMatching(coupling=bj.Paired())(flow, pairs)
    assert loss.isfinite()


def test_straightness_is_that_of_the_closed_form():
    """A rotation of constant speed w: the chord of a solution from radius r is 2 r sin(w/2), the speed r w."""

    class Rotation(Field):
        def __init__(self, rate):
            super().__init__()
            self.event_shape, self.rate = (2,), nn.Parameter(torch.tensor(rate))

        def forward(self, t, z, c=None):
            return self.rate * torch.stack((-z[..., 1], z[..., 0]), -1)

    flow = bj.Flow(bj.Continuous(Rotation(1.5)), bj.StandardNormal(2))
    torch.manual_seed(0)
    expected = 2 * (1.5**2 - 4 * math.sin(0.75) ** 2)  # E r^2 = 2
    assert bj.straightness(flow, 20_000) == pytest.approx(expected, rel=0.03)
    assert bj.straightness(bj.Flow(bj.Continuous(Rotation(0.0)), bj.StandardNormal(2))) == 0


def trained(objective, data, *, flow=None, epochs=12):
    torch.manual_seed(0)
    flow = flow or bj.Flow(bj.Continuous(TimeMLP(2, 0, (64, 64), "silu")), bj.StandardNormal(2))
    config = bj.FitConfig(epochs=epochs, batch_size=256, lr=5e-3, ema_decay=0.99, patience=None, progress=False)
    return bj.fit(flow, data, objective=objective, config=config).model


def evaluations(flow, x):
    """Of the midpoint method, until the log-density is within 0.02 nats in the mean."""
    solve = lambda **solver: bj.Flow(bj.Continuous(flow.transform.field, **solver), flow.base).log_prob(x)
    with torch.no_grad():
        exact = solve(steps=64)
        for steps in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
            if (solve(method="midpoint", steps=steps) - exact).abs().mean() < 0.02:
                return 2 * steps
    return 200


@pytest.mark.slow
def test_transport_and_reflow_straighten_and_need_fewer_evaluations():
    target = bj.GaussianRing()
    g = torch.Generator().manual_seed(0)
    x, test = target.sample(10_000, generator=g), target.sample(1000, generator=g)
    scale = x.std()
    x, test = x / scale, test / scale
    independent = trained(bj.FlowMatching(), x)
    transport = trained(bj.FlowMatching(coupling=bj.OptimalTransport()), x)
    again = trained(
        bj.FlowMatching(coupling=bj.Paired()), tuple(bj.reflow(independent, 10_000)), flow=copy.deepcopy(independent)
    )
    assert bj.straightness(transport) < 0.5 * bj.straightness(independent)
    assert bj.straightness(again) < 0.5 * bj.straightness(independent)
    assert evaluations(transport, test) < evaluations(independent, test)
    assert evaluations(again, test) < evaluations(independent, test)


@pytest.mark.parametrize("coupling", [bj.objectives.Independent(), bj.OptimalTransport()])
@pytest.mark.slow
def test_likelihood_nears_the_truth_though_nobody_computed_it(coupling):
    target = bj.Banana()
    g = torch.Generator().manual_seed(0)
    x, test = target.sample(10_000, generator=g), target.sample(2000, generator=g)
    mean, scale = x.mean(0), x.std(0)
    flow = trained(bj.FlowMatching(coupling=coupling), (x - mean) / scale)
    with torch.no_grad():
        gap = target.log_prob(test) + scale.log().sum() - flow.log_prob((test - mean) / scale)  # nats lost
    assert -0.02 < gap.mean() < 0.1


# -- what is refused ---------------------------------------------------------------------------------------------------


class Unsampled(bj.StandardNormal):
    def sample(self, shape=(), c=None, *, generator=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        (lambda: bj.StandardNormal(2), "trains a Flow, got StandardNormal"),
        (lambda: bj.maf(2), "one Continuous layer"),
        (lambda: bj.ffjord(2), r"\['Continuous', 'Continuous'\]"),
        (lambda: bj.Flow(bj.Chain(bj.Continuous(TimeMLP(2)), bj.LU(2)), bj.StandardNormal(2)), "at the end"),
        (lambda: bj.Flow(bj.Inverse(bj.Continuous(TimeMLP(2))), bj.StandardNormal(2)), r"\['Inverse'\]"),
        (lambda: bj.Flow(bj.Continuous(TimeMLP(2)), Unsampled(2)), "Unsampled cannot be drawn from"),
    ],
)
def test_flows_that_cannot_be_matched_are_refused(flow, words):
    with pytest.raises(ConfigError, match=words):
        bj.FlowMatching()(flow(), bj.Batch(torch.zeros(4, 2)))


def test_rows_that_do_not_fit_are_refused():
    flow, paired = bj.cnf(2), bj.FlowMatching(coupling=bj.Paired())
    with pytest.raises(ShapeError, match=r"pairs of data and base have \(4, 2, 2\), see reflow"):
        paired(flow, bj.Batch(torch.zeros(4, 2)))
    with pytest.raises(ShapeError, match=r"pairs of data and base have \(4, 2, 2\)"):
        paired(flow, bj.Batch(torch.zeros(4, 3, 2)))
    with pytest.raises(ShapeError, match="contexts of pairs"):
        paired(bj.cnf(2, 1), bj.Batch(torch.zeros(4, 2, 2), torch.zeros(4, 1)))
    with pytest.raises(ShapeError, match="3 features"):
        bj.FlowMatching()(flow, bj.Batch(torch.zeros(4, 3)))
    with pytest.raises(ContextError, match="context=1 but got"):
        bj.FlowMatching()(bj.cnf(2, 1), bj.Batch(torch.zeros(4, 2)))
    with pytest.raises(ContextError, match="same rows"):
        bj.FlowMatching()(bj.cnf(2, 1), bj.Batch(torch.zeros(4, 2), torch.zeros(3, 1)))
    with pytest.raises(ContextError, match="expected 3"):
        bj.reflow(bj.cnf(2, 1), 3, torch.zeros(2, 1))
    with pytest.raises(ConfigError, match="rows must be"):
        bj.reflow(flow, 0)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (bj.objectives.ConstantNoise, {"sigma": 0.0}),
        (bj.objectives.SineSquared, {"sigma": math.inf}),
        (bj.objectives.BrownianBridge, {"margin": 0.5}),
        (bj.objectives.LogitNormalTimes, {"std": 0.0}),
        (bj.objectives.PowerTimes, {"power": -1.0}),
        (bj.OptimalTransport, {"block": 0}),
        (bj.ConditionalOptimalTransport, {"weight": -1.0}),
        (bj.SchrodingerBridge, {"sigma": 0.0}),
    ],
)
def test_ranges_are_checked(build, arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        build(**arguments)
    assert dataclasses.is_dataclass(build)

"""Continuous flows: closed forms, SciPy as oracle, every gradient, adaptive rows, estimates with their error."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import t as student
from torch.func import jacrev

import bijectory as bj
import bijectory.ops.divergence
from bijectory.nets import Field, Prepared, Redrawn, TimeMLP
from bijectory.ops.divergence import probes
from bijectory.ops.ode import adaptive
from bijectory.testing import randomize


def points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(features=2, context=0, hidden=(8,), scale=0.5, **keywords):
    """A layer with weights of some size, and the frequencies of the default."""
    return randomize(bj.Continuous(TimeMLP(features, context, hidden), **keywords), scale=scale).double()


class Sheet(Field):
    """A field of events (2, 2) without a closed form of its own."""

    event_shape = (2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(4) + 0.3)

    def forward(self, t, z, c=None):
        t = t.reshape((*t.shape, *(1,) * (z.dim() - 2 - t.dim()), 1))
        return (torch.tanh(z.flatten(-2) @ self.weight) * (1 + t)).unflatten(-1, (2, 2))


@pytest.mark.parametrize("features", [1, 2, 6, 64])
def test_linear_field_in_closed_form_with_default_settings(features):
    """z(1) = exp(A) x, log|det| = tr A, for a matrix of norm 1."""
    a = points(features, features)
    a = a / torch.linalg.matrix_norm(a, 2)
    field = TimeMLP(features, hidden=()).double()
    with torch.no_grad():
        field.net.head.weight.copy_(a)
        field.net.head.bias.zero_()
        field.time_weight.zero_()
    flow = bj.Flow(bj.Continuous(field), bj.StandardNormal(features))
    x = points(5, features)
    z, ladj = flow.to_latent(x)
    assert (z - x @ torch.matrix_exp(a).mT).abs().max() < 1e-6
    assert (ladj - a.trace()).abs().max() < 1e-12
    shape = torch.matrix_exp(a)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(features, dtype=x.dtype), precision_matrix=shape.mT @ shape
    )
    assert (flow.log_prob(x) - exact.log_prob(x)).abs().max() < 1e-6
    assert (flow.to_data(z)[0] - x).abs().max() < 1e-6


@pytest.mark.parametrize("steps", [16, None])
def test_against_scipy(steps):
    layer, x = trained(hidden=(8, 8), steps=steps, rtol=1e-8, atol=1e-8), points(4, 2)

    def slope(t, y):
        v, trace = layer.field.with_divergence(torch.tensor(t, dtype=x.dtype), torch.tensor(y[:2]))
        return np.array([*v.tolist(), trace.item()])

    z, ladj = layer(x)
    for k in range(4):
        y = solve_ivp(slope, (0, 1), [*x[k].tolist(), 0.0], method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
        assert [*z[k].tolist(), ladj[k].item()] == pytest.approx(y, abs=1e-6)


@pytest.mark.parametrize("settings", [{"steps": 16}, {"steps": None}], ids=["fixed", "adaptive"])
def test_log_determinant_against_autodiff(settings):
    """Exact trace at a tolerance of 1e-6: within 1e-5."""
    layer, x = trained(context=2, **settings), points(3, 2)
    c = points(3, 2, seed=1)
    for call in (layer.forward, layer.inverse):
        _, ladj = call(x, c)
        for k in range(3):
            jacobian = jacrev(lambda v, call=call, k=k: call(v, c[k])[0])(x[k])
            assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-5)


def test_error_falls_with_the_order_of_the_method():
    x = points(8, 2)
    error = []
    for steps in (4, 8):
        layer = trained(method="rk4", steps=steps)
        error.append((layer.inverse(layer(x)[0])[0] - x).norm())
    assert 2**3 < error[0] / error[1] < 2**6


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
@pytest.mark.parametrize("steps", [8, None])
def test_gradients_agree(trace, steps):
    x, c, grads = points(1, 2), points(1, 3, seed=1), {}
    modes = ("solver", "checkpoint", "adjoint", *(["reversible"] if steps else []))
    # The basis of Hutch++ bends, which the adjoint sees only as well as the grid does.
    grid = 16 if steps and trace == "hutch++" else steps
    for gradient in modes:
        layer = trained(
            2, 3, gradient=gradient, method="tsit5", steps=grid, trace=trace, probes=2, rtol=1e-7, atol=1e-7
        )
        leaves = [x.clone().requires_grad_(), c.clone().requires_grad_(), *layer.parameters()]
        z, ladj = layer(*leaves[:2])
        first = torch.autograd.grad(z.sin().sum() + ladj.sin().sum(), leaves, create_graph=True)
        score = sum(g.square().sum() for g in first)
        grads[gradient] = *first, *torch.autograd.grad(score, leaves)
    for other in modes[1:]:
        for a, b in zip(grads["solver"], grads[other], strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-5 * (1 + a.abs().max().item()))


@pytest.mark.parametrize("gradient", ["solver", "adjoint"])
def test_gradients_reach_a_field_without_a_preparation_of_its_own(gradient):
    layer = bj.Continuous(Sheet(), gradient=gradient, steps=12).double()
    x = points(3, 2, 2).requires_grad_()
    z, ladj = layer(x)
    got = torch.autograd.grad(z.sin().sum() + ladj.sum(), (x, layer.field.weight))
    plain = bj.Continuous(Sheet(), steps=24).double()
    z, ladj = plain(x)
    want = torch.autograd.grad(z.sin().sum() + ladj.sum(), (x, plain.field.weight))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4), (5, 4, 3)])
def test_a_prepared_field_is_the_field(hidden):
    field = randomize(TimeMLP(2, 3, hidden), scale=0.8).double()
    t, z, c = points(4), points(4, 2, seed=1), points(4, 3, seed=2)
    for when in (t, t[0]):
        ready = field.prepare(c)
        assert isinstance(ready, Prepared)
        v, trace = ready.joint(when, z, *ready.tensors)
        for a, b in zip(field.with_divergence(when, z, c), (v, trace), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-14)
        alone = field.prepare(c, divergence=False)
        assert torch.allclose(alone.velocity(when, z, *alone.tensors), v, rtol=0, atol=1e-14)
        exact = bj.ops.divergence.exact(lambda z, when=when: field(when, z, c), z)[1]
        assert torch.allclose(trace, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (5, 4)])
@pytest.mark.parametrize("context", [0, 3])
def test_many_times_at_once_are_each_of_them(hidden, context, monkeypatch):
    field = randomize(TimeMLP(2, context, hidden, frequencies=2), scale=0.8).double()
    times, z, c = points(6), points(4, 2, seed=1), points(4, 3, seed=2) if context else None
    ready = field.prepare(c)
    rows = ready.clock(times, *ready.tensors)
    for t, row in zip(times, rows, strict=True):
        for a, b in zip(ready.joint(t, z, *ready.tensors), ready.clocked[1](row, z, *ready.tensors), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-14)
        assert torch.allclose(field(t, z, c), ready.clocked[0](row, z, *ready.tensors), rtol=0, atol=1e-14)
    asked, plain = [], TimeMLP._clock
    monkeypatch.setattr(TimeMLP, "_clock", lambda self, t, *tensors: asked.append(len(t)) or plain(self, t, *tensors))
    bj.Continuous(field, "rk4", 5)(z, c)
    assert asked == [20]


@pytest.mark.parametrize("steps", [8, None])
def test_the_map_alone_costs_no_trace(steps, monkeypatch):
    layer, x, c = trained(2, 3, steps=steps), points(4, 2), points(4, 3, seed=1)
    flow = bj.Flow(bj.Chain(layer, bj.Inverse(layer)), bj.StandardNormal(2))
    (z, _), (back, _) = layer(x, c), layer.inverse(x, c)
    monkeypatch.setattr(TimeMLP, "_joint", None)
    slack = 1e-14 if steps else 1e-5
    assert torch.allclose(layer.encode(x, c), z, rtol=0, atol=slack)
    assert torch.allclose(layer.decode(x, c), back, rtol=0, atol=slack)
    assert flow.float().sample(5, c.float()).shape == (5, 4, 2)


def test_evaluations_are_counted_row_by_row():
    x = torch.tensor([[0.1, 0.1], [3.0, -3.0], [torch.nan, 0.0]], dtype=torch.float64)
    fixed = trained(steps=5, method="rk4").evaluations(x)
    assert fixed.number.tolist() == [20, 20, 20]
    assert fixed.status.tolist() == [0, 0, 1]
    assert trained(steps=5, method="rk4", gradient="reversible").evaluations(x).number.tolist() == [40, 40, 40]
    layer = trained(scale=2.0, steps=None)
    free = layer.evaluations(x)
    assert free.status.tolist() == [0, 0, 1]
    assert len(set(free.number[:2].tolist())) == 2
    assert layer.evaluations(x[1]).number == free.number[1]
    assert torch.equal(layer.evaluations(x.flip(0)).number.flip(0), free.number)


def test_adaptive_rows_do_not_depend_on_their_batch():
    layer, x, c = trained(2, 3, scale=1.0, steps=None), points(6, 2), points(6, 3, seed=1)
    whole = layer(x, c)
    for a, b in zip(layer(x.flip(0), c.flip(0)), whole, strict=True):
        assert torch.allclose(a.flip(0), b, rtol=0, atol=1e-13)
    x[0] = torch.nan
    beside = layer(x, c)
    assert beside[0][0].isnan().all()
    assert torch.allclose(beside[0][1:], whole[0][1:], rtol=0, atol=1e-13)
    empty = layer(x[:0], c[:0])
    assert empty[0].shape == (0, 2)
    assert empty[1].shape == (0,)
    broadcast = layer(x[1], c)
    assert broadcast[0].shape == (6, 2)
    capped = trained(scale=3.0, steps=None, max_steps=1, rtol=1e-10, atol=1e-10)
    with pytest.raises(bj.errors.ConvergenceError, match="max_steps=1"):
        capped(x[1:])


@pytest.mark.parametrize("steps", [5, None])
def test_events_of_any_shape_without_a_closed_form(steps):
    layer = bj.Continuous(Sheet(), "dopri8", steps, rtol=1e-8, atol=1e-8).double()
    x = points(3, 2, 2)
    z, ladj = layer(x)
    for k in range(3):
        jacobian = jacrev(lambda v: layer(v)[0].flatten())(x[k]).flatten(1)
        assert torch.linalg.slogdet(jacobian).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-6)
    assert (layer.inverse(z)[0] - x).abs().max() < 1e-6
    torch._dynamo.reset()
    if steps:  # one short step, for the graph grows with their number
        short = bj.Continuous(Sheet(), "midpoint", 1).double()
        captured = torch.compile(short.forward, backend="eager", fullgraph=True)(x)
        assert torch.allclose(captured[1], short(x)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("trace", ["hutchinson", "hutch++"])
def test_estimates_come_with_a_standard_error_that_covers(trace):
    exact = trained(4, hidden=(8, 8), scale=1.0, steps=4)
    layer = trained(4, hidden=(8, 8), scale=1.0, trace=trace, probes=2, steps=4)
    assert exact.exact
    assert not layer.exact
    assert not bj.Flow(layer, bj.StandardNormal(4)).exact
    x = points(1, 4).expand(500, 4)
    want = exact(x[:1])[1]
    with torch.no_grad():
        estimate, error = layer.log_det(x, samples=20, generator=torch.Generator().manual_seed(0))
    assert 0.9 < ((estimate - want).abs() < student.ppf(0.975, 19) * error).double().mean() < 0.99
    assert (estimate.mean() - want).abs() < 4 * estimate.std() / 500**0.5
    same, none = exact.log_det(x[:2])
    assert torch.allclose(same, want)
    assert (none == 0).all()


def test_standard_error_of_a_flow_adds_up_its_layers():
    """A chain with one layer turned round: 500 intervals cover as they say, and their mean is unbiased."""
    exact, estimated = (
        bj.Chain(
            trained(3, 2, scale=1.0, trace=trace, steps=4),
            randomize(bj.Elementwise(bj.Affine(), 3)).double(),
            bj.Inverse(trained(3, 0, scale=1.0, trace=trace, steps=4)),
        )
        for trace in ("exact", "hutchinson")
    )
    exact, estimated = (bj.Flow(chain, bj.StandardNormal(3)) for chain in (exact, estimated))
    estimated.load_state_dict(exact.state_dict(), strict=False)
    x, c, generator = points(1, 3).expand(500, 3), points(2, seed=1), torch.Generator().manual_seed(0)
    before = [buffer.clone() for buffer in estimated.buffers()]
    mean, error = estimated.log_prob_and_error(x, c, samples=8, generator=generator)
    want = exact.log_prob(x[:1], c)
    assert 0.9 < ((mean - want).abs() < student.ppf(0.975, 7) * error).double().mean() < 0.99
    assert (mean.mean() - want).abs() < 3.5 * mean.std() / 500**0.5
    assert all(torch.equal(a, b) for a, b in zip(before, estimated.buffers(), strict=True))
    alone = estimated.transform[0].log_det(x, c, samples=8, generator=generator)[1]
    assert error.mean() > 1.05 * alone.mean(), "the other layer counts"
    again = [estimated.log_prob_and_error(x[:2], c, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0])
    value, none = exact.log_prob_and_error(x[:2], c)
    assert torch.equal(value, exact.log_prob(x[:2], c))
    assert not none.any()


@pytest.mark.parametrize("trace", ["exact", "hutchinson", "hutch++"])
def test_costs_of_a_path(trace):
    """On v = A z: the kinetic energy by a quadrature of |A exp(t A) x|^2, and the mean of |e A|^2 at all times."""
    field = TimeMLP(3, hidden=()).double()
    a, x = points(3, 3, seed=3) / 2, points(5, 3)
    with torch.no_grad():
        field.net.head.weight.copy_(a)
        field.net.head.bias.zero_()
        field.time_weight.zero_()
    layer = bj.Continuous(field, trace=trace, probes=4, steps=6).double()
    z, ladj, costs = layer.forward_with_costs(x, generator=torch.Generator().manual_seed(0))
    want = layer(x)
    assert torch.equal(z, want[0])
    assert torch.allclose(ladj, want[1], rtol=0, atol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    speeds = [(x @ torch.matrix_exp(t * a).mT @ a.mT).square().sum(-1) for t in (nodes + 1) / 2]
    kinetic = sum(w / 2 * speed for w, speed in zip(weights, speeds, strict=True))
    assert (costs["kinetic"] - kinetic).abs().max() < 1e-5
    if trace == "exact":
        e = probes((4, 5, 3), generator=torch.Generator().manual_seed(0)).double()
    else:
        e = layer._probes[: 2 if trace == "hutch++" else 4]
    assert torch.allclose(costs["jacobian"], (e @ a).square().sum(-1).mean(0).expand(5), rtol=1e-12)


def test_costs_add_along_a_chain_and_reach_the_weights():
    first, second = trained(2, 3, trace="hutchinson"), trained(2, 0, trace="hutchinson")
    scale = randomize(bj.Elementwise(bj.Affine(), 2)).double()
    x, c = points(4, 2), points(4, 3, seed=1)
    chain = bj.Chain(first, bj.Chain(scale, second))
    z, ladj, costs = bj.forward_with_costs(chain, x, c)
    middle, _, one = first.forward_with_costs(x, c)
    _, _, two = second.forward_with_costs(scale(middle)[0])
    want = chain(x, c)
    assert torch.allclose(z, want[0])
    assert torch.allclose(ladj, want[1])
    for name in ("kinetic", "jacobian"):
        assert torch.allclose(costs[name], one[name] + two[name])
        slopes = torch.autograd.grad(costs[name].sum(), list(first.field.parameters()), retain_graph=True)
        assert all(slope.isfinite().all() for slope in slopes)
        assert any(slope.abs().max() > 0 for slope in slopes)
    assert bj.forward_with_costs(scale, x)[2] == {}
    with pytest.raises(bj.errors.ConfigError, match="inside of Inverse"):
        bj.forward_with_costs(bj.Chain(bj.Inverse(second)), x)


def test_regularised_likelihood_is_what_it_says():
    flow = bj.Flow(trained(2, 3, trace="hutchinson"), bj.StandardNormal(2))
    batch = bj.Batch(points(6, 2), points(6, 3, seed=1), torch.tensor([0.0, 1.0, 1.0, 2.0, 0.0, 1.0]).double())
    costs = flow.transform.forward_with_costs(batch.x, batch.c)[2]
    mean = lambda v: (v * batch.weight).sum() / batch.weight.sum()
    want = bj.nll(flow, batch) + 0.3 * mean(costs["kinetic"]) + 0.7 * mean(costs["jacobian"])
    objective = bj.RegularizedLikelihood(0.3, 0.7)
    assert torch.allclose(objective(flow, batch), want)
    assert torch.equal(objective(flow.eval(), batch), bj.nll(flow, batch))
    with pytest.raises(bj.errors.ConfigError, match="kinetic"):
        bj.RegularizedLikelihood(-1.0)
    for hidden in (bj.planar(2, layers=1), bj.Flow(bj.Elementwise(bj.Affine(), 2), flow)):
        with pytest.raises(bj.errors.ConfigError, match="path"):
            objective(hidden.train(), bj.Batch(batch.x.float()))


def test_probes_are_fixed_until_they_are_redrawn():
    layer, x = trained(4, trace="hutchinson", probes=2), points(3, 4)
    first = layer(x)[1]
    assert torch.equal(layer(x)[1], first)
    layer.redraw(torch.Generator().manual_seed(5))
    assert not torch.equal(layer(x)[1], first)
    assert torch.allclose(layer.inverse(layer(x)[0])[1], -layer(x)[1], atol=1e-5)


def test_fit_lends_fresh_probes_to_every_step_and_resumes_exactly(tmp_path):
    seen = []

    def loss(model, batch):
        if model.training:
            seen.append(model.transform._probes.clone())
        return -model.log_prob(batch.x).mean()

    def flow():
        torch.manual_seed(0)
        return bj.Flow(bj.Continuous(TimeMLP(8, 0, (4,)), "rk4", 1, trace="hutchinson"), bj.StandardNormal(8))

    x, first = points(60, 8).float(), flow()
    before = first.transform._probes.clone()
    assert isinstance(first.transform, Redrawn)
    config = bj.FitConfig(epochs=3, batch_size=20, progress=False)
    bj.fit(first, x, objective=loss, config=config)
    assert torch.equal(first.transform._probes, before), "what is validated and saved is the layer as it was built"
    assert len({tuple(p.flatten().tolist()) for p in seen}) == len(seen) >= 6
    whole = list(seen)

    class Stop(bj.training.Callback):
        def on_step(self, run):
            return run.step == 4

    seen.clear()
    part = config.replace(out=tmp_path / "run")
    bj.fit(flow(), x, objective=loss, config=part, callbacks=[Stop()])
    again = bj.fit(flow(), x, objective=loss, config=part.replace(resume=True))
    for a, b in zip(seen, whole, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(again.model.parameters(), first.parameters(), strict=True):
        assert torch.equal(a, b)


def test_hybrid_with_discrete_layers_is_saved_and_loaded(tmp_path):
    coupling = bj.Coupling(bj.Affine(), (True, False), 3, hidden=(8,))
    layers = (coupling, bj.Continuous(TimeMLP(2, 3, (8,))), bj.Inverse(bj.Continuous(TimeMLP(2, 0, (8,)), "rk4")))
    flow = randomize(bj.Flow(bj.Chain(*layers), bj.StandardNormal(2)))
    x, c = points(5, 2).float(), points(5, 3).float()
    bj.save(flow, tmp_path / "hybrid")
    assert torch.equal(bj.load(tmp_path / "hybrid").log_prob(x, c), flow.log_prob(x, c))
    assert (flow.to_data(*(flow.to_latent(x, c)[0], c))[0] - x).abs().max() < 1e-4


@pytest.mark.parametrize(
    "keywords",
    [
        {"steps": 0},
        {"trace": "none"},
        {"probes": 0},
        {"trace": "hutch++", "probes": 1},
        {"gradient": "magic"},
        {"method": "rk5"},
        {"method": "rk4", "steps": None},
        {"gradient": "reversible", "steps": None},
    ],
)
def test_refused_settings(keywords):
    with pytest.raises(bj.errors.ConfigError):
        bj.Continuous(TimeMLP(2), **keywords)


@pytest.mark.slow
def test_regularised_training_makes_paths_cheaper_at_equal_likelihood():
    """Two moons: less kinetic energy, fewer evaluations of an adaptive solver."""
    make = lambda n, seed: bj.TwoMoons().sample(n, generator=torch.Generator().manual_seed(seed))
    x, test = make(2048, 0), make(1000, 1)
    found = []
    for objective in (bj.nll, bj.RegularizedLikelihood()):
        torch.manual_seed(0)
        flow = bj.rnode(2, hidden=(32, 32), activation="tanh")
        optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, 1000)
        for _ in range(1000):
            loss = objective(flow, bj.Batch(x[torch.randint(len(x), (128,))]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            field, layer = flow.transform.field, flow.transform
            slope = lambda t, y, field=field: field.with_divergence(t, y[0])
            solution = adaptive(slope, (test, test.new_zeros(1000)), rtol=1e-5, atol=1e-5, batch_dim=1)
            likelihood = (flow.base.log_prob(solution.y[0]) + solution.y[1]).mean()
            kinetic = layer.forward_with_costs(test)[2]["kinetic"].mean()
        found.append((likelihood, kinetic, solution.evaluations.double().mean()))
    plain, regular = found
    assert abs(regular[0] - plain[0]) < 0.05
    assert regular[1] < 0.8 * plain[1]
    assert regular[2] < plain[2]

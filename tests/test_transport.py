"""Paths of optimal transport, hybrids, and continuous flows of images: what the laws do not say."""

import math

import pytest
import torch

import bijectory as bj
from bijectory.nets import Potential, TimeMLP
from bijectory.objectives import Batch, find_objective, follow, nll
from bijectory.recipes import find_recipe
from bijectory.testing import randomize


def points(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(flow, scale=0.5):
    return randomize(flow, scale=scale).double()


def path(layer, x, c, points):
    """The integrals by a trapezoid over many short solutions: nothing of the joint solve."""
    transport, residual = [], []
    times = torch.linspace(0, 1, points, dtype=x.dtype)
    for k, t in enumerate(times):
        if k:
            h = times[k] - times[k - 1]
            mid = x + h / 2 * layer.field(times[k - 1], x, c)
            x = x + h * layer.field(times[k - 1] + h / 2, mid, c)
        transport.append(layer.field(t, x, c).square().sum(-1) / 2)
        residual.append(layer.field.with_costs(t, x, c)[2].abs())
    return torch.trapezoid(torch.stack(transport), times, dim=0), torch.trapezoid(torch.stack(residual), times, dim=0)


@pytest.mark.parametrize("steps", [32, None])
def test_costs_are_the_integrals_along_the_path(steps):
    layer = trained(bj.Continuous(Potential(2, 3, 8), steps=steps, rtol=1e-8, atol=1e-8))
    x, c = points(4, 2), points(4, 3, seed=1)
    with torch.no_grad():
        z, ladj, transport, residual = follow(layer, x, c)
        want = path(layer, x, c, 150)
    for a, b in zip((z, ladj), layer(x, c), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(transport, want[0], rtol=2e-3)
    assert torch.allclose(residual, want[1], rtol=5e-3, atol=1e-3)
    assert (transport > 0).all()


def test_straight_paths_at_constant_speed_solve_the_equation():
    """The potential of a translation, -a z + a² t / 2, has no residual, and a transport cost of a² / 2."""
    field = Potential(2, hidden=4).double()
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    with torch.no_grad():
        for p in field.parameters():
            p.zero_()
        field.slope.copy_(-a)
        field.slope_time.copy_(a.square().sum() / 2)
    z, ladj, transport, residual = follow(bj.Continuous(field), points(3, 2))
    assert torch.allclose(z, points(3, 2) + a)
    assert torch.allclose(transport, torch.full((3,), 2.5, dtype=torch.float64))
    assert residual.abs().max() < 1e-12
    assert ladj.abs().max() < 1e-12


def test_objective_adds_weighted_costs_in_training_only():
    x, c, weight = points(6, 2), points(6, 3, seed=1), torch.rand(6, dtype=torch.float64)
    discrete = bj.Coupling(bj.Affine(), (True, False), 3, hidden=(8,))
    layers = bj.Continuous(Potential(2, 3, 8)), bj.Chain(discrete, bj.Continuous(TimeMLP(2, 0, (8,))))
    flow = trained(bj.Flow(bj.Chain(*layers), bj.DiagonalNormal(2, 3, (8,))))
    batch = Batch(x, c, weight)
    first = follow(layers[0], x, c)
    second = follow(layers[1][1], discrete(first[0], c)[0])
    assert (second[3] == 0).all(), "a field without a potential has no residual"
    extra = 0.5 * (first[2] + second[2]) + 2.0 * first[3]
    want = nll(flow, batch) + (weight * extra).sum() / weight.sum()
    loss = bj.TransportRegularized(0.5, 2.0)
    assert torch.allclose(loss(flow, batch), want)
    assert torch.equal(loss(flow.eval(), batch), nll(flow, batch))
    assert torch.allclose(bj.TransportRegularized(0.0, 0.0)(flow.train(), batch), nll(flow, batch))
    loss(flow, batch).backward()
    assert layers[0].field.slope_time.grad.abs() > 0, "the equation says how the potential moves in time"


def test_context_embedding_is_applied_once():
    flow = bj.otflow(2, 3, hidden=8)
    embedded = bj.Flow(flow.transform, flow.base, torch.nn.Linear(5, 3)).double()
    loss = bj.TransportRegularized(0.0, 0.0)
    batch = Batch(points(4, 2), points(4, 5, seed=1))
    assert torch.allclose(loss(embedded, batch), nll(embedded, batch))


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (lambda: bj.real_nvp(2), bj.errors.ConfigError, "no path"),
        (lambda: bj.ffjord(2, trace="hutchinson"), bj.errors.ConfigError, "exact"),
        (lambda: bj.StandardNormal(2), bj.errors.DtypeError, "Flow"),
    ],
)
def test_refused_models(model, error, match):
    with pytest.raises(error, match=match):
        bj.TransportRegularized()(model(), Batch(torch.zeros(3, 2)))


@pytest.mark.parametrize("keywords", [{"transport": -1.0}, {"hjb": math.nan}])
def test_refused_weights(keywords):
    with pytest.raises(bj.errors.ConfigError):
        bj.TransportRegularized(**keywords)


def test_otflow_asks_for_its_objective_and_its_paths_get_cheaper():
    assert isinstance(find_objective(find_recipe("otflow").objective), bj.TransportRegularized)
    x, cost = bj.TwoMoons().sample(256, generator=torch.Generator().manual_seed(0)), {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        flow = bj.otflow(2, hidden=16, steps=4)
        config = bj.FitConfig(epochs=8, lr=1e-2, batch_size=64, progress=False)
        bj.fit(flow, x, objective=bj.TransportRegularized(weight, weight), config=config)
        with torch.no_grad():
            cost[weight] = follow(flow.transform, x)[3].mean()
    assert cost[1.0] < cost[0.0] / 2


@pytest.mark.parametrize(("features", "context"), [(1, 0), (2, 3), (5, 0)])
def test_hybrids_alternate_and_invert(features, context):
    flow = trained(bj.hybrid(features, context, steps=16), 0.3)
    kinds = [type(t) for t in flow.transform]
    discrete = bj.Elementwise if features == 1 else bj.Coupling
    order = [k for k in kinds if k in (bj.Continuous, discrete)][-6:]
    assert order == [discrete, discrete, bj.Continuous] * 2
    x = points(8, features)
    c = points(8, context, seed=1) if context else None
    z, ladj = flow.to_latent(x, c)
    back, other = flow.to_data(z, c)
    assert (back - x).abs().max() < 1e-6
    assert (ladj + other).abs().max() < 1e-6
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("name", ["ffjord_image", "cnf_image"])
def test_images_train_with_fresh_probes_and_are_judged_by_the_same(name):
    small = {"hidden": 4, "groups": 2} if name == "cnf_image" else {"hidden": 4}
    torch.manual_seed(0)
    flow = getattr(bj, name)((1, 4, 4), 2, levels=4, method="rk4", steps=1, **small)
    assert not flow.exact
    probes = [m._probes for m in flow.modules() if isinstance(m, bj.Continuous)]
    before, seen, judged = [p.clone() for p in probes], [], []

    def watched(model, batch):
        (seen if model.training else judged).append(probes[0].clone())
        return bj.nll(model, batch)

    x = 4 * torch.rand(24, 1, 4, 4)
    data = (x, torch.eye(2)[torch.arange(24) % 2])
    bj.fit(flow, data, objective=watched, config=bj.FitConfig(epochs=2, batch_size=8, progress=False))
    assert len({tuple(p.flatten().tolist()) for p in seen}) == len(seen) == 6, "every step has its own"
    assert judged
    assert all(torch.equal(p, before[0]) for p in (*judged, probes[0])), (
        "validation and the model have those it came with"
    )
    assert flow.log_prob(*data).isfinite().all()
    z, _ = flow.to_latent(*data)
    assert (flow.to_data(z, data[1])[0] - x).abs().max() < 1e-2


def test_images_that_do_not_fit_are_refused_by_name():
    with pytest.raises(bj.errors.ConfigError, match="divisible"):
        bj.ffjord_image((1, 5, 7))
    with pytest.raises(bj.errors.ConfigError, match="fewer multipliers"):
        bj.cnf_image((1, 2, 8))
    assert bj.cnf_image((2, 5, 7), hidden=8).event_shape == (2, 5, 7)

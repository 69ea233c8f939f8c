"""Residual layers: log-determinants exact and estimated, the fixed-point inverse, its gradients, the recipes."""

import math

import pytest
import torch
from torch.func import jacrev

import bijectory as bj
from bijectory.errors import ConfigError, ConvergenceError
from bijectory.nets import Contraction, LipschitzDense, LipschitzDenseNet, LipschitzNet
from bijectory.ops import series
from bijectory.ops.contraction import attach, contraction_inverse, linear_solve, steps_needed
from bijectory.testing import randomize


def layer(shape=(4,), context=0, lipschitz=0.9, dtype=torch.float64, scale=1.0, **keywords):
    built = randomize(bj.Residual(LipschitzNet(shape, context, (16, 16), lipschitz), **keywords), 1, scale)
    return built.to(dtype)


def true_log_det(residual, x):
    jac = [jacrev(lambda v: residual.net(v).flatten())(row).flatten(1) for row in x]
    j = torch.stack(jac)
    return torch.linalg.slogdet(torch.eye(j.shape[-1], dtype=j.dtype) + j).logabsdet


# -- exact mode --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [LipschitzNet, LipschitzDenseNet])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exact_figures_at_eight_dimensions(build, seed):
    """Row 11 of the targets: log-det within 1e-6 of autodiff, round trip within 1e-5 in float32."""
    wide = randomize(bj.Residual(build((8,), 0, (32, 32), 0.9)), seed, 1.0).double()
    for act in wide.net.activations:
        torch.nn.init.constant_(act.beta, 8.0)  # curved: the Jacobian is far from a constant
    for k, m in enumerate(m for m in wide.net.modules() if isinstance(m, LipschitzDense)):
        torch.nn.init.orthogonal_(m.weight, generator=torch.Generator().manual_seed(10 * seed + k))  # and not small
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z, ladj = wide(x)
    want = true_log_det(wide, x)
    assert ladj.abs().max() > 0.1, "a map that does nothing shows nothing"
    assert (ladj - want).abs().max() <= 1e-12
    assert (wide.inverse(z)[0] - x).abs().max() <= 1e-12
    narrow = wide.float()
    z, ladj = narrow(x.float())
    assert (ladj - want).abs().max() <= 1e-6
    assert (narrow.inverse(z)[0] - x).abs().max() <= 1e-5


def test_the_limit_of_automatic_exactness():
    assert bj.Residual(LipschitzNet((32,), hidden=(4,))).exact
    assert not bj.Residual(LipschitzNet((33,), hidden=(4,))).exact
    assert bj.Residual(LipschitzNet((33,), hidden=(4,)), "exact").exact
    assert not bj.Residual(LipschitzNet((2,), hidden=(4,)), "series").exact


# -- estimates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(5,), (2, 2, 2)])
def test_roulette_is_unbiased_and_its_error_calibrated(dims):
    """Many independent estimates: the mean within 4 standard errors, the scores as spread as a normal's."""
    roulette = layer(dims, lipschitz=0.8, ladj="roulette")
    x = torch.randn(8, *dims, dtype=torch.float64)
    want = true_log_det(roulette, x)
    with torch.no_grad():
        # One number of terms serves all rows of a call, so rows are not independent: calls are.
        calls = [roulette.log_det(x, samples=60, generator=torch.Generator().manual_seed(k)) for k in range(120)]
    estimate, error = (torch.stack(v) for v in zip(*calls, strict=True))
    scores = (estimate - want) / error
    assert ((estimate.mean(0) - want) / (estimate.std(0) / 120**0.5)).abs().max() < 4
    assert (scores.std(0) - 1).abs().max() < 0.35
    assert error.mean() > 1e-3


def test_the_truncated_series_is_biased_as_it_says():
    """One dimension, where probes are exact: the error is the tail of the series."""
    linear = bj.Residual(LipschitzNet((1,), 0, (), 0.9), "series", terms=5).double().eval()
    torch.nn.init.constant_(linear.net.layers[0].weight, -3.0)
    ladj = linear(torch.zeros(1, 1, dtype=torch.float64))[1]
    kappa = 0.9
    want = -sum(kappa**k / k for k in range(1, 6))
    torch.testing.assert_close(ladj, torch.full_like(ladj, want))
    assert math.log(1 - kappa) < ladj < math.log(1 - kappa) + kappa**6 / (6 * (1 - kappa))


def test_roulette_weights_have_mean_one():
    w = series.roulette(0.6, 3, 40_000, torch.Generator().manual_seed(0))
    assert (w[:, :3] == 1).all()
    n = (w > 0).sum(1)
    for k in range(4, 9):
        assert float((n >= k).double().mean()) == pytest.approx(0.6 ** (k - 3), abs=0.01)
        assert float(w[:, k - 1].mean()) == pytest.approx(1.0, abs=0.05)


def test_neumann_gradient_is_that_of_the_log_determinant():
    """On an orthogonal basis the mean over probes is the trace itself: one product to differentiate, or all, agree."""
    net = randomize(LipschitzNet((4,), 0, (8,), 0.8), 0, 1.0).double()
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    basis = 2 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    leaves = [x, *net.parameters()]

    def gradients(value):
        found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, found, strict=True)]

    want = gradients(series.log_det(net.jacobian(x)[1]))
    for neumann in (True, False):
        value, samples = series.power_series(net.pullback, x, basis[:, None], torch.ones(80), neumann=neumann)
        torch.testing.assert_close(value, net(x))
        torch.testing.assert_close(samples.mean(0), series.log_det(net.jacobian(x)[1]))
        for got, exact in zip(gradients(samples.mean(0)), want, strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-9)


def test_neumann_gradient_is_unbiased_with_the_roulette():
    net = randomize(LipschitzNet((3,), 0, (6,), 0.7), 0, 1.0).double()
    x, g = torch.randn(3, dtype=torch.float64), torch.Generator().manual_seed(0)
    weight = net.layers[0].weight
    (want,) = torch.autograd.grad(series.log_det(net.jacobian(x)[1]), weight)
    draws = []
    for _ in range(40):
        probes, weights = series.rademacher(torch.Size((100, 3)), x, g), series.roulette(0.5, 1, 100, g)
        value = series.power_series(net.pullback, x, probes, weights, neumann=True)[1].mean()
        draws.append(torch.autograd.grad(value, weight)[0])
    draws = torch.stack(draws)
    assert ((draws.mean(0) - want) / (draws.std(0) / 40**0.5)).abs().max() < 4.5
    assert want.abs().max() > 0.01


def test_training_draws_anew_and_evaluation_does_not():
    estimated = layer(ladj="roulette")
    x = torch.randn(5, 4, dtype=torch.float64)
    assert not torch.equal(estimated(x)[1], estimated(x)[1])
    state = torch.get_rng_state()
    estimated.eval()
    assert torch.equal(estimated(x)[1], estimated(x)[1])
    assert torch.equal(torch.get_rng_state(), state)
    first = estimated.log_det(x, generator=torch.Generator().manual_seed(0))
    again = estimated.log_det(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first[0], again[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_log_det_of_an_exact_layer_has_no_error():
    exact = layer()
    x = torch.randn(5, 4, dtype=torch.float64)
    ladj, error = exact.log_det(x)
    assert torch.equal(ladj, exact(x)[1])
    assert not error.any()


@pytest.mark.parametrize("mode", ["series", "roulette"])
def test_flow_log_prob_with_its_error(mode):
    torch.manual_seed(3)
    exact = randomize(bj.residual(3, layers=2, hidden=(8,), ladj="exact"), 0).double().eval()
    estimated = bj.residual(3, layers=2, hidden=(8,), ladj=mode).double()
    estimated.load_state_dict(exact.state_dict(), strict=False)
    x = torch.randn(20, 3, dtype=torch.float64)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    logp, error = estimated.log_prob_and_error(x, samples=100, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert estimated.training, "the flow itself stays as it is"
    scores = (logp - exact.log_prob(x)) / error
    assert scores.abs().max() < 5
    assert scores.std() > 0.3
    assert not exact.log_prob_and_error(x, samples=2)[1].any()


# -- inverse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_of_steps_suffices_for_the_slowest_map(kappa, dtype):
    """``g`` linear with the constant itself, of either sign and as a rotation."""
    eps = torch.finfo(dtype).eps
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=dtype)
    for a in (torch.eye(2, dtype=dtype), -torch.eye(2, dtype=dtype), turn):
        z = torch.randn(50, 2, dtype=dtype)
        x, residual = contraction_inverse(lambda v, a=a: kappa * v @ a.T, z, kappa)
        assert residual.max() <= 4 * eps / (1 - kappa) * x.abs().max()
        want = torch.linalg.solve(torch.eye(2, dtype=torch.float64) + kappa * a.double(), z.double().T).T
        assert (x - want).abs().max() <= 16 * eps / (1 - kappa) * want.abs().max()


def test_early_stop_changes_nothing():
    net = randomize(LipschitzNet((3,), 0, (8,), 0.9), 0, 0.3)
    z, calls = torch.randn(64, 3), []

    def g(v):
        calls.append(1)
        return net(v)

    x, _ = contraction_inverse(g, z, 0.9)
    assert len(calls) < steps_needed(0.9, torch.float32) / 2
    stacked, _ = torch.func.vmap(lambda v: contraction_inverse(net, v, 0.9))(z.unsqueeze(1))  # cannot look, so goes on
    assert (stacked.squeeze(1) - x).abs().max() <= 2e-6


def test_rows_that_are_nan_stay_so_alone():
    z = torch.randn(4, 2)
    z[1, 0] = torch.nan
    x, residual = contraction_inverse(lambda v: 0.5 * v.sin(), z, 0.5)
    assert x[1].isnan().all()
    assert residual[1].isnan()
    assert x[[0, 2, 3]].isfinite().all()


class Expander(Contraction):
    """Claims to contract and does not."""

    def __init__(self, shape=(2,), lipschitz=0.5):
        super().__init__()
        self.shape, self.lipschitz = shape, lipschitz

    def forward(self, x, c=None, weights=None, tangents=None):
        value = 3 * torch.sin(2 * x)
        return value if tangents is None else torch.cat((value[None], 6 * torch.cos(2 * x) * tangents))


def test_solve_reports_the_residual():
    good, bad = layer(), bj.Residual(Expander()).double()
    x, residual = good.solve(torch.randn(5, 4, dtype=torch.float64), tolerance=1e-12)
    assert residual.shape == (5,)
    assert not x.requires_grad
    z = torch.randn(5, 2, dtype=torch.float64)
    assert bad.solve(z)[1].max() > 1e-3
    with pytest.raises(ConvergenceError, match="asked for"):
        bad.solve(z, tolerance=1e-6)


@pytest.mark.parametrize("mode", ["exact", "series"])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 1)])
def test_implicit_gradients_reach_everything(mode, shape):
    """First and second derivatives of the inverse, in ``z``, the context and the weights, against differences."""
    torch.manual_seed(0)
    built = bj.Residual(LipschitzNet(shape, 2, (4,), 0.7, beta=1.0), mode, terms=3, eval_probes=2).double().eval()
    randomize(built, 0, 0.7)
    names = [n for n, _ in built.named_parameters()]

    class Backwards(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = built

        def forward(self, z, c):
            return self.inner.inverse(z, c)

    module = Backwards()

    def inverse(z, c, *params):
        named = {f"inner.{n}": p for n, p in zip(names, params, strict=True)}
        return torch.func.functional_call(module, named, (z, c))

    leaves = [torch.randn(2, *shape), torch.randn(2, 2), *(p.detach() for p in built.parameters())]
    leaves = [v.double().requires_grad_() for v in leaves]
    assert torch.autograd.gradcheck(inverse, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(inverse, leaves, fast_mode=True)


def test_attach_needs_its_second_step_for_second_derivatives():
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    g = lambda v: a * torch.sin(v)
    z = torch.tensor([0.7], dtype=torch.float64)
    x, _ = contraction_inverse(g, z, 0.5)
    x = attach(x, z, g, lambda v: linear_solve(g, x, v, 0.5))
    (d,) = torch.autograd.grad(x.sum(), a, create_graph=True)
    (dd,) = torch.autograd.grad(d, a)
    s, c = torch.sin(x), torch.cos(x)
    first = -s / (1 + a * c)
    second = -(2 * c * first - a * s * first**2) / (1 + a * c)
    torch.testing.assert_close(d, first.squeeze())
    torch.testing.assert_close(dd, second.squeeze())


# -- arguments and recipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"ladj": "best"}, "ladj='best'"),
        ({"terms": 0}, "terms must be"),
        ({"exact_terms": 0}, "exact_terms"),
        ({"survival": 1.0}, "survival"),
        ({"probes": 0}, "probes"),
        ({"eval_probes": 0}, "eval_probes"),
    ],
)
def test_wrong_arguments_are_refused(keywords, words):
    with pytest.raises(ConfigError, match=words):
        bj.Residual(LipschitzNet((2,), hidden=(4,)), **keywords)
    with pytest.raises(ConfigError, match="must be a Contraction"):
        bj.Residual(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        bj.Residual(Expander(lipschitz=1.0))
    with pytest.raises(ConfigError, match="at least 2"):
        layer().log_det(torch.zeros(1, 4, dtype=torch.float64), samples=1)
    with pytest.raises(ConfigError, match="at least 2"):
        bj.residual(2, layers=1, hidden=(4,)).log_prob_and_error(torch.zeros(1, 2), samples=1)


@pytest.mark.parametrize("block", ["plain", "dense"])
def test_image_recipe_estimates_and_inverts(block):
    flow = bj.residual_image((1, 4, 4), 2, levels=17, steps=1, hidden=(6,), block=block)
    assert not flow.transform.exact
    assert not bj.recipes.find_recipe("residual_image").exact
    x, c = 17 * torch.rand(3, 1, 4, 4), torch.randn(3, 2)
    flow.initialize(17 * torch.rand(64, 1, 4, 4), torch.randn(64, 2))
    flow.log_prob(x, c).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())
    flow.eval()
    calls = []
    for name, m in flow.named_modules():
        if name.endswith("net.layers.0"):
            m.register_forward_hook(lambda *_, name=name: calls.append(name))
    z, ladj = flow.to_latent(x, c)
    assert len(calls) == len(set(calls)) > 0, "one pass"
    back, back_ladj = flow.to_data(z, c)
    assert (back - x).abs().max() < 1e-3
    torch.testing.assert_close(back_ladj, -ladj, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "idensenet"])
def test_two_moons_in_three_hundred_steps(name):
    target = bj.TwoMoons()
    g = torch.Generator().manual_seed(0)
    x, test = target.sample(5000, generator=g), target.sample(10_000, generator=g)
    torch.manual_seed(0)
    core, scale = bj.recipes.find_recipe(name).build(2), bj.Standardize(2)
    scale.initialize(x)
    flow = bj.Flow(bj.Chain(scale, core.transform), core.base)
    bj.fit(flow, x, config=bj.FitConfig(epochs=15, batch_size=256, lr=5e-3, progress=False, patience=None))
    with torch.no_grad():
        gap = float((target.log_prob(test) - flow.log_prob(test)).mean())
    assert 0 <= gap < 0.15
    assert flow.check(test[:500]).ok

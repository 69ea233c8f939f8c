"""Solvers: order of every tableau, SciPy and torchdiffeq as oracles, rows on their own, named failures, gradients."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.func import vmap

from bijectory.errors import ConfigError, ConvergenceError
from bijectory.ops.adaptive_gradients import adaptive_adjoint, adaptive_checkpointed
from bijectory.ops.adjoint import adjoint, checkpointed
from bijectory.ops.ode import adaptive, fixed
from bijectory.ops.reversible import reversible
from bijectory.ops.tableaus import TABLEAUS

EMBEDDED = [name for name, tableau in TABLEAUS.items() if tableau.error]
SOLVERS = [fixed, checkpointed, adjoint, reversible]
ADAPTIVE = [adaptive, adaptive_checkpointed, adaptive_adjoint]


def swing(t, y, stiff=1.0):
    """A pendulum that is pushed: not linear, not autonomous."""
    (z,) = y
    angle, speed = z.unbind(-1)
    return (torch.stack((speed, -stiff * angle.sin() + torch.cos(3 * t)), -1),)


def oracle(z, end, stiff=1.0):
    def slope(t, y):
        return [y[1], -stiff * np.sin(y[0]) + np.cos(3 * t)]

    rows = [solve_ivp(slope, (0, end), row.numpy(), method="DOP853", rtol=1e-13, atol=1e-13).y[:, -1] for row in z]
    return torch.tensor(np.array(rows))


def starts(n=3):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", TABLEAUS)
def test_tableaus_satisfy_the_row_conditions(name):
    t = TABLEAUS[name]
    assert len(t.a) == len(t.b) - 1 == len(t.c) - 1
    assert sum(t.b) == pytest.approx(1, abs=1e-14)
    assert [sum(row) for row in t.a] == pytest.approx(t.c[1:], abs=1e-13)
    assert sum(t.error) == pytest.approx(0, abs=1e-14)
    for power in range(1, t.order):  # quadrature conditions
        assert sum(b * c**power for b, c in zip(t.b, t.c, strict=True)) == pytest.approx(1 / (power + 1), abs=1e-13)


@pytest.mark.parametrize("name", TABLEAUS)
def test_order_of_convergence(name):
    z, order = starts(), TABLEAUS[name].order
    want = oracle(z, 2.0)
    counts = {1: (128, 256), 2: (64, 128), 3: (32, 64), 4: (16, 32), 5: (12, 24), 8: (4, 8)}[order]
    errors = [(fixed(swing, (z,), end=2.0, steps=n, method=name)[0] - want).norm().item() for n in counts]
    # Not yet asymptotic, the pairs of order 5 gain almost six powers here; a wrong digit anywhere loses at least one.
    assert order - 0.45 < np.log2(errors[0] / errors[1]) < order + 1


@pytest.mark.parametrize("name", EMBEDDED)
def test_error_estimates_shrink_with_their_order(name):
    """One step of h and of h / 2: seen from outside through what the tableau weighs."""
    t, z = TABLEAUS[name], starts()

    def estimate(h):
        slopes = []
        for c, a in zip(t.c, ((), *t.a), strict=True):
            y = z + h * sum(w * k for w, k in zip(a, slopes, strict=True))
            slopes += swing(torch.tensor(c * h, dtype=z.dtype), (y,))
        if len(t.error) > len(t.b):
            end = z + h * sum(w * k for w, k in zip(t.b, slopes, strict=True))
            slopes += swing(torch.tensor(h, dtype=z.dtype), (end,))
        return (h * sum(w * k for w, k in zip(t.error, slopes, strict=True))).norm().item()

    assert np.log2(estimate(0.2) / estimate(0.1)) == pytest.approx(t.error_order, abs=0.5)


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("stiff", [1.0, 50.0])
def test_adaptive_agrees_with_scipy(name, stiff):
    z = starts()
    tol = {2: 1e-4, 3: 1e-5}.get(TABLEAUS[name].order, 1e-9)
    got = adaptive(lambda t, y: swing(t, y, stiff), (z,), end=1.5, rtol=tol, atol=tol, method=name, batch_dim=1)
    assert (got.y[0] - oracle(z, 1.5, stiff)).abs().max() < 100 * tol
    assert (got.status == 0).all()


def test_adaptive_takes_about_as_many_evaluations_as_scipy():
    """The same pair (Dormand, Prince) at the same tolerance, row by row."""
    z = starts()
    got = adaptive(swing, (z,), end=5.0, rtol=1e-6, atol=1e-6, method="dopri5", batch_dim=1)
    for row, mine in zip(z, got.evaluations.tolist(), strict=True):
        slope = lambda t, y: [y[1], -np.sin(y[0]) + np.cos(3 * t)]
        theirs = solve_ivp(slope, (0, 5), row.numpy(), method="RK45", rtol=1e-6, atol=1e-6).nfev
        assert 0.6 < mine / theirs < 1.5


def test_time_runs_backwards():
    z = starts()
    there = fixed(swing, (z,), end=1.0, steps=40)
    assert (fixed(swing, there, start=1.0, end=0.0, steps=40)[0] - z).abs().max() < 1e-8
    there = adaptive(swing, (z,), end=1.0, rtol=1e-10, atol=1e-10, batch_dim=1).y
    back = adaptive(swing, there, start=1.0, end=0.0, rtol=1e-10, atol=1e-10, batch_dim=1).y
    assert (back[0] - z).abs().max() < 1e-8


def rates(t, y, rate):
    """Rows of very different speed, and an integral beside them: ``(*batch, 2)`` and ``(*batch,)``."""
    z, _ = y
    v = -rate.unsqueeze(-1) * torch.sin(z) * (1 + t.unsqueeze(-1))
    return v, v.sum(-1)


def test_rows_do_not_depend_on_their_batch():
    """Alone, permuted, beside a stiff row or a NaN row: the same evaluations and the same numbers."""
    z = torch.cat((starts(6), starts(1) * 0.1))
    rate = torch.tensor([0.1, 1.0, 2.0, 5.0, 30.0, 200.0, 0.0], dtype=z.dtype)
    state = lambda z: (z, z.new_zeros(z.shape[:-1]))
    whole = adaptive(rates, state(z), (rate,))
    assert len(set(whole.evaluations.tolist())) >= 5, "the rows should need different steps"
    order = torch.tensor([3, 5, 0, 6, 1, 4, 2])
    mixed = adaptive(rates, state(z[order]), (rate[order],))
    assert torch.equal(mixed.evaluations, whole.evaluations[order])
    assert torch.equal(mixed.y[0], whole.y[0][order])
    for k in range(len(z)):
        alone = adaptive(rates, state(z[k]), (rate[k],))
        assert alone.evaluations == whole.evaluations[k]
        assert torch.allclose(alone.y[0], whole.y[0][k], rtol=0, atol=1e-14)
    sick = z.clone()
    sick[2, 0] = torch.nan
    beside = adaptive(rates, state(sick), (rate,))
    keep = torch.tensor([0, 1, 3, 4, 5, 6])
    assert beside.status.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert beside.y[0][2].isnan().all()
    assert torch.equal(beside.y[0][keep], whole.y[0][keep])


def test_evaluations_are_those_of_the_row_alone():
    calls = []

    def f(t, y):
        calls.append(1)
        return swing(t, y, 20.0)

    got = adaptive(f, (starts(1),), end=2.0, batch_dim=1)
    assert got.evaluations.item() == len(calls)
    assert got.steps + got.rejected == (len(calls) - 2) / 6


def test_cap_raises_a_named_error_with_its_remedy():
    with pytest.raises(ConvergenceError, match=r"1 of 2 rows.*max_steps=20.*loosen rtol"):
        adaptive(rates, (starts(2), torch.zeros(2)), (torch.tensor([1.0, 1e6]),), max_steps=20)
    with pytest.raises(ConvergenceError):  # explodes before the end: y' = y^2
        adaptive(lambda t, y: (y[0] ** 2,), (torch.full((1,), 2.0),), max_steps=200)


def test_refused_arguments():
    y = (torch.zeros(2),)
    with pytest.raises(ConfigError, match="no error estimate"):
        adaptive(swing, y, method="rk4")
    with pytest.raises(ConfigError, match="unknown"):
        fixed(swing, y, method="rk5")
    for solve in SOLVERS:
        with pytest.raises(ConfigError, match="steps"):
            solve(swing, y, steps=0)


def test_a_span_of_zero_is_the_identity():
    z = starts()
    got = adaptive(swing, (z,), start=1.0, end=1.0, batch_dim=1)
    assert torch.equal(got.y[0], z)
    assert torch.equal(fixed(swing, (z,), start=1.0, end=1.0)[0], z)


def weighted(t, y, w):
    return (torch.tanh(y[0] @ w) * (1 + t),)


@pytest.mark.parametrize("solve", SOLVERS, ids=lambda f: f.__name__)
def test_gradients_against_differences(solve):
    z = starts().requires_grad_()
    w = (0.5 * torch.randn(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).requires_grad_()
    run = lambda z, w: solve(weighted, (z,), (w,), steps=12, method="dopri8")[0]
    assert torch.autograd.gradcheck(run, (z, w), atol=1e-7)
    assert torch.autograd.gradgradcheck(run, (z, w), atol=1e-6, fast_mode=True)  # all entries at once, in one direction


def gathering(t, y, w, c):
    """Rows of different speed, a context for each, and an integral that nothing reads."""
    v = torch.tanh(y[0] @ w + c) * (1 + t.unsqueeze(-1)) * torch.tensor([[0.5], [3.0]], dtype=c.dtype)
    return v, v.square().sum(-1)


@pytest.mark.parametrize("solve", [*SOLVERS, *ADAPTIVE], ids=lambda f: f.__name__)
@pytest.mark.parametrize("gathered", [0, 1])
def test_gradients_of_every_mode_against_differences(solve, gathered):
    """First order against differences of a plain solution on a fine grid, second order against its autograd."""
    z, c = starts(2).requires_grad_(), torch.tensor([[0.3, -0.2], [0.1, 0.5]], dtype=torch.float64).requires_grad_()
    w = torch.tensor([[0.4, -0.5], [0.3, 0.2]], dtype=torch.float64).requires_grad_()
    leaves = (z, torch.zeros(2, dtype=z.dtype, requires_grad=True), w, c)
    control = {"rtol": 1e-8, "atol": 1e-8, "batch_dim": 1} if solve in ADAPTIVE else {"steps": 6, "method": "dopri8"}

    def loss(solve, leaves, **control):
        y = solve(gathering, leaves[:2], leaves[2:], **control)
        y = y.y if solve in ADAPTIVE else y
        return y[0].sin().sum() + y[1].square().sum()

    def twice(solve, **control):
        first = torch.autograd.grad(loss(solve, leaves, **control), leaves, create_graph=True)
        return first, torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    plain = {"steps": 12, "method": "dopri8"}
    (first, second), (want, second_want) = twice(solve, gathered=gathered, **control), twice(fixed, **plain)
    for a, b in zip((*first, *second), (*want, *second_want), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    if not gathered:
        return  # the same plain solution is the measure of both
    for k, leaf in enumerate(leaves):
        for i in range(leaf.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [u.detach().clone() for u in leaves]
                moved[k].view(-1)[i] += step
                ends.append(loss(fixed, moved, **plain).item())
            assert first[k].reshape(-1)[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_the_reversible_gradient_is_that_of_its_own_solution():
    """On a coarse grid, where the adjoint is off: equal to plain autograd through the same scheme, to rounding."""
    z, w = starts().requires_grad_(), torch.eye(2, dtype=torch.float64).requires_grad_()

    def by_hand(z, w, n=3, mix=0.99):
        y, h = z, 1 / n
        increment = lambda t, h, u: fixed(weighted, (u,), (w,), start=t, end=t + h, steps=1, method="rk4")[0] - u
        for k in range(n):
            y = mix * y + (1 - mix) * z + increment(k * h, h, z)
            z = z - increment((k + 1) * h, -h, y)
        return y

    got = reversible(weighted, (z,), (w,), steps=3, method="rk4")[0]
    want = by_hand(z, w)
    assert torch.allclose(got, want, rtol=0, atol=1e-14)
    ours, theirs = (torch.autograd.grad(u.square().sum(), (z, w)) for u in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    off = torch.autograd.grad(adjoint(weighted, (z,), (w,), steps=3, method="rk4")[0].square().sum(), w)[0]
    exact = torch.autograd.grad(fixed(weighted, (z,), (w,), steps=3, method="rk4")[0].square().sum(), w)[0]
    assert (off - exact).abs().max() > 1e-6
    with pytest.raises(ConfigError, match="coupling"):
        reversible(weighted, (z,), (w,), coupling=0.0)


@pytest.mark.parametrize("name", ["heun", "bosh3", "tsit5"])
def test_the_reversible_scheme_keeps_the_order(name):
    z, order = starts(), TABLEAUS[name].order
    want = oracle(z, 2.0)
    counts = {2: (64, 128), 3: (32, 64), 5: (12, 24)}[order]
    errors = [(reversible(swing, (z,), end=2.0, steps=n, method=name)[0] - want).norm().item() for n in counts]
    assert order - 0.45 < np.log2(errors[0] / errors[1]) < order + 1.2


@pytest.mark.parametrize("solve", ADAPTIVE, ids=lambda f: f.__name__)
def test_every_adaptive_mode_treats_rows_alone(solve):
    z, rate = starts(4).requires_grad_(), torch.tensor([0.1, 2.0, 30.0, 5.0], dtype=torch.float64)

    def run(rows):
        part = z.detach()[rows].requires_grad_()
        got = solve(rates, (part, part.new_zeros(part.shape[:-1])), (rate[rows],), batch_dim=part.dim() - 1)
        return got, torch.autograd.grad(got.y[0].sin().sum() + got.y[1].sum(), part)[0]

    whole, grad = run(torch.arange(4))
    order = torch.tensor([2, 0, 3, 1])
    mixed, mixed_grad = run(order)
    assert torch.equal(mixed.evaluations, whole.evaluations[order])
    assert torch.allclose(mixed_grad, grad[order], rtol=0, atol=1e-13)
    for k in range(4):
        alone, alone_grad = run(k)
        assert alone.evaluations == whole.evaluations[k]
        assert torch.allclose(alone.y[0], whole.y[0][k], rtol=0, atol=1e-13)
        assert torch.allclose(alone_grad, grad[k], rtol=0, atol=1e-12)
    assert whole.grid.shape[0] == whole.steps.max()
    assert torch.allclose(whole.grid.sum(0), torch.ones(4, dtype=z.dtype))
    assert torch.equal((whole.grid != 0).sum(0), whole.steps)
    with pytest.raises(ConvergenceError, match="max_steps=2"):
        solve(rates, (z, z.new_zeros(4)), (rate,), max_steps=2)


def test_agreement_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    z = starts()
    theirs = lambda **k: torchdiffeq.odeint(lambda t, u: swing(t, (u,))[0], z, torch.tensor([0.0, 2.0]).double(), **k)
    for name, method in (("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2"), ("rk4", "rk4")):
        if name != "rk4":  # theirs is the rule of 3/8
            options = {"step_size": 0.25}
            want = theirs(method=method, options=options)[-1]
            assert (fixed(swing, (z,), end=2.0, steps=8, method=name)[0] - want).abs().max() < 1e-12
    for method in ("dopri5", "dopri8"):
        got = adaptive(swing, (z,), end=2.0, rtol=1e-8, atol=1e-8, method=method, batch_dim=1).y[0]
        assert (got - theirs(method=method, rtol=1e-10, atol=1e-10)[-1]).abs().max() < 1e-6


def test_the_adjoint_error_is_that_of_the_grid():
    z = starts().requires_grad_()
    w = torch.eye(2, dtype=torch.float64, requires_grad=True)
    run = lambda solve, n: torch.autograd.grad(solve(weighted, (z,), (w,), steps=n, method="rk4")[0].sum(), w)[0]
    exact = run(fixed, 200)
    coarse, fine = ((run(adjoint, n) - exact).norm() for n in (4, 8))
    assert 2**3 < coarse / fine < 2**5.5
    assert torch.allclose(run(checkpointed, 4), run(fixed, 4), rtol=1e-13)


def held(solve, **control):
    """Bytes that the graph of a solve holds for its backward pass, each storage once."""
    storages = {}

    def pack(t):
        storages[t.untyped_storage().data_ptr()] = t  # kept alive, so that no address is used twice
        return t

    w, z = torch.eye(2, requires_grad=True), starts().float()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        solve(weighted, (z,), (w,), **control)
    return sum(t.untyped_storage().nbytes() for t in storages.values()), z.nbytes


@pytest.mark.parametrize("solve", SOLVERS, ids=lambda f: f.__name__)
def test_memory_is_bounded(solve):
    """From 8 to 32 steps: the last two hold the same, checkpoints one state more a step, the plain graph far more."""
    (few, state), (many, _) = held(solve, steps=8), held(solve, steps=32)
    if solve is fixed:
        assert many - few > 24 * 6 * state
    else:
        assert many - few == (24 * state if solve is checkpointed else 0)


def test_memory_of_adaptive_modes():
    """Under a tolerance that asks for several times the steps."""

    def rows(t, y, w):
        return (torch.tanh(y[0] @ w) * (1 + t.unsqueeze(-1)),)

    def solve(mode):
        return lambda f, y, params, **control: mode(rows, y, params, batch_dim=1, **control)

    sizes = {f: [held(solve(f), rtol=tol, atol=tol)[0] for tol in (1e-2, 1e-6)] for f in ADAPTIVE}
    assert sizes[adaptive_adjoint][0] == sizes[adaptive_adjoint][1]
    grew = {f: many - few for f, (few, many) in sizes.items()}
    assert 0 < 5 * grew[adaptive_checkpointed] < grew[adaptive]


def test_the_fixed_grid_captures_and_vmaps():
    z = starts(5)
    run = lambda z: fixed(swing, (z,), steps=3)[0]
    want = run(z)
    assert torch.allclose(vmap(run)(z), want, rtol=0, atol=1e-15)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(run, backend="eager", fullgraph=True)(z), want)

    class Module(torch.nn.Module):
        def forward(self, z):
            return run(z)

    assert torch.equal(torch.export.export(Module(), (z,)).module()(z), want)

"""Rows 7 to 12: splines, batches, linear, continuous and residual layers, low precision."""

import numpy as np
import torch
from benchmarks.reliability.depth import AFFINE
from benchmarks.reliability.register import row

import bijectory as bj
import measures as m
from bijectory.testing import randomize


@row(
    7,
    "spline, logits of size 1 to 1000, 20,000 splines",
    "0 not finite, backward error ≤ 1 ulp(B), log-det ≤ 2e-6, monotone, in the box",
    "zuko 19 to 275 NaN; nflows loses the batch",
)
def _():
    import test_spline_extremes as e

    bad, backward, ladj_error, outside, decreasing = 0, 0.0, 0.0, 0, 0
    for scale in e.SCALES:
        for tails in e.TAILS:
            grid = e.SplineGrid(8, e.B, tails, double=True)
            x, phi = e.draw(grid, scale)
            for f in e.BOTH:
                y, ladj = f(x, phi, grid)
                exact, exact_ladj = f(x.double(), phi.double(), grid)
                bad += int((~y.isfinite()).sum() + (~ladj.isfinite()).sum())
                outside += int((y.abs() > e.B).sum())
                ladj_error = max(ladj_error, float((ladj - exact_ladj).abs().max()))
                backward = max(backward, float((y - exact).abs().max()) / e.ULP)
            line = torch.linspace(-e.B, e.B, 1000, dtype=torch.float64)[:, None].expand(1000, 200)
            decreasing += int((f(line, phi[:, :200].double().unsqueeze(1), grid)[0].diff(dim=0) <= 0).sum())
    text = (
        f"{bad} not finite, {backward:.2f} ulp, log-det {ladj_error:.1e}, {decreasing} not monotone, {outside} outside"
    )
    return (
        text,
        not (bad or outside or decreasing) and backward <= 1 and ladj_error <= 2e-6,
        'with `precision="float64"`',
    )


@row(8, "a batch against its rows, float32", "≤ 2e-6; estimator 1e-12; CNF ≤ 1e-5", "9.5e-7 flowjax; CNF 3.3e-3 zuko")
def _():
    flows = {n: m.stack(n, 4, features=4) for n in m.STACKS} | {"cnf": (bj.cnf(4).eval(), torch.randn(256, 4))}
    error = {n: m.batch_against_rows(f, x[:64]) for n, (f, x) in flows.items()}
    x = np.random.default_rng(0).normal(size=(100, 3))
    model = bj.apps.FlowDensity(epochs=3, random_state=0).fit(x)
    table = np.abs(model.score_samples(x) - np.array([model.score_samples(r[None])[0] for r in x])).max()
    flat = max((v, k) for k, v in error.items() if k != "cnf")
    text = f"{flat[0]:.1e} ({flat[1]}); estimator {table:.0e}; CNF {error['cnf']:.1e}"
    return text, flat[0] <= 2e-6 and table <= 1e-12 and error["cnf"] <= 1e-5, ""


@row(9, "linear layers with adverse weights", "condition ≤ 1e4, round trip ≤ 1e-4", "0.13 normflows, no warning")
def _():
    condition = error = 0.0
    for build in (bj.LU, bj.QR, bj.Householder, bj.Rotation, bj.MatrixExp):
        layer, g = build(8), torch.Generator().manual_seed(0)
        for scale in (0.3, 1e3, 1e6):
            with torch.no_grad():
                layer.factors.copy_(scale * torch.randn(layer.factors.shape, generator=g))
                condition = max(condition, float(torch.linalg.cond(layer.matrix().double())))
                x = torch.randn(256, 8, generator=g)
                error = max(error, float((layer.inverse(layer.forward(x)[0])[0] - x).abs().max()))
    return f"condition {condition:.0f}, round trip {error:.1e}", condition <= 1e4 and error <= 1e-4, ""


@row(
    10,
    "CNF: log-determinant against autodiff",
    "≤ 1e-5 (exact trace, rtol 1e-6); cap, then a named error",
    "1.3e-4 zuko",
)
def _():
    figures = []
    for steps in (8, None):
        torch.manual_seed(0)
        flow, x = randomize(bj.cnf(4, steps=steps), 0, 0.3).double(), torch.randn(5, 4, dtype=torch.float64)
        jacobian = [torch.autograd.functional.jacobian(lambda v: flow.to_latent(v)[0], row) for row in x]  # noqa: B023
        want = torch.linalg.slogdet(torch.stack(jacobian)).logabsdet
        figures.append(float((flow.to_latent(x)[1] - want).abs().max()))
    text = f"{figures[0]:.1e} (8 steps, the default), {figures[1]:.1e} (adaptive)"
    try:
        wild = bj.Continuous(bj.nets.TimeMLP(2), steps=None, max_steps=2, rtol=1e-12, atol=1e-12)
        randomize(wild, 0, 3.0)(torch.randn(3, 2))
        stopped = False
    except bj.errors.ConvergenceError:
        stopped = True
    return (
        text + ("; the cap raises ConvergenceError" if stopped else "; no error at the cap"),
        max(figures) <= 1e-5 and stopped,
        "",
    )


@row(
    11,
    "residual flow: bias of the log-determinant, round trip",
    "≤ 1e-6 exact; stochastic with its standard error",
    "7e-7, 1.4e-4 normflows",
)
def _():
    torch.manual_seed(0)
    flow = randomize(bj.residual(2, ladj="exact"), 0, 0.3)
    x = torch.randn(256, 2)
    error, (trip, _) = m.ladj_against_float64(flow, x), m.round_trip(flow, x)
    mean, standard = randomize(bj.residual(2, ladj="roulette"), 0, 0.3).log_prob_and_error(x[:5])
    ok = error <= 1e-6 and bool((standard > 0).all() and mean.isfinite().all())
    return (
        f"{error:.1e}, round trip {trip:.1e}; standard errors returned",
        ok,
        "float32 against float64, eight layers, d=2" if not ok else "",
    )


@row(12, "bfloat16 autocast, depth 4, d=4: largest error in nats", "affine ≤ 0.01, splines ≤ 0.05", "0.008, 0.11")
def _():
    error = {n: max(m.bfloat16(*m.stack(n, 4, s, features=4))[1] for s in range(3)) for n in m.STACKS}
    a, s = (max((error[n], n) for n in names) for names in (AFFINE, m.SPLINES))
    ok = a[0] <= 0.01 and s[0] <= 0.05
    return (
        f"{a[0]:.4f} ({a[1]}), {s[0]:.3f} ({s[1]})",
        ok,
        "" if ok else "networks compute in bfloat16, and nothing else; the mean error is below 0.005 everywhere",
    )

"""Splines at logit scales 1...1000, 20,000 of each, box edges included; and values frozen from other libraries.

A float32 ``x`` cannot hit ``y`` closer than half its last place times the slope, which reaches 2,000 here. So the backward
error is stated twice, free of that condition: in float64 ``|f(f^-1(y)) - y|`` is far below one float32 place of ``B``; and
for float32 tensors the returned ``x`` is the rounded solution: the two neighbouring floats enclose the exact one.
"""

import json
import pathlib

import pytest
import torch

from bijectory.ops import spline
from bijectory.ops.spline import SplineGrid, rational_quadratic, rational_quadratic_inverse

N, B = 20_000, 5.0
ULP = 2.0**-21  # of 5 in float32
SCALES = (1, 5, 20, 100, 1000)
TAILS = ("identity", "linear", "circular")
BOTH = (rational_quadratic, rational_quadratic_inverse)


def draw(grid, scale):
    """Uniform points of the box; its edges, their neighbours and the centre; and on every 20th spline, a knot."""
    g = torch.Generator().manual_seed(scale)
    phi = torch.randn(grid.n_params, N, generator=g) * scale
    x = (torch.rand(N, generator=g) * 2 - 1) * B
    edge = torch.tensor([B, -B])
    x[:5] = torch.cat((edge, torch.nextafter(edge, torch.zeros(2)), torch.zeros(1)))
    widths = grid.min_bin + (1 - grid.min_bin * grid.bins) * torch.softmax(phi[: grid.bins].double(), 0)
    x[5::20] = ((2 * widths.cumsum(0)[3] - 1) * B).float()[5::20]
    return x, phi


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("scale", SCALES)
def test_finite_with_finite_gradients_inside_the_box(scale, tails, double):
    grid = SplineGrid(8, B, tails, double=double)
    for f in BOTH:
        x, phi = (v.requires_grad_() for v in draw(grid, scale))
        y, ladj = f(x, phi, grid)
        assert y.dtype == ladj.dtype == torch.float32
        for value in (y, ladj, *torch.autograd.grad(y.sum() + ladj.sum(), (x, phi))):
            assert torch.isfinite(value).all()
        assert y.abs().max() <= B
        with torch.no_grad():  # the form that is traced for compilation
            traced, traced_ladj = (spline._forward if f is rational_quadratic else spline._inverse)(x, phi, grid)
        assert torch.isfinite(traced_ladj).all()
        assert traced.abs().max() <= B
        if double:
            assert torch.allclose(traced, y, atol=ULP, rtol=0)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("scale", SCALES)
def test_errors_with_float64_inside(scale, tails):
    grid = SplineGrid(8, B, tails, double=True)
    x, phi = draw(grid, scale)
    for f in BOTH:
        y, ladj = f(x, phi, grid)
        exact, exact_ladj = f(x.double(), phi.double(), grid)
        assert (y - exact).abs().max() <= 0.5 * ULP
        assert (ladj - exact_ladj).abs().max() <= 2e-6
    exact, _ = rational_quadratic_inverse(x.double(), phi.double(), grid)
    assert (rational_quadratic(exact, phi.double(), grid)[0] - x).abs().max() <= 1e-3 * ULP
    rounded, _ = rational_quadratic_inverse(x, phi, grid)
    below, above = (torch.nextafter(rounded, torch.full_like(x, v)).double() for v in (-2 * B, 2 * B))
    assert (rational_quadratic(below, phi.double(), grid)[0] <= x).all()
    assert (rational_quadratic(above, phi.double(), grid)[0] >= x).all()


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("scale", SCALES)
def test_strictly_monotone(scale, tails):
    """Float64, 1,000 points of 200 splines, and knots with their neighbours; float32 inside must not decrease by a place."""
    grid = SplineGrid(8, B, tails)
    phi = draw(grid, scale)[1][:, :200].double()
    x = torch.linspace(-B * 1.01, B * 1.01, 1000, dtype=torch.float64).unsqueeze(-1).expand(1000, 200)
    for f in BOTH:
        y, ladj = f(x, phi.unsqueeze(1), grid)
        assert (y.diff(dim=0) > 0).all()
        assert torch.isfinite(ladj).all()
        single, _ = f(x.float(), phi.float().unsqueeze(1), grid)
        assert (single.diff(dim=0) >= -2 * ULP).all()


@pytest.mark.parametrize("tails", TAILS)
def test_nan_stays_nan_and_touches_nobody_else(tails):
    grid = SplineGrid(8, B, tails)
    for f in BOTH:
        x, phi = draw(grid, 1)
        clean = f(x, phi, grid)
        x[7], phi[3, 9] = float("nan"), float("nan")
        for value, want in zip(f(x, phi, grid), clean, strict=True):
            assert value.isnan().nonzero().flatten().tolist() == [7, 9]
            keep = ~value.isnan()
            assert torch.equal(value[keep], want[keep])


@pytest.mark.parametrize("tails", ["identity", "linear"])
def test_far_outside(tails):
    grid = SplineGrid(8, B, tails)
    x = torch.tensor([1e30, -1e30, float("inf"), float("-inf"), 1e6])
    phi = torch.randn(grid.n_params, 5, generator=torch.Generator().manual_seed(0))
    for f in BOTH:
        y, ladj = f(x, phi, grid)
        assert torch.isfinite(ladj).all()
        assert torch.equal(y.sign(), x.sign())
        assert torch.equal(y.isinf(), x.isinf())
        if tails == "identity":
            assert torch.equal(y, x)
            assert not ladj.any()


def test_circular_is_periodic_and_smooth_at_the_seam():
    grid = SplineGrid(6, B, "circular")
    phi = torch.randn(grid.n_params, 1, dtype=torch.float64)
    x = torch.linspace(-4.9, 4.9, 50, dtype=torch.float64)
    y, ladj = rational_quadratic(x, phi, grid)
    turned, same = rational_quadratic(x + 6 * B, phi, grid)
    assert torch.allclose(turned, y + 6 * B, atol=1e-12)
    assert torch.allclose(same, ladj, atol=1e-10)
    seam, slopes = rational_quadratic(torch.tensor([-B, B - 1e-12, B], dtype=torch.float64), phi, grid)
    assert torch.allclose(seam, torch.tensor([-B, B, B], dtype=torch.float64), atol=1e-10)
    assert torch.allclose(slopes, slopes[:1], atol=1e-9)


def test_half_precision_is_computed_in_single():
    grid = SplineGrid(8, B)
    x, phi = draw(grid, 1)
    y, ladj = rational_quadratic(x.bfloat16(), phi.bfloat16(), grid)
    want, want_ladj = rational_quadratic(x.bfloat16().float(), phi.bfloat16().float(), grid)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, want.bfloat16())
    assert torch.equal(ladj, want_ladj)
    mixed, _ = rational_quadratic(x, phi.bfloat16(), grid)  # what autocast hands over
    assert mixed.dtype == torch.float32


@pytest.mark.parametrize("tails", ["identity", "circular"])
def test_values_of_other_libraries(tails):
    table = json.loads((pathlib.Path(__file__).parent / "regression" / "rational_quadratic.json").read_text())[tails]
    x, phi, y, ladj = (torch.tensor(table[k], dtype=torch.float64) for k in ("x", "phi", "y", "ladj"))
    grid = SplineGrid(4, 3.0, tails)
    ours, ours_ladj = rational_quadratic(x, phi, grid)
    assert torch.allclose(ours, y, atol=1e-12)
    assert torch.allclose(ours_ladj, ladj, atol=1e-12)
    assert torch.allclose(rational_quadratic_inverse(y, phi, grid)[0], x, atol=1e-11)

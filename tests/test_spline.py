"""The rational-quadratic spline: gradients against plain autograd, capture, vmap, arguments."""

import pytest
import torch

from bijectory import RationalQuadratic
from bijectory.errors import ConfigError
from bijectory.ops import spline
from bijectory.ops.spline import SplineGrid, rational_quadratic, rational_quadratic_inverse

TAILS = ("identity", "linear", "circular")
BOTH = (rational_quadratic, rational_quadratic_inverse)
PLAIN = {rational_quadratic: spline._forward, rational_quadratic_inverse: spline._inverse}


def draw(grid, *shape, scale=1.5, dtype=torch.float64, seed=0):
    """Points on both sides of the box's edges, and raw parameters."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=g, dtype=dtype) * grid.bound * 0.8
    return x, torch.randn(grid.n_params, *shape, generator=g, dtype=dtype) * scale


@pytest.mark.parametrize("tails", TAILS)
def test_round_trip_and_log_det(tails):
    grid = SplineGrid(5, 2.0, tails)
    x, phi = draw(grid, 400, 3)
    x.requires_grad_()
    y, ladj = rational_quadratic(x, phi, grid)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(ladj, slope.log(), atol=1e-12)
    back, ladj_back = rational_quadratic_inverse(y, phi, grid)
    assert torch.allclose(back, x, atol=1e-10)
    assert torch.allclose(ladj_back, -ladj, atol=1e-9)


@pytest.mark.parametrize("tails", TAILS)
def test_zero_is_the_identity(tails):
    grid = SplineGrid(8, 5.0, tails)
    x, phi = draw(grid, 1000, scale=0.0)
    for f in BOTH:
        y, ladj = f(x, phi, grid)
        assert torch.allclose(y, x, atol=1e-14, rtol=1e-15)
        assert ladj.abs().max() < 1e-14


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("f", BOTH)
def test_analytic_gradients_against_plain_autograd(f, tails):
    grid = SplineGrid(4, 2.0, tails)
    x, phi = (v.requires_grad_() for v in draw(grid, 200, 3))
    cotangents = (torch.randn_like(x), torch.randn_like(x))
    ours = torch.autograd.grad(f(x, phi, grid), (x, phi), cotangents)
    plain = torch.autograd.grad(PLAIN[f](x, phi, grid), (x, phi), cotangents)
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("f", BOTH)
def test_first_and_second_derivatives_against_differences(f, tails):
    grid = SplineGrid(3, 2.0, tails)
    x, phi = (v.requires_grad_() for v in draw(grid, 6))
    assert torch.autograd.gradcheck(lambda u, p: f(u, p, grid), (x, phi))
    assert torch.autograd.gradgradcheck(lambda u, p: f(u, p, grid), (x, phi))


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("f", BOTH)
def test_vmap_and_capture(f, tails):
    grid = SplineGrid(4, 2.0, tails)
    x, phi = draw(grid, 7, 3)
    y, ladj = f(x, phi, grid)
    mapped = torch.func.vmap(lambda u, p: f(u, p, grid), in_dims=(0, 1))(x, phi)
    captured = torch.compile(lambda u, p: f(u, p, grid), backend="eager", fullgraph=True)(x, phi)
    for a, b in (mapped, captured):
        assert torch.allclose(a, y, atol=1e-13)
        assert torch.allclose(b, ladj, atol=1e-12)
    jac = torch.func.jacrev(lambda u: f(u, phi[:, 0], grid)[0])(x[0])
    assert torch.allclose(jac.diagonal().log(), ladj[0], atol=1e-11)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bins": 1}, "bins must be an integer of at least 2, got 1"),
        ({"bins": 8.0}, "bins must be an integer"),
        ({"bound": 0.0}, "bound must be positive"),
        ({"bound": float("inf")}, "bound must be a finite number"),
        ({"min_bin": 0.125}, "below 1 / bins = 0.125"),
        ({"min_bin": 0.0}, "min_bin must be above 0"),
        ({"min_slope": 0.0}, "min_slope must lie between 0 and 1"),
        ({"min_slope": 1.0}, "min_slope must lie between 0 and 1"),
        ({"min_slope": "small"}, "min_slope must be a finite number"),
        ({"tails": "free"}, "tails must be"),
        ({"precision": "double"}, "precision must be"),
    ],
)
def test_invalid_arguments_are_named(arguments, words):
    with pytest.raises(ConfigError) as info:
        RationalQuadratic(**arguments)
    assert words in str(info.value)

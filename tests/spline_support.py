"""What every kernel of splines must give, in machine code or on a GPU: the plain operations are the measure."""

import torch

import bijectory as bj
from bijectory.ops.native import native
from bijectory.ops.spline import SplineGrid, rational_quadratic, rational_quadratic_inverse

BOTH = [rational_quadratic, rational_quadratic_inverse]


def case(tails, bins, dtype, *, rows=70, device="cpu"):
    """Inputs with the ends of the box and far values among them, raw parameters, and the spline."""
    g = torch.Generator().manual_seed(bins)
    grid = SplineGrid(bins, 2.0, tails)
    x = torch.randn(3, rows, generator=g, dtype=torch.float64) * 1.5
    x[0, : min(6, rows)] = torch.tensor([2.0, -2.0, 1e6, -1e6, 0.0, -0.0])[:rows]
    phi = torch.randn(grid.n_params, 3, rows, generator=g, dtype=torch.float64)
    return x.t().to(device, dtype), phi.transpose(1, 2).to(device, dtype), grid


def results(f, x, phi, grid):
    """Values, log-determinants, and the gradients of a weighted sum of both."""
    x, phi = x.detach().clone().requires_grad_(), phi.detach().clone().requires_grad_()
    y, ladj = f(x, phi, grid)
    w = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
    ((y * w).sum() + (ladj * w.flip(0)).sum()).backward()
    return [t.detach() for t in (y, ladj, x.grad, phi.grad)]


def check_float64(f, x, phi, grid):
    """Equal to rounding; returns the results of the plain operations."""
    truth = results(f, x, phi, grid)
    with native():
        ours = results(f, x, phi, grid)
    for a, plain in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, plain, rtol=1e-10, atol=1e-10 + 1e-13 * float(plain.abs().max()))
    return truth


def float32_errors(f, x, phi, grid, truth):
    """Relative errors of kernels and of the plain operations, pairs for each result, where the inputs are not far out."""
    keep = x.abs() < 100
    plain = results(f, x, phi, grid)
    with native():
        ours = results(f, x, phi, grid)
    for a, b, exact in zip(ours, plain, truth, strict=True):
        yield [((v.double() - exact).abs() / (1 + exact.abs()))[..., keep] for v in (a, b)]


def check_extremes(device="cpu"):
    """NaN stays, infinity does not become NaN, and no parameters are too large."""
    grid = SplineGrid(8, 2.0)
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.3, 1.9999999, -2.0], device=device)
    for scale in (0.0, 30.0, 1e4):
        phi = torch.randn(grid.n_params, 6, generator=torch.Generator().manual_seed(0)).to(device) * scale
        for f in BOTH:
            with native():
                y, ladj = f(x, phi, grid)
            assert y.isnan().tolist() == [True] + [False] * 5
            torch.testing.assert_close(y, f(x, phi, grid)[0], rtol=1e-4, atol=1e-5, equal_nan=True)
            assert ladj[1:].isfinite().all()
    bad = torch.zeros(grid.n_params, 6, device=device)
    with native():
        y, ladj = rational_quadratic(x, bad, grid)
        torch.testing.assert_close(y, x, equal_nan=True)
        assert ladj[1:].abs().max() < 1e-6
        bad[2, 3] = float("nan")
        assert rational_quadratic(x, bad, grid)[0][3].isnan()
        empty = rational_quadratic(x[:0], bad[:, :0], grid)
    assert [t.shape for t in empty] == [(0,), (0,)]


def small():
    """A flow of two spline layers."""
    torch.manual_seed(0)
    return bj.nsf(3, layers=2, hidden=(8,), bins=4)

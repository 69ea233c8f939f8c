"""The bracketed root finder: accuracy, reach, implicit gradients of first and second order, capture."""

import pytest
import torch

from bijectory.ops.monotone import box_inverse, monotone_inverse

SMOOTH = {
    "cubic": lambda v: v + v**3,
    "sinh": torch.sinh,
    "exponential": lambda v: v + v.exp(),
    "planar": lambda v: v + 0.9 * torch.tanh(3 * v - 1),
}
HARD = {
    "steps": lambda v: 1e-3 * v + 1e3 * (torch.tanh(1e3 * (v - 1)) + torch.tanh(1e4 * (v + 2))),
    "plateau": lambda v: 1e-4 * v + torch.tanh(20 * (v - 3)),
    "cusp": lambda v: torch.sign(v) * v.abs() ** (1 / 3) + 1e-3 * v,
    "flat": lambda v: v**9,
}


def mixture(v, a, b):
    return v + a.exp() * torch.tanh(b * v)


def targets(seed=0, n=5):
    g = torch.Generator().manual_seed(seed)
    y, a, b = torch.randn(3, n, generator=g, dtype=torch.float64)
    return y * 2, a, b.abs()


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_functions_to_the_last_bits(name, dtype):
    f, eps = SMOOTH[name], torch.finfo(dtype).eps
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3
    root, residual = monotone_inverse(f, f(x), iterations=16)
    assert ((root - x).abs() <= 8 * eps * (1 + x.abs())).all()
    assert residual.max() <= 8 * eps * f(x).abs().max()


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steep_flat_and_kinked_functions(name, dtype):
    """Where the slope is 1e-4 or 1e7 the root itself is not determined; the target must be hit as well as floats can."""
    f, eps = HARD[name], torch.finfo(dtype).eps
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3
    y = f(x)
    root, residual = monotone_inverse(f, y, iterations=40)
    assert (residual <= 4 * eps * (1 + y.abs())).all()
    below, above = root - 4 * eps * root.abs() - eps, root + 4 * eps * root.abs() + eps
    assert ((f(below) <= y) & (y <= f(above))).all()


def test_brackets_expand_and_unreachable_targets_are_flagged():
    y = torch.tensor([1e6, -1e6, 0.0], dtype=torch.float64)
    root, residual = monotone_inverse(lambda v: v + 1.0, y, lower=-1.0, upper=1.0)
    assert torch.allclose(root, y - 1)
    assert residual.max() < 1e-9
    _, residual = monotone_inverse(torch.tanh, torch.tensor([0.5, 2.0, -3.0]))
    assert torch.allclose(residual, torch.tensor([0.0, 1.0, 2.0]), atol=1e-6)
    _, residual = monotone_inverse(lambda v: v + 1.0, y, lower=-1.0, upper=1.0, expansions=0)
    assert torch.allclose(residual, torch.tensor([1e6 - 2, 1e6, 0.0], dtype=torch.float64), atol=1e-6)


def test_domain_is_respected_without_expansion():
    root, residual = monotone_inverse(torch.logit, torch.tensor([-9.0, 0.0, 4.0]), lower=0.0, upper=1.0, expansions=0)
    assert torch.allclose(root, torch.sigmoid(torch.tensor([-9.0, 0.0, 4.0])))
    assert residual.max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_root_that_an_end_misses_by_rounding_is_that_end(dtype):
    """Brackets that are known only to rounding end a little beside their roots; the search must not run to the other end."""
    end = torch.tensor([-10.484037166550477, 7.3], dtype=dtype)
    slightly = 4 * torch.finfo(dtype).eps
    lower, upper = torch.tensor([end[0], -5.0]).to(dtype), torch.tensor([-5.0, end[1]]).to(dtype)
    y = (
        1e-3 * end * torch.tensor([1 + slightly, 1 + slightly], dtype=dtype)
    )  # beyond the end, in value by a few roundings
    root, residual = monotone_inverse(lambda v: 1e-3 * v, y, lower=lower, upper=upper, expansions=0)
    assert torch.equal(root, end)
    assert residual.max() <= 8 * torch.finfo(dtype).eps * y.abs().max()
    at_zero = torch.zeros((), dtype=dtype)
    root, residual = monotone_inverse(lambda v: v + 1.0, at_zero, lower=0.0, upper=1.0, expansions=0)
    assert (root.item(), residual.item()) == (0.0, 1.0)


def flat_in_a_box(v, slope):
    """A cubic on ``[-1, 1]``, flat at its ends, with straight lines of that slope beyond."""
    inner = v.clamp(-1, 1)
    at = slope + (1 - slope) * (1 - inner.square())
    return slope * inner + (1 - slope) * (inner - inner**3 / 3) + (v - inner) * at + 2, at.log()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lines_beside_the_box_come_back(dtype):
    """Where a small slope makes the closed form of the line inexact: 400,000 points, none lost."""
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3
    slope = torch.full((), 1e-3, dtype=dtype)
    y, ladj = flat_in_a_box(x, slope)
    root, back = box_inverse(flat_in_a_box, y, (slope,), 1.0)
    eps = torch.finfo(dtype).eps
    again, _ = flat_in_a_box(root, slope)
    assert ((again - y).abs() <= 4 * eps * y.abs()).all()
    outside = x.abs() > 1.1
    assert ((back + ladj).abs() <= 8 * eps)[outside].all()


def test_a_target_that_is_not_reached_is_nan():
    root, ladj = box_inverse(
        lambda v: (v**3 + v, (3 * v**2 + 1).log()), torch.tensor([0.5, 2e3]), (), 10.0, iterations=1
    )
    assert root.isnan().tolist() == ladj.isnan().tolist() == [True, True]


def test_nan_stays_nan():
    root, residual = monotone_inverse(torch.sinh, torch.tensor([float("nan"), 1.0]))
    assert root.isnan().tolist() == residual.isnan().tolist() == [True, False]


def test_first_and_second_derivatives():
    inputs = [v.requires_grad_() for v in targets()]

    def solve(y, a, b):
        return monotone_inverse(mixture, y, (a, b))[0]

    assert torch.autograd.gradcheck(solve, inputs)
    assert torch.autograd.gradgradcheck(solve, inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # raised inside torch by forward mode
def test_third_derivative_and_forward_mode():
    def inverse(y):
        return monotone_inverse(lambda v: v + v**3, y)[0]

    y = torch.tensor(2.0, dtype=torch.float64)  # x = 1: x' = 1/4, x'' = -6/64, x''' = (3 * 36 / 4 - 6) / 256
    grad = torch.func.grad
    assert torch.allclose(grad(inverse)(y), y.new_tensor(1 / 4))
    assert torch.allclose(grad(grad(inverse))(y), y.new_tensor(-6 / 64))
    assert torch.allclose(grad(grad(grad(inverse)))(y), y.new_tensor((3 * 36 / 4 - 6) / 256))
    assert torch.allclose(torch.func.jvp(inverse, (y,), (torch.ones_like(y),))[1], y.new_tensor(1 / 4))


def test_gradients_reach_what_the_function_closes_over():
    net = torch.nn.Linear(1, 1, dtype=torch.float64)
    y = torch.linspace(-2, 2, 7, dtype=torch.float64)
    root, _ = monotone_inverse(lambda v: v * net.weight.exp().squeeze() + net.bias, y)
    root.sum().backward()
    slope = net.weight.detach().exp().squeeze()
    assert torch.allclose(net.bias.grad, -(7 / slope))
    assert torch.allclose(net.weight.grad, -root.detach().sum())


def test_vmap_and_capture():
    y, a, b = targets(n=7)

    def solve(y, a, b):
        return monotone_inverse(mixture, y, (a, b), iterations=14, expansions=2)[0]

    def slope(y, a, b):
        return torch.func.vjp(lambda v: solve(v, a, b), y)[1](torch.ones_like(y))[0]

    root = solve(y, a, b)
    assert torch.allclose(torch.func.vmap(solve)(y, a, b), root, atol=1e-14)
    assert torch.allclose(torch.func.vmap(solve, in_dims=(0, None, None))(y, a[0], b[0])[0], root[0], atol=1e-14)
    for f in (solve, slope):
        captured = torch.compile(f, backend="eager", fullgraph=True)
        assert torch.allclose(captured(y, a, b), f(y, a, b), atol=1e-14)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_capture_within_function_transforms():
    y, a, b = targets(n=3)

    def solve(y, a, b):
        return monotone_inverse(mixture, y, (a, b), iterations=14, expansions=2)[0]

    for f in (torch.func.vmap(solve), torch.func.vmap(torch.func.grad(solve))):
        captured = torch.compile(f, backend="eager", fullgraph=True)
        assert torch.allclose(captured(y, a, b), f(y, a, b), atol=1e-14)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    class Solve(torch.nn.Module):
        def forward(self, y, a, b):
            return monotone_inverse(mixture, y, (a, b), iterations=14, expansions=2)

    inputs = targets(n=7)
    program = torch.export.export(Solve(), inputs, strict=strict)
    root, residual = program.module()(*inputs)
    assert torch.allclose(root, monotone_inverse(mixture, inputs[0], inputs[1:])[0], atol=1e-10)
    assert residual.max() < 1e-10


def test_shapes_broadcast():
    y, a, b = torch.randn(5, 1), torch.randn(3), torch.rand(3)
    root, residual = monotone_inverse(mixture, y, (a, b))
    assert root.shape == residual.shape == (5, 3)
    assert torch.allclose(mixture(root, a, b), y.expand(5, 3), atol=1e-5)

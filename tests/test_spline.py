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
    (slope,) = torch.autograd.grad(
        PLAIN[rational_quadratic](x, phi, grid)[0].sum(), x
    )  # no formula for the slope in it
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


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # raised inside torch by forward mode
@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("f", BOTH)
def test_first_and_second_derivatives_against_differences(f, tails):
    grid = SplineGrid(3, 2.0, tails)
    x, phi = (v.requires_grad_() for v in draw(grid, 6))
    assert torch.autograd.gradcheck(lambda u, p: f(u, p, grid), (x, phi), check_forward_ad=True)
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


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("f", BOTH)
def test_forward_mode_alone_and_over_reverse(f):
    grid = SplineGrid(4, 2.0)
    x, phi = draw(grid, 7)
    slope = torch.func.jvp(lambda u: f(u, phi, grid)[0], (x,), (torch.ones_like(x),))[1]
    assert torch.allclose(slope.log(), f(x, phi, grid)[1], atol=1e-12)
    scalar = lambda p: f(x, p, grid)[1].sum()
    reverse = torch.func.jacrev(scalar)
    assert torch.allclose(torch.func.jacfwd(reverse)(phi), torch.func.jacrev(reverse)(phi), atol=1e-12)


@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_free_batch(f, strict):
    class Spline(torch.nn.Module):
        def forward(self, x, phi):
            return f(x, phi, SplineGrid(4, 2.0))

    batch = torch.export.Dim("batch", min=2)
    shapes = {"x": {0: batch}, "phi": {1: batch}}
    program = torch.export.export(Spline(), draw(SplineGrid(4, 2.0), 5, 3), dynamic_shapes=shapes, strict=strict)
    inputs = draw(SplineGrid(4, 2.0), 9, 3)
    for value, want in zip(program.module()(*inputs), f(*inputs, SplineGrid(4, 2.0)), strict=True):
        assert torch.allclose(value, want, atol=1e-12)


@pytest.mark.parametrize("f", BOTH)
def test_one_capture_serves_every_shape(f):
    """`torch.compile(f, dynamic=True)` once: other batches and widths, with gradients, and no second capture."""
    frames = []

    def count(graph, _):
        frames.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(f, backend=count, fullgraph=True, dynamic=True)
    grid = SplineGrid(3, 2.0)
    for shape in ((4, 3), (9, 5), (17, 2)):
        x, phi = (v.requires_grad_() for v in draw(grid, *shape))
        ours, plain = compiled(x, phi, grid), f(x, phi, grid)
        assert torch.allclose(ours[0], plain[0], atol=1e-12)
        assert torch.allclose(ours[1], plain[1], atol=1e-12)
    assert len(frames) == 1


@pytest.mark.parametrize("f", BOTH)
def test_planes_broadcast(f):
    """One spline for each feature, or one for all, gives what its expansion gives, gradients included."""
    grid = SplineGrid(4, 2.0)
    x, phi = draw(grid, 6, 5, 3)
    for shape in ((3,), (1, 1, 3), (5, 3), (1,), (6, 5, 3)):
        small = phi[:, 0, 0, 0].reshape(-1, *(1,) * len(shape)).expand(-1, *shape).clone().requires_grad_()
        full = small.detach().reshape(-1, *(1,) * (3 - len(shape)), *shape).expand(-1, 6, 5, 3).clone().requires_grad_()
        for a, b in zip(f(x, small, grid), f(x, full, grid), strict=True):
            assert torch.allclose(a, b, atol=1e-13)
        (g,) = torch.autograd.grad(sum(v.sin().sum() for v in f(x, small, grid)), small)
        (h,) = torch.autograd.grad(sum(v.sin().sum() for v in f(x, full, grid)), full)
        assert torch.allclose(g, h.sum_to_size(grid.n_params, *(1,) * (3 - len(shape)), *shape).reshape(g.shape))
    one = f(x[0, 0, 0], phi[:, 0, 0, 0], grid)
    assert one[0].shape == ()
    wide, _ = f(x[0, 0], phi, grid)
    assert torch.allclose(wide, f(x[0, 0].expand(6, 5, 3), phi, grid)[0])


def test_backward_keeps_nothing_but_its_inputs():
    grid, saved = SplineGrid(4, 2.0), set()
    x, phi = (v.requires_grad_() for v in draw(grid, 6, 3))

    def pack(tensor):
        saved.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        rational_quadratic(x, phi, grid)
    assert saved == {x.untyped_storage().data_ptr(), phi.untyped_storage().data_ptr()}


def test_operator_count_does_not_grow_with_bins():
    """Counts stand for speed at small batches; a loop over bins costs some 40 operators a bin."""

    def count(bins):
        grid = SplineGrid(bins, 2.0)
        x, phi = (v.requires_grad_() for v in draw(grid, 6, 3))
        with torch.profiler.profile() as profile:
            y, ladj = rational_quadratic(x, phi, grid)
            torch.autograd.grad((y, ladj), (x, phi), (torch.ones_like(y), torch.ones_like(y)))
        return sum(e.count for e in profile.key_averages() if e.key.startswith("aten::"))

    few = count(4)
    assert few == count(16)
    assert few < 560  # nested calls counted, 517 when written


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

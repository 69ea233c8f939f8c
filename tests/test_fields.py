"""Vector fields by themselves: one evaluation of each under the laws that the solutions rest on, and the closed forms."""

import pytest
import torch
from torch.func import jacrev, vmap

import bijectory as bj
from bijectory.nets import ConvField, Potential, ResidualField, TimeMLP, UNetField
from bijectory.ops import divergence
from bijectory.ops.image import double, group_norm
from bijectory.spec import from_spec, to_spec
from bijectory.testing import randomize

CONTEXT = 3
UNET = {"hidden": 4, "multipliers": (1, 2), "groups": 2, "heads": 2}
FIELDS = {
    "mlp": lambda c: TimeMLP(3, c, (8, 6)),
    "residual": lambda c: ResidualField(3, c, 6),
    "residual-wide": lambda c: ResidualField(5, c, 4, 3, "tanh"),
    "residual-shallow": lambda c: ResidualField(2, c, 4, 0),
    "potential": lambda c: Potential(3, c, 6, 2, 2),
    "potential-wide": lambda c: Potential(5, c, 4),
    "potential-1d": lambda c: Potential(1, c, 4),
    "conv": lambda c: ConvField((2, 3, 2), c, 4, 1),
    "conv-groups": lambda c: ConvField((1, 2, 2), c, 4, 1, groups=2),
    "unet": lambda c: UNetField((1, 3, 4), c, **UNET),
    "unet-plain": lambda c: UNetField((1, 2, 2), c, 4, (1,), groups=0),
}
each = pytest.mark.parametrize("name", FIELDS)


def made(name, context=CONTEXT, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return randomize(FIELDS[name](context), seed, 0.5).to(dtype)


def points(field, *batch, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*batch, *field.event_shape, generator=g, dtype=torch.float64)
    t = torch.rand(batch, generator=g, dtype=torch.float64)
    return t, z, torch.randn(*batch, field.context, generator=g, dtype=torch.float64)


def same(a, b):
    assert a.shape == b.shape
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@each
@pytest.mark.parametrize("context", [0, CONTEXT])
def test_batches_of_any_shape_and_rows_independent(name, context):
    field = made(name, context)
    t, z, c = points(field, 6)
    c = c if context else None
    want, trace = field.with_divergence(t, z, c)
    same(field(t, z, c), want)
    for k in range(6):  # alone, in a batch with none beside it
        v, one = field.with_divergence(t[k], z[k], None if c is None else c[k])
        same(v, want[k])
        same(one, trace[k])
    fold = lambda u: u.unflatten(0, (2, 3))
    same(field(fold(t), fold(z), None if c is None else fold(c)), fold(want))
    same(field(t[0], z, c)[0], want[0])  # one time for all
    assert field(t[:0], z[:0], None if c is None else c[:0]).shape == (0, *field.event_shape)
    z[1] = torch.nan
    beside = field(t, z, c)
    assert beside[1].isnan().any()
    same(beside[2:], want[2:])


@each
def test_contexts_and_times_broadcast(name):
    field = made(name)
    t, z, c = points(field, 4)
    many = field(t[:1], z[0], c)  # one point, four contexts
    for k in range(4):
        same(many[k], field(t[0], z[0], c[k]))
    grid, trace = field.with_divergence(t[:, None], z[:, None], c[:2])
    assert trace.shape == (4, 2)
    same(grid[3, 1], field(t[3], z[3], c[1]))


@each
def test_every_output_hears_time_context_and_every_input(name):
    field = made(name)
    t, z, c = points(field, 4)
    flat = lambda *args: field(*args).flatten(1)
    by_t, by_z, by_c = jacrev(flat, (0, 1, 2))(t, z, c)
    assert (by_t.diagonal(dim1=0, dim2=2).abs().amax(1) > 0).all()
    assert (torch.stack([by_c[k, :, k] for k in range(4)]).abs().amax(0) > 0).all()
    if "conv" not in name:
        reach = torch.stack([by_z[k, :, k].flatten(1) for k in range(4)]).abs().amax(0)
        assert (reach > 0).all()


@each
def test_divergence_is_that_of_autodiff(name):
    field = made(name)
    t, z, c = points(field, 3)
    v, trace = field.with_divergence(t, z, c)
    _, generic = divergence.exact(lambda u: field(t, u, c), z, len(field.event_shape))
    same(trace, generic)
    for k in range(3):
        jacobian = jacrev(lambda u, k=k: field(t[k], u, c[k]).flatten())(z[k]).flatten(1)
        same(trace[k], jacobian.trace())
    assert v.shape == z.shape


@each
def test_maps_captures_and_differentiates_twice(name):
    field = made(name)
    t, z, c = points(field, 3)
    want = field.with_divergence(t, z, c)
    for a, b in zip(vmap(field.with_divergence)(t, z, c), want, strict=True):
        same(a, b)
    torch._dynamo.reset()
    got = torch.compile(field, backend="eager", fullgraph=True)(t, z, c)
    same(got, want[0])
    leaves = [u[:2].clone().requires_grad_() for u in (t, z, c)]
    score = lambda *args: field(*args).sin().sum()
    assert torch.autograd.gradgradcheck(score, leaves, fast_mode=True, atol=1e-5)


@each
def test_gradients_reach_every_weight_and_the_start_is_near_the_identity(name):
    field = made(name)
    v, trace = field.with_divergence(*points(field, 8))
    (v.sin().sum() + trace.sin().sum()).backward()
    idle = [n for n, p in field.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == (["slope_time"] if "potential" in name else [])
    torch.manual_seed(0)
    fresh = FIELDS[name](CONTEXT).double()
    assert 0 < fresh(*points(fresh, 8)).abs().max() < 0.2


@each
def test_specification_rebuilds_it(name):
    field = made(name, dtype=torch.float32)
    again = from_spec(to_spec(field))
    again.load_state_dict(field.state_dict())
    t, z, c = (u.float() for u in points(field, 3))
    assert torch.equal(again(t, z, c), field(t, z, c))
    assert again.double()(t.double(), z.double(), c.double()).dtype == torch.float64
    assert field.to("meta")(t.to("meta"), z.to("meta"), c.to("meta")).is_meta


@pytest.mark.parametrize("name", ["potential", "potential-wide", "potential-1d"])
def test_potential_is_the_one_of_the_paper(name):
    """Value, gradient and equation against the formulas written out, and against autodiff."""
    field = made(name)
    t, z, c = points(field, 5)
    s = torch.cat((z, t.unsqueeze(-1), c), -1)
    join = lambda dense, time: torch.cat((dense.weight, time.unsqueeze(-1), dense.context_weight), -1)
    sigma = lambda a: torch.logaddexp(a, -a)
    u = sigma(s @ join(field.first, field.first_time).mT + field.first.bias)
    for layer in field.inner:
        u = u + sigma(u @ layer.weight.mT + layer.bias) / field.layers
    a_s = s @ join(field.quadratic, field.quadratic_time).mT + field.quadratic.bias
    line = z @ field.slope + t * field.slope_time
    same(field.value(t, z, c), u @ field.weight + a_s.square().sum(-1) / 2 + line)

    t, z = t.requires_grad_(), z.requires_grad_()
    by_z, by_t = torch.autograd.grad(field.value(t, z, c).sum(), (z, t))
    for got, want in zip(field.gradient(t, z, c), (by_z, by_t), strict=True):
        same(got, want)
    v, trace, residual = field.with_costs(t, z, c)
    same(v, -by_z)
    same(trace, field.with_divergence(t, z, c)[1])
    same(residual, by_t - by_z.square().sum(-1) / 2)


def test_potential_needs_no_autograd_and_stands_extreme_inputs():
    field = made("potential")
    t, z, c = points(field, 4)
    with torch.inference_mode():
        far = field.with_divergence(t, 1e6 * z, c)
    assert all(u.isfinite().all() for u in far)
    origin = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    bare = randomize(Potential(3, 0, 6), 0, 0.5).double()
    with torch.no_grad():
        bare.first.bias.zero_()
    hessian = jacrev(jacrev(lambda u: bare.value(torch.zeros((), dtype=u.dtype), u)))(origin)
    same(-hessian.trace(), bare.with_divergence(torch.zeros((), dtype=origin.dtype), origin)[1])


def test_kernels_of_images():
    x = torch.randn(2, 3, 4, 5, 3, dtype=torch.float64)
    norm = torch.nn.GroupNorm(2, 4, affine=False)
    same(group_norm(x, 2).flatten(0, 1), norm(x.flatten(0, 1)))
    nearest = torch.nn.functional.interpolate(x.flatten(0, 1), scale_factor=2)
    same(double(x, 9, 6).flatten(0, 1), nearest[..., :9, :6])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ResidualField(0), "features"),
        (lambda: ResidualField(2, activation="relu"), "relu"),
        (lambda: ResidualField(2, frequencies=-1), "frequencies"),
        (lambda: Potential(2, layers=0), "layers"),
        (lambda: ConvField((1, 4)), "shape"),
        (lambda: ConvField((1, 4, 4), groups=5), "groups"),
        (lambda: UNetField((1, 2, 2), multipliers=(1, 1)), "fewer multipliers"),
        (lambda: UNetField((1, 8, 8), multipliers=()), "multipliers"),
        (lambda: UNetField((1, 8, 8), heads=3), "heads"),
    ],
)
def test_refused_settings(build, match):
    with pytest.raises(bj.errors.ConfigError, match=match):
        build()

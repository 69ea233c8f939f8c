"""Manifolds: geodesics against differences, embeddings against charts, and what a field on them keeps."""

import math

import pytest
import torch
from torch.func import jacrev

import bijectory as bj
from bijectory.errors import ConfigError, DomainError, ShapeError
from bijectory.nets import Euclidean, ProductManifold, Sphere, Tangent, TimeMLP, Torus
from bijectory.ops.geometry import cos_sinc, safe_norm, sphere_exp, sphere_log
from bijectory.testing import randomize

F64 = torch.float64
PI = math.pi
POSE = ProductManifold((Torus(2), Sphere(3), Euclidean(1), Sphere(2)))
MANIFOLDS = [Euclidean(3), Torus(2), Sphere(2), Sphere(3), Sphere(5), POSE]
every = pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)


def points(manifold, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return bj.recipes.manifold_base(manifold).double().sample(n, generator=g)


def difference(f, t, h=1e-5):
    return (f(t + h) - f(t - h)) / (2 * h)


@every
def test_geodesics_join_their_ends_at_constant_speed(manifold):
    x, y = points(manifold, 200), points(manifold, 200, 1)
    v = manifold.log(x, y)
    torch.testing.assert_close(manifold.project(x, v), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(v.norm(dim=-1), manifold.distance(x, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(manifold.distance(x, y), manifold.distance(y, x), rtol=0, atol=1e-12)
    for t, want in ((0.0, x), (1.0, y)):
        point, _ = manifold.path(x, y, torch.full((200,), t, dtype=F64))
        assert manifold.distance(point, want).max() < 1e-7  # rounding, where ends are nearly opposite
    t = torch.rand(200, dtype=F64, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05
    point, velocity = manifold.path(x, y, t)
    assert manifold.inside(point).all()
    torch.testing.assert_close(velocity.norm(dim=-1), v.norm(dim=-1), rtol=0, atol=1e-9)
    torch.testing.assert_close(manifold.exp(x, t[:, None] * v), point, rtol=0, atol=1e-12)
    clear = (point.abs() < PI - 1e-3).all(-1)  # a turn is no velocity
    slope = difference(lambda s: manifold.path(x, y, s)[0], t)
    torch.testing.assert_close(velocity[clear], slope[clear], rtol=0, atol=1e-7)


@every
def test_log_undoes_exp(manifold):
    x = points(manifold, 100)
    v = manifold.project(x, torch.randn(100, manifold.features, generator=torch.Generator().manual_seed(3), dtype=F64))
    v = v / (1 + v.norm(dim=-1, keepdim=True))  # shorter than the way to the cut locus
    for size in (1.0, 1e-3, 1e-9, 0.0):
        torch.testing.assert_close(manifold.log(x, manifold.exp(x, size * v)), size * v, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_distances_on_the_sphere_are_angles_also_where_the_cosine_has_no_digits(n):
    x = points(Sphere(n), 50)
    side = Sphere(n).project(x, points(Sphere(n), 50, 1))
    side = side / side.norm(dim=-1, keepdim=True)
    for angle in (1e-12, 1e-6, 0.4, 1.0, 2.0, 3.0, PI - 1e-6):
        y = math.cos(angle) * x + math.sin(angle) * side
        got = Sphere(n).distance(x, y)
        torch.testing.assert_close(got, torch.full_like(got, angle), rtol=1e-3 if angle < 1e-9 else 1e-9, atol=1e-15)


def test_coincident_and_opposite_points_have_finite_values_and_gradients():
    x = points(Sphere(3), 20)
    for y in (x.clone(), -x):
        a, b = x.clone().requires_grad_(), y.requires_grad_()
        point, velocity = Sphere(3).path(a, b, torch.full((20,), 0.5, dtype=F64))
        loss = point.sum() + velocity.sum() + Sphere(3).distance(a, b).sum()
        for g in torch.autograd.grad(loss, (a, b), create_graph=True):
            assert g.isfinite().all()
    opposite = sphere_log(x, -x)
    torch.testing.assert_close(opposite.norm(dim=-1), torch.full((20,), PI, dtype=F64))
    torch.testing.assert_close(sphere_exp(x, opposite), -x)
    assert sphere_log(x, x).abs().max() == 0


def test_gradients_of_the_logarithm_are_right_through_coincidence():
    x = points(Sphere(3), 4)
    for gap in (0.0, 1e-4, 0.3, 0.46, 2.5):
        y = sphere_exp(x, gap * Sphere(3).project(x, torch.ones(4, 3, dtype=F64))).detach()
        assert torch.autograd.gradcheck(sphere_log, (x.clone().requires_grad_(), y.clone().requires_grad_()))
        assert torch.autograd.gradgradcheck(
            lambda b, x=x: sphere_log(x, b), y.clone().requires_grad_(), atol=1e-4, rtol=1e-3
        )


def test_ratios_are_smooth_where_their_formula_changes():
    a = torch.linspace(0, 12, 4001, dtype=F64)
    cos, sinc = cos_sinc(a)
    torch.testing.assert_close(cos, a.sqrt().cos(), rtol=0, atol=1e-15)
    torch.testing.assert_close(sinc[1:], (a.sqrt().sin() / a.sqrt())[1:], rtol=0, atol=1e-15)
    zero = torch.zeros(2, dtype=F64, requires_grad=True)
    assert torch.autograd.grad(safe_norm(zero), zero)[0].tolist() == [0, 0]


def test_the_shortest_way_round_a_torus_crosses_the_seam():
    x, y = torch.tensor([[3.0, 0.1]], dtype=F64), torch.tensor([[-3.0, -0.1]], dtype=F64)
    gap = 2 * PI - 6
    torch.testing.assert_close(Torus(2).log(x, y), torch.tensor([[gap, -0.2]], dtype=F64))
    shifted = Torus(2).distance(x + 2 * PI * torch.tensor([1, -2], dtype=F64), y)
    torch.testing.assert_close(shifted, Torus(2).distance(x, y))


def test_mistaken_rows_are_refused_with_their_size_and_the_remedy():
    with pytest.raises(DomainError, match=r"1 rows are not unit vectors.*\(2,\) has norm 5.*Sphere\(3\)\.nearest"):
        Sphere(3).check(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [3.0, 0, 4.0]]))
    with pytest.raises(DomainError, match=r"reaches 90.*degrees"):
        Torus(2).check(torch.tensor([[90.0, 1.0]]))
    with pytest.raises(DomainError, match="not finite"):
        Euclidean(1).check(torch.tensor([[math.nan]]))
    with pytest.raises(ShapeError, match="3 columns"):
        Sphere(3).check(torch.ones(2, 2))
    with pytest.raises(DomainError, match="norm"):
        POSE.check(torch.cat((torch.zeros(1, 2), torch.ones(1, 6)), -1))
    with pytest.raises(DomainError, match="norm nan"):
        Sphere(2).check(torch.tensor([[math.nan, 1.0]]))
    POSE.check(points(POSE, 10).float())
    Sphere(3).check((points(Sphere(3), 500) * 1e4).round() / 1e4)  # a rounded table passes
    flow = bj.rfm_sphere(3, hidden=(8,))
    with pytest.raises(DomainError, match="unit vectors"):
        bj.fit(flow, torch.randn(100, 3), config=bj.FitConfig(epochs=1, progress=False))


@pytest.mark.parametrize(
    "build", [lambda: Sphere(1), lambda: Torus(0), lambda: Euclidean(0), lambda: ProductManifold(())]
)
def test_arguments_are_checked(build):
    with pytest.raises(ConfigError):
        build()
    with pytest.raises(ConfigError, match="embedded in 4"):
        Tangent(TimeMLP(2), Torus(2))


@every
def test_fields_are_tangent_and_their_divergence_is_the_generic_one(manifold):
    field = randomize(Tangent(TimeMLP(manifold.embedding, 2, (8, 8)), manifold), 1).double()
    z, t = points(manifold, 6), torch.tensor(0.3, dtype=F64)
    c = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    v, trace = field.with_divergence(t, z, c)
    torch.testing.assert_close(v, field(t, z, c))
    torch.testing.assert_close(manifold.project(z, v), v, rtol=0, atol=1e-12)
    jacobian = torch.stack([jacrev(lambda u, k=k: field(t, u, c[k]))(z[k]) for k in range(6)])
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=0, atol=1e-12)


def test_squares_of_a_perceptron_are_those_of_its_jacobian():
    net = randomize(TimeMLP(3, 0, (8, 7, 6)), 2).double()
    z, e = torch.randn(2, 5, 3, dtype=F64).unbind()
    t, directions = torch.tensor(0.4, dtype=F64), torch.stack((e, z))
    for got, want in zip(
        net.with_squares(t, z, directions), super(TimeMLP, net).with_squares(t, z, directions), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("features", [2, 3, 4])
def test_ambient_log_det_is_the_one_of_the_sphere(features):
    """Tangent bases at both ends are charts: the Jacobian of the map between them is the Riemannian one."""
    layer = randomize(bj.rfm_sphere(features, hidden=(8,), steps=10).double(), 3).transform
    x = points(Sphere(features), 2)
    z, ladj = layer(x)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, dtype=F64))
    for k in range(2):
        bases = [torch.linalg.svd(p[k : k + 1])[2][1:] for p in (x, z)]
        flat = torch.zeros(features - 1, dtype=F64)
        chart = jacrev(lambda a, k=k, b=bases: b[1] @ layer(sphere_exp(x[k], a @ b[0]))[0])(flat)
        assert torch.linalg.slogdet(chart).logabsdet.item() == pytest.approx(ladj[k].item(), abs=1e-7)


def test_flow_on_the_torus_is_periodic_and_has_no_seam():
    flow = randomize(bj.rfm_torus(2, hidden=(8,)), 4).double()
    x = points(Torus(2), 30)
    for i in range(2):
        left, right, near = x.clone(), x.clone(), x.clone()
        left[:, i], right[:, i], near[:, i] = -PI, PI, PI - 1e-9
        at_left, at_right, beside = (flow.log_prob(v) for v in (left, right, near))
        torch.testing.assert_close(at_left, at_right, rtol=0, atol=1e-10)
        torch.testing.assert_close(beside, at_right, rtol=0, atol=1e-6)
    turned = flow.transform.transform(x + torch.tensor([2 * PI, -4 * PI], dtype=F64))
    torch.testing.assert_close(turned[1], flow.transform(x)[1], rtol=0, atol=1e-10)
    assert (flow.log_prob(x + torch.tensor([2 * PI, 0], dtype=F64)) == -math.inf).all()


def test_any_norm_is_kept_and_others_than_one_have_no_density():
    flow = randomize(bj.rfm_sphere(3, hidden=(8,), steps=2), 5)
    x = 3 * torch.randn(50, 3)
    torch.testing.assert_close(flow.transform(x)[0].norm(dim=-1), x.norm(dim=-1))
    assert (flow.log_prob(x) == -math.inf).all()
    assert flow.log_prob(Sphere(3).nearest(x)).isfinite().all()
    drift = (flow.transform.transform(Sphere(3).nearest(x))[0].norm(dim=-1) - 1).abs().max()
    assert drift > 1e-6  # what the layer removes


def test_check_knows_that_a_density_on_a_surface_has_no_volume():
    flow = randomize(bj.rfm_sphere(3, hidden=(4,), steps=4), 6, 0.2)
    report = flow.check(flow.sample(50))
    assert report.ok, str(report)
    assert "area of a surface" in str(report)

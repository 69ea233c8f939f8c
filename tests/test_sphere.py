"""Densities on spheres, products, and flow matching along geodesics."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.nets import Euclidean, ProductManifold, Sphere, TimeMLP, Torus
from bijectory.objectives import natural_path
from bijectory.ops.sphere import angle_density, cap_mass, log_area, log_normalizer, von_mises_fisher_angle

F64 = torch.float64
PI = math.pi


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sphere_rule(n=60):
    """Nodes and weights of a product rule on the sphere in R^3, exact for polynomials of degree below 2n."""
    height, weight = np.polynomial.legendre.leggauss(n)
    turn = 2 * np.pi * np.arange(2 * n) / (2 * n)
    r = np.sqrt(1 - height**2)
    x = np.stack([np.outer(r, np.cos(turn)), np.outer(r, np.sin(turn)), np.outer(height, np.ones(2 * n))], -1)
    return torch.from_numpy(x.reshape(-1, 3)), torch.from_numpy(np.repeat(weight * np.pi / n, 2 * n))


@pytest.mark.parametrize("kappa", [1e-3, 0.5, 4.0, 300.0, 1e5])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 40])
def test_normaliser_against_bessel_functions(n, kappa):
    order = n / 2 - 1
    k = torch.tensor(kappa, dtype=F64, requires_grad=True)
    got = log_normalizer(k, n)
    want = n / 2 * math.log(2 * PI) + np.log(scipy.special.ive(order, kappa)) - order * math.log(kappa)
    assert got.item() == pytest.approx(want, rel=1e-12, abs=1e-12)
    ratio = scipy.special.ive(order + 1, kappa) / scipy.special.ive(order, kappa)  # the mean length
    assert torch.autograd.grad(got, k)[0].item() == pytest.approx(ratio - 1, rel=1e-8, abs=1e-9)


def test_areas_of_spheres():
    assert [round(math.exp(log_area(n)), 6) for n in (1, 2, 3, 4)] == [2.0, 6.283185, 12.566371, 19.739209]


@pytest.mark.parametrize(("n", "kappa"), [(2, 3.0), (3, 1e-3), (3, 5.0), (3, 2000.0), (6, 20.0)])
def test_angles_of_draws_follow_the_law(n, kappa):
    k = torch.tensor(kappa, dtype=F64)
    angle = von_mises_fisher_angle(torch.Size((4000,)), k, n, seeded(1))
    law = lambda a, k=k: cap_mass(torch.as_tensor(a, dtype=F64), k, n).numpy()
    assert scipy.stats.kstest(angle.numpy(), law).pvalue > 0.01
    other = lambda a: law(a, torch.tensor(max(1.0, 1.4 * kappa), dtype=F64))
    assert scipy.stats.kstest(angle.numpy(), other).pvalue < 0.01
    a = torch.linspace(0.01, min(PI - 0.01, 8 / kappa**0.5), 50, dtype=F64)
    slope = (cap_mass(a + 1e-6, k, n) - cap_mass(a - 1e-6, k, n)) / 2e-6
    torch.testing.assert_close(slope, angle_density(a, k, n), rtol=1e-5, atol=1e-8)


def test_draws_are_rotationally_symmetric_around_their_direction():
    mean = torch.tensor([2.0, -1.0, 2.0], dtype=F64) / 3
    p = bj.VonMisesFisher((2.0, -1.0, 2.0), 4.0).double()
    x = p.sample(40_000, generator=seeded())
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(40_000, dtype=F64))
    length = 1 / math.tanh(4.0) - 1 / 4
    assert (x.mean(0) - length * mean).abs().max() < 4.5 / 200
    side = x - (x @ mean)[:, None] * mean
    spread = side.T @ side / len(x)  # isotropic in the plane that is orthogonal to the mean
    want = (1 - (1 - 2 * length / 4)) / 2 * (torch.eye(3, dtype=F64) - torch.outer(mean, mean))
    assert (spread - want).abs().max() < 0.01


@pytest.mark.parametrize("n", [2, 3, 5])
def test_draws_are_differentiable(n):
    p = bj.VonMisesFisher((1.0,) + (0.0,) * (n - 1), 3.0).double()
    x = p.rsample(40_000, generator=seeded(1))
    assert torch.equal(x, p.sample(40_000, generator=seeded(1)))
    order, mean = n / 2 - 1, lambda k: scipy.special.ive(n / 2, k) / scipy.special.ive(n / 2 - 1, k)
    length = mean(3.0)
    slope = 1 - length**2 - (2 * order + 1) / 3.0 * length  # of the mean length in the concentration
    by_kappa, by_loc = torch.autograd.grad(x[:, 0].mean(), (p.log_ratio, p.loc), retain_graph=True)
    assert by_kappa.item() == pytest.approx(3 * slope, abs=0.02)
    assert by_loc.abs().max() < 0.02  # turning the mean is of second order in its own coordinate
    (turn,) = torch.autograd.grad(x[:, 1].mean(), p.loc)
    assert turn[1].item() == pytest.approx(length, abs=0.02)


def test_densities_have_mass_one_by_quadrature():
    x, w = sphere_rule()
    for p in (bj.UniformSphere(3), bj.VonMisesFisher((1.0, 2.0, 3.0), 30.0)):
        assert (w * p.double().log_prob(x).exp()).sum().item() == pytest.approx(1, abs=1e-7)
    flow = bj.testing.randomize(bj.rfm_sphere(3, hidden=(8,), steps=4), 1).double()
    assert (w * flow.log_prob(x).exp()).sum().item() == pytest.approx(1, abs=1e-4)
    off = torch.tensor([[1.01, 0, 0], [0, 0, 0], [torch.nan, 0, 1]], dtype=F64)
    for p in (bj.UniformSphere(3).double(), bj.VonMisesFisher((1.0, 2.0, 3.0)).double()):
        got = p.log_prob(off)
        assert got[:2].tolist() == [-math.inf] * 2
        assert got[2].isnan()


def test_product_is_independent_and_gives_contexts_to_those_that_read_them():
    parts = bj.VonMises(2, 2.0), bj.DiagonalNormal(1, 3, (8,)), bj.UniformSphere(3)
    p = bj.testing.randomize(bj.densities.Product(*parts))
    c = torch.randn(7, 3)
    x = p.sample(5, c)
    assert x.shape == (5, 7, 6)
    want = parts[0].log_prob(x[..., :2]) + parts[1].log_prob(x[..., 2:3], c) + parts[2].log_prob(x[..., 3:])
    torch.testing.assert_close(p.log_prob(x, c), want)
    assert p.surface
    assert not bj.densities.Product(parts[0]).surface
    for bad in ((), (bj.StandardNormal((2, 2)),), (bj.DiagonalNormal(1, 2), bj.DiagonalNormal(1, 3))):
        with pytest.raises(ConfigError):
            bj.densities.Product(*bad)


def test_arguments_are_checked():
    for build in (
        lambda: bj.VonMisesFisher((0.0, 0.0)),
        lambda: bj.VonMisesFisher((1.0,)),
        lambda: bj.VonMisesFisher((1.0, 0.0), 0.0),
        lambda: bj.UniformSphere(1),
        lambda: bj.recipes.manifold_base("sphere"),
    ):
        with pytest.raises(ConfigError):
            build()


def test_paths_are_those_of_the_field():
    flow = bj.manifold_flow(ProductManifold((Sphere(3), Torus(1))))
    assert natural_path(flow.transform.transform.field) == bj.objectives.Geodesic(flow.transform.manifold)
    assert natural_path(TimeMLP(2)) == bj.Interpolant()


def test_cost_is_the_square_of_the_distance_of_every_pair():
    manifold = ProductManifold((Torus(1), Sphere(3), Euclidean(1)))
    x, e = (bj.recipes.manifold_base(manifold).sample(n, generator=seeded(n)) for n in (4, 5))
    cost = bj.objectives.Geodesic(manifold).cost(x, e)
    assert cost.shape == (4, 5)
    for i in range(4):
        for j in range(5):
            assert cost[i, j].item() == pytest.approx(manifold.distance(x[i], e[j]).item() ** 2, rel=1e-5)


@pytest.mark.parametrize("transport", [False, True])
def test_loss_is_the_error_of_the_tangent_velocity(transport):
    coupling = bj.OptimalTransport(64) if transport else bj.objectives.Independent()
    flow = bj.rfm_sphere(3, hidden=(8,))
    with torch.no_grad():
        for p in flow.transform.transform.field.net.net.head.parameters():
            p.zero_()
    x = flow.base.sample(2000, generator=seeded())
    loss = bj.FlowMatching(coupling=coupling)(flow, bj.Batch(x)).item()
    if transport:
        assert loss < 0.2  # data are uniform already: near pairs
    else:
        assert loss == pytest.approx((PI**2 - 4) / 2 / 3, abs=0.1)  # mean square of the angle, per coordinate


@pytest.mark.parametrize(
    ("manifold", "target", "bound"),
    [
        (Sphere(3), lambda: bj.VonMisesFisher((0.0, 0.6, 0.8), 5.0), 0.05),
        (Torus(1), lambda: bj.VonMises(1, 3.0), 0.05),
        (
            ProductManifold((Torus(1), Euclidean(1))),
            lambda: bj.densities.Product(bj.VonMises(1, 3.0), bj.StandardNormal(1)),
            0.05,
        ),
    ],
    ids=["sphere", "torus", "cylinder"],
)
def test_flow_matching_learns_a_density_on_a_manifold(manifold, target, bound):
    p = target()
    train, test = (p.sample(n, generator=seeded(n)) for n in (4000, 1000))
    flow = bj.manifold_flow(manifold, hidden=(32,), activation="silu", steps=4)
    config = bj.FitConfig(epochs=8, batch_size=200, lr=1e-2, progress=False, patience=None)
    flow = bj.fit(flow, train, objective=bj.FlowMatching(), config=config).model
    with torch.no_grad():
        gap = p.log_prob(test) - flow.log_prob(test)
    untrained = p.log_prob(test) - bj.recipes.manifold_base(manifold).log_prob(test)
    assert untrained.mean() > 0.5
    assert gap.mean() < bound
    assert manifold.inside(flow.sample(100)).all()

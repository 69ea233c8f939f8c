"""The border to torch.distributions: what comes from there, and what goes there."""

import math
import pickle
import sys

import pytest
import torch
from torch import distributions as D
from torch.distributions import constraints, transforms

import bijectory as bj
from bijectory.densities import Product
from bijectory.errors import CheckpointError, ConfigError, FlowError, MissingExtraError, ShapeError
from bijectory.interop import FlowTransform, TorchDensity, TorchTransform, as_density, kl_divergence
from bijectory.interop.extras import need
from bijectory.testing import check_density, check_transform, randomize


def normal(d=2):
    return D.Independent(D.Normal(torch.zeros(d), 1.0), 1)


# -- a distribution as a density ---------------------------------------------------------------------------------------


@pytest.mark.slow  # 10 s on one thread
def test_a_density_keeps_the_laws():
    scale = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    check_density(lambda: TorchDensity(D.MultivariateNormal(torch.ones(2), scale_tril=scale)), 2, reparameterised=False)
    check_density(lambda: TorchDensity(D.Laplace(torch.zeros(2), torch.tensor([1.0, 2.0]))), 2, reparameterised=False)


@pytest.mark.parametrize(
    ("distribution", "outside"),
    [
        (D.Gamma(torch.tensor([2.0, 3.0]), 1.0), -1.0),
        (D.Uniform(torch.zeros(2), 2.0), 3.0),
        (D.Independent(D.Beta(torch.tensor([2.0, 3.0]), 1.5), 1), 1.5),
        (D.LogNormal(torch.zeros(2), 1.0), -1.0),
        (D.TransformedDistribution(normal(), [transforms.SigmoidTransform()]), 2.0),
    ],
)
def test_values_inside_and_outside_the_support(distribution, outside):
    p = TorchDensity(distribution)
    x = p.sample(7, generator=torch.Generator().manual_seed(0))
    want = distribution.log_prob(x)
    torch.testing.assert_close(p.log_prob(x), want if want.dim() == 1 else want.sum(-1))
    x[0, 1], x[1, 0] = outside, math.nan
    got = p.log_prob(x)
    assert got[0] == -math.inf
    assert got[1].isnan()
    assert got[2:].isfinite().all()


def test_draws_follow_their_generator_and_leave_the_global_one_alone():
    p = TorchDensity(D.Gamma(torch.ones(2), 1.0))
    before = torch.get_rng_state()
    a, b = (p.sample((3, 4), generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    assert p.sample(2, torch.zeros(5, 3)).shape == (2, 5, 2)
    torch.manual_seed(1)
    first = p.sample(3)
    torch.manual_seed(1)
    assert torch.equal(first, D.Gamma(torch.ones(2), 1.0).sample((3,)))


def test_it_owns_its_values_and_they_follow_dtype():
    loc = torch.zeros(2, requires_grad=True)
    p = TorchDensity(D.TransformedDistribution(normal(), [transforms.AffineTransform(loc, torch.ones(2) / 3)])).double()
    loc.data += 5
    x = p.sample(3)
    assert x.dtype == p.log_prob(x).dtype == torch.float64
    assert x.abs().max() < 3
    assert not p.log_prob(x).requires_grad
    q = pickle.loads(pickle.dumps(p))
    assert torch.equal(q.log_prob(x), p.log_prob(x))


def test_what_is_no_density_of_vectors_is_refused():
    with pytest.raises(ConfigError, match="give it vectors"):
        TorchDensity(D.Normal(0.0, 1.0))
    with pytest.raises(ConfigError, match="discrete"):
        TorchDensity(D.Poisson(torch.ones(2)))
    with pytest.raises(ConfigError, match="surface of 2 dimensions in 3"):
        TorchDensity(D.Dirichlet(torch.ones(3)))
    with pytest.raises(ConfigError, match="must be a Distribution"):
        TorchDensity(torch.ones(2))


def test_a_flow_over_a_distribution_trains(tmp_path):
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 2), TorchDensity(D.Laplace(torch.zeros(2), 1.0)))
    x = 3 + 2 * flow.base.sample(4000, generator=torch.Generator().manual_seed(0))
    bj.fit(flow, x, config=bj.FitConfig(epochs=8, lr=0.05, progress=False))
    found = flow.sample(4000, generator=torch.Generator().manual_seed(1))
    assert (found.mean(0) - 3).abs().max() < 0.25  # sd of the draws 2.8, so a standard error of 0.045
    assert flow.check(x).ok
    with pytest.raises(CheckpointError, match=r"TorchDensity cannot be stored"):
        bj.save(flow, tmp_path / "m")


# -- transforms --------------------------------------------------------------------------------------------------------


def test_a_transform_of_torch_keeps_the_laws():
    affine = transforms.AffineTransform(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 0.5]))
    check_transform(lambda: TorchTransform(affine), 2)
    sinh = transforms.ComposeTransform([affine, transforms.ExpTransform()])
    check_transform(lambda: TorchTransform(sinh), 2, domain=torch.exp, saturates=True)


def test_the_direction_is_that_of_torch():
    layer = TorchTransform(transforms.ExpTransform(), 2)
    z = torch.randn(5, 2, 3)
    x, ladj = layer.inverse(z)
    assert torch.equal(x, z.exp())
    torch.testing.assert_close(ladj, z.sum((-1, -2)))
    back, other = layer.forward(x)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(other, -ladj)
    reshape = TorchTransform(transforms.ReshapeTransform((6,), (2, 3)), 2)
    assert reshape.data_shape(torch.Size([6])) == (2, 3)
    assert bj.Flow(reshape, bj.StandardNormal(6)).sample(4).shape == (4, 2, 3)
    with pytest.raises(ConfigError, match="not bijective"):
        TorchTransform(transforms.AbsTransform())
    with pytest.raises(ConfigError, match="event_dim of at least 2"):
        TorchTransform(transforms.CorrCholeskyTransform())
    with pytest.raises(ConfigError, match="a surface, no density"):
        bj.Flow(TorchTransform(transforms.StickBreakingTransform()), bj.StandardNormal(2))


@pytest.mark.parametrize("name", ["real_nvp", "maf", "iaf"])
def test_a_flow_as_a_transform_of_torch(name):
    flow = randomize(getattr(bj, name)(3, 2, hidden=(8,))).double()
    c, x = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    base = D.Independent(D.Normal(torch.zeros(3, dtype=torch.float64), 1.0), 1)
    for t in (FlowTransform(flow, c), FlowTransform(flow, c, cache_size=1)):
        p = D.TransformedDistribution(base.expand((5,)), t)
        assert (p.batch_shape, p.event_shape) == ((5,), (3,))
        torch.testing.assert_close(p.log_prob(x), flow.log_prob(x, c))
        y = p.rsample((4,))
        torch.testing.assert_close(p.log_prob(y), flow.log_prob(y, c))
        assert p.has_rsample
    t = FlowTransform(flow, c)
    torch.testing.assert_close(t.inv(t(x)), x)
    torch.testing.assert_close(t.inv.log_abs_det_jacobian(x, t.inv(x)), flow.to_latent(x, c)[1])
    assert t == t.with_cache(1)
    assert t != FlowTransform(flow)
    assert t.with_cache(0) is t


def test_a_layer_that_reshapes_as_a_transform_of_torch():
    t = FlowTransform(bj.Reshape((2, 3), (6,)))
    assert (t.domain.event_dim, t.codomain.event_dim) == (1, 2)
    assert t.forward_shape((5, 6)) == (5, 2, 3)
    assert t.inverse_shape((5, 2, 3)) == (5, 6)
    p = D.TransformedDistribution(normal(6), t)
    assert p.event_shape == (2, 3)
    torch.testing.assert_close(p.log_prob(torch.ones(2, 3)), normal(6).log_prob(torch.ones(6)))


def test_a_transformed_distribution_becomes_a_flow():
    steps = [transforms.AffineTransform(1.0, torch.tensor([2.0, 0.5])), transforms.SigmoidTransform()]
    p = D.TransformedDistribution(D.StudentT(5.0, torch.zeros(2), 1.0), steps)
    flow = as_density(p)
    assert isinstance(flow, bj.Flow)
    x = flow.sample(50)
    torch.testing.assert_close(flow.log_prob(x), p.log_prob(x).sum(-1))
    reshaped = D.TransformedDistribution(
        normal(6), [transforms.ReshapeTransform((6,), (2, 3)), transforms.ExpTransform()]
    )
    x = reshaped.sample((4,))
    torch.testing.assert_close(as_density(reshaped).log_prob(x), reshaped.log_prob(x))
    assert as_density(flow.at()) is flow
    assert isinstance(as_density(normal()), TorchDensity)
    with pytest.raises(ConfigError, match="at a context"):
        as_density(bj.real_nvp(2, 3).at(torch.zeros(3)))


# -- a flow as a distribution ------------------------------------------------------------------------------------------


def test_a_declared_support_is_kept():
    unit = constraints.independent(constraints.unit_interval, 1)
    flow = bj.Flow(bj.Elementwise(bj.Logit(), 2), bj.StandardNormal(2))
    p = flow.at(support=unit)
    assert p.support is unit
    assert p.expand((3,)).support is unit
    x = p.sample((9,))
    assert p.support.check(x).all()
    free = D.TransformedDistribution(p, D.biject_to(p.support).inv)
    torch.testing.assert_close(free.log_prob(torch.logit(x)), flow.base.log_prob(torch.logit(x)), rtol=1e-4, atol=1e-4)
    checked = bj.densities.FlowDistribution(flow, None, torch.Size(), support=unit, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(torch.full((2,), 1.5))
    with pytest.raises(ConfigError, match=r"independent\(..., 1\)"):
        flow.at(support=constraints.unit_interval)


def test_kl_by_monte_carlo():
    torch.manual_seed(0)
    flow = bj.Flow(bj.Elementwise(bj.Affine(), 2), bj.StandardNormal(2))
    with torch.no_grad():
        flow.transform.phi.copy_(torch.tensor([[1.0, -1.0], [0.3, 0.0]]))
    for p, q in ((flow.at(), normal()), (flow, bj.StandardNormal(2))):
        found = kl_divergence(p, q, samples=20_000, seed=1)
        z = flow.sample(200_000, generator=torch.Generator().manual_seed(2))
        exact = (flow.log_prob(z) - normal().log_prob(z)).mean()
        assert abs(found.value - exact) < 5 * found.se
        assert 0 < found.se < 0.02
    many = kl_divergence(bj.real_nvp(2, 3).at(torch.zeros(7, 3)), normal(), samples=50)
    assert many.value.shape == many.se.shape == (7,)
    with pytest.raises(NotImplementedError):
        D.kl_divergence(flow.at(), normal())  # the registry of torch is left alone
    with pytest.raises(ConfigError, match="at least 2"):
        kl_divergence(flow, flow, samples=1)


# -- from the unit cube ------------------------------------------------------------------------------------------------

CUBES = {
    "normal": lambda: bj.StandardNormal(2),
    "diagonal": lambda: randomize(bj.DiagonalNormal(2)),
    "uniform": lambda: bj.BoxUniform(2, lower=(-1.0, 0.0), upper=(1.0, 5.0)),
    "student": lambda: randomize(bj.StudentT(2, dof=3.0)),
    "truncated": lambda: randomize(bj.TruncatedNormal(2, lower=(-math.inf, 1.0), upper=(0.5, math.inf))),
    "product": lambda: Product(bj.BoxUniform(1), bj.StudentT(1)),
    "torch": lambda: TorchDensity(D.Cauchy(torch.zeros(2), 1.0)),
    "independent": lambda: TorchDensity(D.Independent(D.Exponential(torch.ones(2)), 1)),
    "flow": lambda: bj.Flow(randomize(bj.nsf(2, layers=2, hidden=(8,))).transform, bj.StandardNormal(2)),
    "flow of a flow": lambda: bj.Flow(bj.Elementwise(bj.Log(), 2), bj.Flow(bj.LU(2), bj.StandardNormal(2))),
}


@pytest.mark.parametrize("name", CUBES)
def test_uniform_points_become_draws(name):
    """The density is one over the Jacobian of the map, which here is measured by differences."""
    p = CUBES[name]().double()
    u = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.98 + 0.01
    x = p.from_uniform(u)
    assert x.dtype == torch.float64
    h = 1e-6
    columns = [(p.from_uniform(u + h * e) - p.from_uniform(u - h * e)) / (2 * h) for e in torch.eye(2).double()]
    jacobian = torch.stack(columns, -1)
    if "flow" not in name:  # quantiles: each feature rises with its own coordinate
        assert (jacobian.diagonal(dim1=-2, dim2=-1) > 0).all()
    ladj = torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(-ladj, p.log_prob(x), rtol=1e-5, atol=1e-5)


def test_the_ends_of_the_cube_are_finite():
    for name, build in CUBES.items():
        x = build().double().from_uniform(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
        assert x.isfinite().all(), name


def test_no_quantiles_no_cube():
    u = torch.full((2,), 0.5)
    for p in (bj.GaussianMixture(2), TorchDensity(D.MultivariateNormal(torch.zeros(2), torch.eye(2)))):
        with pytest.raises(FlowError, match="no quantile function in closed form"):
            p.from_uniform(u)
        with pytest.raises(FlowError, match="no quantile function"):
            bj.Flow(bj.LU(2), p).from_uniform(u)
    with pytest.raises(FlowError, match="no quantile function"):
        TorchDensity(D.Gamma(torch.ones(2), 1.0)).from_uniform(u)
    with pytest.raises(ShapeError, match="cube of its base"):
        bj.nsf(2).from_uniform(torch.zeros(3))


def test_a_missing_extra_names_its_remedy():
    with pytest.raises(
        MissingExtraError, match=r"no_such_package is not installed; run: pip install bijectory\[pyro\]"
    ):
        need("no_such_package.part", "pyro")
    assert issubclass(MissingExtraError, ImportError)
    with pytest.raises(ModuleNotFoundError, match=r"torch\.no_such_part"):
        need("torch.no_such_part", "pyro")
    with pytest.raises(AttributeError, match="no attribute 'pyramid'"):
        bj.interop.pyramid  # noqa: B018


@pytest.mark.parametrize("name", ["pyro", "sbi"])
def test_a_border_that_needs_an_extra_says_so_at_its_door(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"bijectory.interop.{name}", raising=False)
    monkeypatch.delitem(vars(bj.interop), name, raising=False)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed; run: pip install bijectory\[{name}\]"):
        getattr(bj.interop, name)

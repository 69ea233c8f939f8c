"""Every recipe of the spine: depth, context, capture, storage, and its frozen copy."""

import copy
import io
import math
import pickle

import pytest
import torch

import bijectory as bj
from bijectory.ops.shape import to_planes
from bijectory.recipes import coupling
from laws.cases import randomize

F64 = torch.float64
AFFINE = ["real_nvp", "maf", "iaf"]
SPLINE = ["nsf", "nsf_ar"]
NAMES = ["nice", "gin", *AFFINE, *SPLINE]
SHAPES = [(), (7,), (5, 7), (0,)]


def small(name, features=4, context=3, *, trained=True, **keywords):
    torch.manual_seed(0)
    flow = bj.recipes.RECIPES[name].build(features, context, **{"layers": 3, "hidden": (16,), **keywords})
    return (randomize(flow) if trained else flow).double()


def test_registry_knows_them_all():
    assert set(NAMES) <= set(bj.recipes.RECIPES)
    for name in NAMES:
        entry = bj.recipes.find_recipe(name)
        assert entry.build is getattr(bj, name)
        assert "arXiv:" in entry.paper
        assert entry.summary


# -- depth ------------------------------------------------------------------------------------------------------------


def errors(flow, x):
    """Largest round-trip error both ways; NaN counts as infinite."""
    with torch.no_grad():
        there = (flow.to_data(flow.to_latent(x)[0])[0] - x).abs().max()
        back = (flow.to_latent(flow.to_data(x)[0])[0] - x).abs().max()
    return torch.stack((there, back)).nan_to_num(float("inf")).max().item()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_depth_32_is_exact_at_initialisation(name, seed):
    torch.manual_seed(seed)
    flow = bj.recipes.RECIPES[name].build(8, layers=32)
    assert errors(flow, torch.randn(256, 8)) <= (3e-5 if name in SPLINE else 3e-6)


@pytest.mark.parametrize("name", NAMES)
def test_depth_64_stays_finite_and_invertible_at_initialisation(name):
    torch.manual_seed(0)
    flow = bj.recipes.RECIPES[name].build(8, layers=64)
    assert errors(flow, torch.randn(256, 8)) <= (1e-4 if name in SPLINE else 1e-5)
    with torch.no_grad():
        assert flow.log_prob(torch.randn(256, 8)).isfinite().all()
        assert flow.sample(256).isfinite().all()


@pytest.mark.parametrize("layers", [6, 32])
@pytest.mark.parametrize("features", [2, 8])
@pytest.mark.parametrize("name", SPLINE)
def test_trained_like_weights_keep_any_depth_invertible_in_float32(name, features, layers):
    torch.manual_seed(0)
    flow = randomize(bj.recipes.RECIPES[name].build(features, layers=layers))
    assert errors(flow, torch.randn(256, features)) <= 1e-3


@pytest.mark.parametrize("layers", [1, 3, 6, 32, 128])
def test_linear_layers_of_a_stack_share_one_bound(layers):
    total = 0.0
    for k in range(layers + 1):
        total += math.log10(coupling.linear_mixing(8, k, layers)[-1].max_condition)
    assert total < 6


def test_splines_are_as_published_up_to_six_layers_and_bend_less_in_deeper_stacks():
    assert coupling.bounded_spline(8, 5.0, 6) == bj.RationalQuadratic(8, 5.0)
    deep = coupling.bounded_spline(8, 5.0, 24)
    assert (deep.min_bin, deep.min_slope) == (0.5 / 8, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_depth_32_log_det_equals_autodiff_in_float64(name):
    torch.manual_seed(0)
    flow = bj.recipes.RECIPES[name].build(6, layers=32, hidden=(32,)).double()
    with torch.no_grad():
        for p in flow.parameters():  # away from the identity, and still well conditioned
            p.add_(0.05 * torch.randn_like(p))
    x = torch.randn(3, 6, dtype=F64)
    for f in (flow.to_latent, flow.to_data):
        jac = torch.func.vmap(torch.func.jacrev(lambda v, f=f: f(v)[0]))(x)
        assert torch.allclose(f(x)[1], torch.linalg.slogdet(jac).logabsdet, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_depth_32_with_doubled_weights_stays_finite(name):
    torch.manual_seed(0)
    flow = bj.recipes.RECIPES[name].build(8, layers=32)
    with torch.no_grad():
        for key, p in flow.named_parameters():
            if p.dim() > 1:
                p.mul_(200.0 if "head.weight" in key else 2.0)  # heads start 100 times smaller
        x = torch.randn(256, 8)
        for y, ladj in (flow.to_latent(x), flow.to_data(x)):
            assert y.isfinite().all()
            assert ladj.isfinite().all()


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_gin_preserves_volume_and_learns_the_width_of_each_latent(features, context):
    flow = small("gin", features, context)
    c = torch.randn(7, context, dtype=F64) if context else None
    z, ladj = flow.to_latent(torch.randn(7, features, dtype=F64), c)
    assert (ladj.abs() < 1e-12).all()
    assert (flow.to_data(z, c)[1].abs() < 1e-12).all()
    if features == 5:
        scales = [phi[1] for phi in affine_parameters(flow, c)]
        assert all((s.abs() > 1e-3).any() for s in scales), "volume is preserved, lengths are not"
    assert any(p is flow.base.log_scale for p in flow.parameters()) or context


def affine_parameters(flow, c):
    found = []
    hooks = [
        layer.net.register_forward_hook(lambda _m, _i, out: found.append(to_planes(out, 2))) for layer in flow.transform
    ]
    flow.to_latent(torch.randn(7, 5, dtype=F64), c)
    for hook in hooks:
        hook.remove()
    return found


# -- context ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_no_feature_is_blind_to_the_context(name, features, trained):
    flow = small(name, features, trained=trained)
    x, c = torch.randn(features, dtype=F64), torch.randn(3, dtype=F64)
    for f in (flow.to_latent, flow.to_data):
        jac = torch.func.jacrev(lambda v, f=f: f(x, v)[0])(c)
        assert (jac.abs().amax(1) > 0).all()


@pytest.mark.parametrize("features", [*range(2, 12), 20])
@pytest.mark.parametrize("name", NAMES)
def test_every_feature_depends_on_every_other(name, features):
    flow = small(name, features, 0, layers=4)
    jac = torch.func.jacrev(lambda v: flow.to_latent(v)[0])(0.1 * torch.randn(features, dtype=F64))
    assert (jac != 0).all()


@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_shapes(name, features, shape):
    flow = small(name, features, 0)
    x = torch.randn(*shape, features, dtype=F64)
    z, ladj = flow.to_latent(x)
    back, inverse_ladj = flow.to_data(z)
    assert flow.sample(shape).shape == x.shape == z.shape
    assert flow.log_prob(x).shape == ladj.shape == shape
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_draws_times_contexts(name):
    flow = small(name)
    c = torch.randn(7, 3, dtype=F64)
    x = flow.sample((5, 2), c)
    assert x.shape == (5, 2, 7, 4)
    log_prob = flow.log_prob(x, c)
    assert torch.allclose(log_prob[4, 1, 3], flow.log_prob(x[4, 1, 3], c[3]), atol=1e-10)
    x, log_prob = flow.rsample_and_log_prob(5, c)
    assert torch.allclose(log_prob, flow.log_prob(x, c), atol=1e-8)


# -- capture, differentiation, storage ----------------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def case(request):
    splines = {"bins": 4} if request.param in SPLINE else {}
    flow = small(request.param, layers=2, hidden=(8,), **splines)
    return flow, torch.randn(6, 4, dtype=F64), torch.randn(6, 3, dtype=F64)


def test_compile_whole_graph(case):
    flow, x, c = case
    for f in (flow.to_latent, flow.to_data):
        got, want = torch.compile(f, backend="eager", fullgraph=True)(x, c), f(x, c)
        assert torch.allclose(got[0], want[0], rtol=0, atol=1e-13)
        assert torch.allclose(got[1], want[1], rtol=0, atol=1e-13)


def test_function_transforms(case):
    flow, x, c = case
    for f in (flow.to_latent, flow.to_data):
        z, ladj = torch.func.vmap(f)(x, c)
        assert torch.allclose(z, f(x, c)[0], atol=1e-12)
        jac = torch.func.vmap(torch.func.jacrev(lambda v, c, f=f: f(v, c)[0]))(x, c)
        assert torch.allclose(ladj, torch.linalg.slogdet(jac).logabsdet, atol=1e-10)
    grads = torch.func.vmap(torch.func.grad(flow.log_prob))(x, c)
    (want,) = torch.autograd.grad(flow.log_prob(x.requires_grad_(), c).sum(), x)
    assert torch.allclose(grads, want, atol=1e-12)


def test_double_backward(case):
    flow, x, c = case
    for f in (flow.to_latent, flow.to_data):
        assert torch.autograd.gradgradcheck(lambda v, f=f: f(v, c[:2]), (x[:2].requires_grad_(),), fast_mode=True)


@pytest.mark.slow  # the laws export these in every run
def test_export(case):
    flow, x, c = case

    class Inverse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = flow

        def forward(self, z, c):
            return self.flow.to_data(z, c)[0]

    batch = torch.export.Dim("batch", min=2, max=4096)
    for module, f in ((flow, flow.log_prob), (Inverse(), lambda v, c: flow.to_data(v, c)[0])):
        program = torch.export.export(module, (x, c), dynamic_shapes=({0: batch}, {0: batch}))
        for rows in (6, 3):
            assert torch.allclose(program.module()(x[:rows], c[:rows]), f(x[:rows], c[:rows]), atol=1e-12)


def test_copies_give_the_same_numbers(case):
    flow, x, c = case
    buffer = io.BytesIO()
    torch.save(flow.state_dict(), buffer)
    buffer.seek(0)
    restored = copy.deepcopy(flow)
    randomize(restored, seed=9)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), restored):
        assert torch.equal(twin.log_prob(x, c), flow.log_prob(x, c))
        assert torch.equal(twin.to_data(x, c)[0], flow.to_data(x, c)[0])


def test_double_follows_everywhere(case):
    flow, x, c = case
    for f in (flow.to_latent, flow.to_data):
        assert all(t.dtype == F64 for t in f(x, c))
        exact = [t.clone() for t in f(x, c)]
        single = copy.deepcopy(flow).float()
        got = getattr(single, f.__name__)(x.float(), c.float())
        assert all(t.dtype == torch.float32 for t in got)
        assert torch.allclose(got[1].double(), exact[1], atol=1e-2)
    assert flow.sample(3, c).dtype == F64


# -- frozen -----------------------------------------------------------------------------------------------------------


def test_frozen_gives_the_same_numbers_without_gradients(case):
    flow, x, c = case
    frozen = flow.frozen()
    assert not frozen.training
    assert flow.training
    assert not any(p.requires_grad for p in frozen.parameters())
    for name in ("to_latent", "to_data"):
        for got, want in zip(getattr(frozen, name)(x, c), getattr(flow, name)(x, c), strict=True):
            assert torch.allclose(got, want, atol=1e-11, rtol=1e-11)
            assert not got.requires_grad


def test_frozen_does_not_follow_and_is_stored_as_the_plain_flow(case):
    flow, x, c = case
    frozen, before = flow.frozen(), flow.log_prob(x, c).detach().clone()
    weights = frozen.state_dict()
    randomize(flow, seed=5)
    assert not torch.allclose(flow.log_prob(x, c), before)
    for twin in (frozen, copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), frozen.frozen()):
        assert torch.allclose(twin.log_prob(x, c), before, atol=1e-11)
    flow.load_state_dict(weights)  # same keys, same meaning
    assert torch.allclose(flow.log_prob(x, c), before, atol=1e-11)


def test_weights_loaded_into_a_frozen_flow_count(case):
    flow, x, c = case
    frozen = flow.frozen()
    randomize(flow, seed=5)
    frozen.load_state_dict(flow.state_dict())
    assert torch.allclose(frozen.log_prob(x, c), flow.log_prob(x, c), atol=1e-11)
    assert torch.allclose(frozen.to_data(x, c)[0], flow.to_data(x, c)[0], atol=1e-11)


def test_frozen_flow_is_saved_as_the_plain_flow(case, tmp_path):
    flow, x, c = case
    frozen = flow.frozen()
    bj.save(frozen, tmp_path / "flow")
    loaded = bj.load(tmp_path / "flow")
    assert torch.equal(loaded.log_prob(x, c), flow.log_prob(x, c))
    assert not any(getattr(part, "is_frozen", False) for part in loaded.modules())
    assert torch.allclose(frozen.log_prob(x, c), flow.log_prob(x, c), atol=1e-11)

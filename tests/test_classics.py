"""Planar, radial and Sylvester layers beyond the laws: the papers' formulas, and parameters far from the start."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.ops import ridge
from bijectory.ops.ridge import planar_ridges
from laws.cases import randomize

F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


KINDS = ["householder", "orthogonal", "triangular"]
BUILD = {
    "planar": lambda **k: bj.Planar(3, **k),
    "radial": lambda **k: bj.Radial(3, **k),
    **{kind: lambda kind=kind, **k: bj.Sylvester(3, kind=kind, **k) for kind in KINDS},
}


@pytest.mark.parametrize("layers", [1, 5])
@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_starts_at_the_identity(build, layers):
    layer, x = build(layers=layers), noise(7, 3).float()
    for way in (layer.forward, layer.inverse):
        z, ladj = way(x)
        torch.testing.assert_close(z, x)
        torch.testing.assert_close(ladj, torch.zeros(7))


def test_radial_is_the_map_of_the_paper():
    layer, x = randomize(bj.Radial(3), scale=1.0).double(), noise(50, 3)
    centre, a, b = layer.phi[0].split((3, 1, 1))
    alpha, beta = a.exp().log1p(), b.exp().log1p() - a.exp().log1p()
    r = (x - centre).norm(dim=-1, keepdim=True)
    h, dh = 1 / (alpha + r), -1 / (alpha + r) ** 2
    z, ladj = layer(x)
    torch.testing.assert_close(z, x + beta * h * (x - centre))
    torch.testing.assert_close(ladj, (2 * (1 + beta * h).log() + (1 + beta * h + beta * dh * r).log())[:, 0])


def test_planar_is_a_ridge_and_keeps_the_constraint():
    layer, x = randomize(bj.Planar(3), scale=2.0).double(), noise(50, 3)
    u, w, b = layer.phi[0].split((3, 3, 1))
    u_hat = planar_ridges(layer.phi)[0][0, :, 0]
    assert w @ u_hat > -1
    h = torch.tanh(x @ w + b)
    z, ladj = layer(x)
    torch.testing.assert_close(z, x + h[:, None] * u_hat)
    torch.testing.assert_close(ladj, (1 + (1 - h**2) * (w @ u_hat)).log())
    torch.testing.assert_close(w @ u_hat, (w @ u) / 2 + ((w @ u) ** 2 / 4 + 1).sqrt() - 1)
    across = u_hat - u  # only the part along w is changed
    torch.testing.assert_close(across, (across @ w) / (w @ w) * w)


@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_a_stack_is_its_layers_in_a_chain(build):
    stack, x = randomize(build(layers=4), scale=1.0).double(), noise(50, 3)
    singles = [build(layers=4).double() for _ in range(4)]
    for k, single in enumerate(singles):  # the same layer four times over: take its first pass apart
        single.phi.data.copy_(stack.phi.data)
        single.phi = torch.nn.Parameter(stack.phi.data[k : k + 1])
        if isinstance(single, bj.Sylvester):
            single._fixed = stack._fixed[k : k + 1]
    for a, b in zip(stack(x), bj.Chain(*singles)(x), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(stack.inverse(x), bj.Chain(*singles).inverse(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_sylvester_is_the_map_of_the_paper(kind):
    layer, x = randomize(bj.Sylvester(4, kind=kind, rank=3, layers=2), scale=1.5).double(), noise(50, 4)
    u, w, b, one_plus, g = layer._ridges(layer.phi)
    assert (one_plus > 0).all()
    for k in range(2):
        square, diagonal, _, rest = layer.phi[k].split((9, 3, 3, layer.phi.shape[1] - 15))
        q = layer._frame(rest[None])[0] if kind == "orthogonal" else layer._frame(layer.phi[:, 15:])[k]
        if kind != "orthogonal":
            torch.testing.assert_close(q.T @ q, torch.eye(3, dtype=F64))
        outer, inner = q.T @ u[k], w[k] @ q
        torch.testing.assert_close(q @ outer, u[k])  # the range of u is that of Q
        torch.testing.assert_close(inner @ q.T, w[k])
        for triangle in (outer, inner, g[k]):
            assert triangle.tril(-1).abs().max() < 1e-12
        torch.testing.assert_close(outer.diagonal() * inner.diagonal(), one_plus[k] - 1)
        torch.testing.assert_close(inner.diagonal(), diagonal)
        torch.testing.assert_close(outer.triu(1), square.unflatten(0, (3, 3)).triu(1))
        h = torch.tanh(x @ (inner @ q.T).T + b[k])
        x = x + h @ (q @ outer).T
    torch.testing.assert_close(layer(noise(50, 4))[0], x)


def test_triangular_sylvester_flips_every_second_map():
    fixed = bj.Sylvester(3, kind="triangular", layers=3)._fixed
    assert fixed[0].equal(torch.eye(3))
    assert fixed[1].equal(torch.eye(3).flip(0))
    assert fixed[2].equal(fixed[0])


@pytest.mark.parametrize("kind", ["householder", "orthogonal"])
def test_frames_are_orthonormal_at_any_parameters(kind):
    layer = bj.Sylvester(6, kind=kind, rank=4, layers=8).double()
    for scale in (0.0, 1e-3, 1.0, 1e3):
        q = layer._frame(scale * noise(8, layer.phi.shape[1] - 24))
        torch.testing.assert_close(q.mT @ q, torch.eye(4, dtype=F64).expand(8, 4, 4), rtol=0, atol=1e-13)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_gradients_of_every_parameter_through_both_directions(build, context):
    layer = randomize(build(context=context, layers=2, hidden=(3,)), scale=0.7).double()
    names, weights = zip(*layer.named_parameters(), strict=True)
    x, c = noise(2, 3), noise(2, context, seed=1) if context else None
    for way in ("forward", "inverse"):

        def call(*values, way=way):
            caller = Directed(layer, way)
            return torch.func.functional_call(
                caller, {f"layer.{n}": v for n, v in zip(names, values, strict=True)}, (x, c)
            )

        leaves = [w.detach().clone().requires_grad_() for w in weights]
        assert torch.autograd.gradcheck(call, leaves, fast_mode=bool(context))


class Directed(torch.nn.Module):
    def __init__(self, layer, way):
        super().__init__()
        self.layer, self.way = layer, way

    def forward(self, x, c):
        return getattr(self.layer, self.way)(x, c)


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)
def test_round_trips_at_large_parameters(build, scale):
    x = noise(2000, 3)
    for seed in range(5):
        layer = randomize(build(), seed, scale).double()
        z, ladj = layer(x)
        back, back_ladj = layer.inverse(z)
        slope = (-ladj).exp().clamp(min=1)[:, None]  # how far a rounding of z moves x
        assert ((back - x).abs() <= 1e-10 * slope * (1 + z.abs())).all()
        keep = slope[:, 0] < 1e3
        torch.testing.assert_close(back_ladj[keep], -ladj[keep], rtol=1e-7, atol=1e-7)


def test_the_centre_and_a_vanished_direction_are_fine():
    radial, planar = bj.Radial(2), bj.Planar(2)
    x = radial.phi.detach()[0, :2].clone()
    with torch.no_grad():
        radial.phi[0, 2] = 1.0
        planar.phi.zero_()
    for layer in (radial, planar):
        for way in (layer.forward, layer.inverse):
            leaf = x.clone().requires_grad_()
            z, ladj = way(leaf)
            (z.sum() + ladj).backward()
            torch.testing.assert_close(z, x)
            assert leaf.grad.isfinite().all()


def test_hyper_parameters_are_checked():
    for kind in (bj.Planar, bj.Radial, bj.Sylvester):
        with pytest.raises(ConfigError, match="features"):
            kind(0)
        with pytest.raises(ConfigError, match="layers"):
            kind(2, layers=0)
    for wrong, name in (({"kind": "cayley"}, "kind"), ({"rank": 4}, "rank"), ({"reflections": 0}, "reflections")):
        with pytest.raises(ConfigError, match=name):
            bj.Sylvester(3, **wrong)


# -- the scalar root --------------------------------------------------------------------------------------------------


def root_cases(n=100_000):
    g = torch.Generator().manual_seed(0)
    one_plus = (5 * torch.randn(n, generator=g, dtype=F64)).exp().clamp(1e-10, 1e8)
    r = (4 * torch.randn(n, generator=g, dtype=F64)).exp()
    near = (one_plus - 1).abs() * (1 + 0.3 * torch.randn(n, generator=g, dtype=F64))  # where the knee is
    r = torch.where(torch.rand(n, generator=g) < 0.5, r, near)
    return torch.where(torch.rand(n, generator=g) < 0.5, r, -r), one_plus


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_ridge_root_is_exact_everywhere(dtype):
    r, one_plus = (t.to(dtype) for t in root_cases())
    s = ridge.ridge_root(r, one_plus)
    wide = s.double() + (one_plus.double() - 1) * torch.tanh(s.double()) - r.double()
    assert (wide.abs() <= 3 * torch.finfo(dtype).eps * (1 + r.abs() + one_plus)).all()


def test_ridge_root_starts_on_the_safe_side():
    r, one_plus = root_cases()
    s, start = ridge.ridge_root(r.abs(), one_plus), ridge._start(r.abs(), one_plus - 1, one_plus)
    beyond = torch.where(one_plus > 1, start - s, s - start)
    assert (beyond <= 1e-9 * (1 + s)).all()


def test_a_root_that_was_not_reached_is_nan(monkeypatch):
    monkeypatch.setattr(ridge, "_STEPS", 1)
    s = ridge.ridge_root(torch.tensor([30.96, 1.0], dtype=F64), torch.tensor([31.0, 1.0], dtype=F64))
    assert s.isnan().tolist() == [True, False]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch, at forward mode
def test_ridge_root_derivatives():
    r, one_plus = noise(40).requires_grad_(), noise(40, seed=1).exp().requires_grad_()
    assert torch.autograd.gradcheck(ridge.ridge_root, (r, one_plus), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ridge.ridge_root, (r, one_plus), fast_mode=True)

"""The block autoregressive layer beyond the laws: the paper's formula, structure, inverse and numerical edges."""

import pytest
import torch

import bijectory as bj
from bijectory.errors import ConfigError
from bijectory.nets import BlockDense
from bijectory.ops.blocks import log_matmul, log_tanh_slope, positive_blocks
from bijectory.ops.monotone import monotone_inverse
from bijectory.transforms import block_autoregressive
from laws.cases import randomize

F64 = torch.float64


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def layer(features=3, context=0, units=(4, 3), seed=0, scale=0.7, **keywords):
    return randomize(bj.BlockAutoregressive(features, context, units, hidden=(5,), **keywords), seed, scale).double()


def test_positive_blocks_are_the_weights_of_the_paper():
    raw, log_scale = noise(6, 9), noise(6, seed=1)
    weight, log_diagonal = positive_blocks(raw, log_scale, 3)
    for i in range(3):
        for o in range(2):
            r = 2 * i + o
            row = torch.cat((raw[r, : 3 * i], raw[r, 3 * i : 3 * i + 3].exp(), torch.zeros(6 - 3 * i, dtype=F64)))
            want = log_scale[r].exp() * row / row.norm()
            torch.testing.assert_close(weight[r], want)
            torch.testing.assert_close(log_diagonal[i, o].exp(), want[3 * i : 3 * i + 3])


def test_large_raw_weights_above_the_diagonal_do_no_harm():
    raw = torch.full((4, 4), 500.0, dtype=F64).triu(2).requires_grad_()
    weight, log_diagonal = positive_blocks(raw, torch.zeros(4, dtype=F64), 2)
    (weight.sum() + log_diagonal.sum()).backward()
    assert weight.isfinite().all()
    assert raw.grad.isfinite().all()


def test_log_matmul_and_slope():
    a, b = 3 * noise(2, 3, 4), 3 * noise(2, 4, 5, seed=1)
    torch.testing.assert_close(log_matmul(a, b), (a.exp() @ b.exp()).log())
    far = log_matmul(a, b - torch.tensor([0.0, 2e4, 1e5, 2e6]).unsqueeze(-1))
    torch.testing.assert_close(far, a[..., :1] + b[:, :1])
    assert torch.autograd.gradcheck(log_matmul, (a.requires_grad_(), b.requires_grad_()))
    u = torch.linspace(-5, 5, 11, dtype=F64)
    torch.testing.assert_close(log_tanh_slope(u), (1 - u.tanh() ** 2).log())
    assert log_tanh_slope(torch.tensor(-1e6)).item() == pytest.approx(-2e6)


@pytest.mark.parametrize("residual", ["gated", "plain"])
def test_it_is_the_network_of_the_paper(residual):
    model, x = layer(residual=residual), noise(20, 3)
    h = x
    for k, dense in enumerate(model.layers):
        h = h @ dense.matrix()[0].T + dense.bias
        h = torch.tanh(h) if k < 2 else h
    alpha = torch.sigmoid(model.gate) if residual == "gated" else None
    torch.testing.assert_close(model(x)[0], x + h if alpha is None else alpha * h + (1 - alpha) * x)


def test_jacobian_is_triangular_and_positive():
    model, x = layer(), noise(3)
    jac = torch.autograd.functional.jacobian(lambda v: model(v)[0], x)
    assert jac.triu(1).abs().max() == 0
    assert (jac.tril(-1)[[1, 2, 2], [0, 0, 1]] != 0).all()
    assert (jac.diagonal() > 0).all()
    torch.testing.assert_close(model(x)[1], jac.diagonal().log().sum())


@pytest.mark.parametrize("residual", ["gated", "plain"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_inverse_reaches_everything(scale, residual):
    z = torch.cat((3 * noise(200, 2), 1e4 * noise(50, 2, seed=1)))
    for seed in range(3):
        model = layer(2, units=(8, 8), seed=seed, scale=scale, residual=residual)
        x, ladj = model.inverse(z)
        back, there = model(x)
        slope = there.exp().clamp(min=1)[:, None]  # how far a rounding of x moves z
        assert ((back - z).abs() <= 1e-12 * slope * (1 + z.abs())).all()
        torch.testing.assert_close(ladj, -there)


@pytest.mark.parametrize("context", [0, 2])
def test_gradients_through_the_inverse(context):
    model = layer(2, context, units=(3,))
    names, weights = zip(*model.named_parameters(), strict=True)
    z, c = noise(2, 2).requires_grad_(), noise(2, context, seed=1).requires_grad_() if context else None

    class Back(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, z, c):
            return self.model.inverse(z, c)

    def call(z, *values):
        return torch.func.functional_call(Back(), {f"model.{n}": v for n, v in zip(names, values, strict=True)}, (z, c))

    leaves = [w.detach().clone().requires_grad_() for w in weights]
    assert torch.autograd.gradcheck(call, (z, *leaves), fast_mode=bool(context))
    if context:
        assert torch.autograd.gradcheck(lambda c: model.inverse(z, c), c)


def test_a_root_that_was_not_reached_is_nan(monkeypatch):
    def impatient(*args, **keywords):
        return monotone_inverse(*args, **{**keywords, "iterations": 3})

    monkeypatch.setattr(block_autoregressive, "monotone_inverse", impatient)
    x, ladj = layer().inverse(noise(5, 3))
    assert x.isnan().any()
    assert ladj.isnan().any()


def test_frozen_keeps_the_numbers():
    flow, x = bj.Flow(layer(), bj.StandardNormal(3)), noise(5, 3)
    frozen = flow.frozen()
    assert frozen.transform.layers[0]._weight is not None
    torch.testing.assert_close(frozen.log_prob(x), flow.log_prob(x), rtol=0, atol=1e-13)
    for a, b in zip(frozen.to_data(x), flow.to_data(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_a_network_of_your_own_sees_the_context():
    net = torch.nn.Linear(2, 3 * (4 + 1))

    class Take(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, c):
            return self.net(c)

    model, x, c = bj.BlockAutoregressive(3, 2, (4,), net=Take()), torch.randn(6, 3), torch.randn(6, 2)
    want = bj.BlockAutoregressive(3, 0, (4,))
    for mine, theirs in zip(want.layers, model.layers, strict=True):
        mine.load_state_dict(theirs.state_dict())
    hidden, last = net(c[0]).split((12, 3))
    with torch.no_grad():
        want.layers[0].bias += hidden
        want.layers[1].bias += last
    torch.testing.assert_close(model(x, c)[0][0], want(x)[0][0])


def test_hyper_parameters_are_checked():
    for wrong in ({"features": 0}, {"units": ()}, {"units": (3, 0)}, {"residual": "none"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            bj.BlockAutoregressive(**{"features": 2, **wrong})
    assert BlockDense(2, 3, 4).bias.shape == (8,)

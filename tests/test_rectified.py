"""Stacks of convolutions against plain operations, and what they cost."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import bijectory as bj
from bijectory.nets import ConvNet
from bijectory.ops import image
from bijectory.ops.rectified import rectified
from bijectory.testing import randomize


def plain(x, weights, biases):
    for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = F.conv2d(x if k == 0 else F.relu(x), w, b, padding=w.shape[-1] // 2)
    return x


def stack(kernels=(3, 1, 3), widths=(2, 5, 4, 3), dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    pairs = zip(widths[:-1], widths[1:], kernels, strict=True)
    weights = [torch.randn(o, i, k, k, generator=g, dtype=dtype).requires_grad_() for i, o, k in pairs]
    biases = [torch.randn(o, generator=g, dtype=dtype).requires_grad_() for o in widths[1:]]
    return weights, biases


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kernels", [(3, 1, 3), (1, 3, 1)])
@pytest.mark.parametrize("frozen", [False, True], ids=["input", "no input gradient"])
def test_first_and_second_derivatives_are_those_of_the_plain_operations(rows, kernels, frozen):
    weights, biases = stack(kernels)
    x = torch.randn(rows, 2, 4, 5, dtype=torch.float64, requires_grad=not frozen)
    wanted = [*weights, *biases, *([] if frozen else [x])]
    out, want = rectified(x, weights, biases), plain(x, weights, biases)
    assert type(out.grad_fn).__name__ == "_RectifiedBackward"
    torch.testing.assert_close(out, want)
    g = torch.randn_like(want)
    kept = g.clone()
    once = torch.autograd.grad(out, wanted, g, retain_graph=True)
    torch.testing.assert_close(once, torch.autograd.grad(want, wanted, g, retain_graph=True))
    assert torch.equal(g, kept), "the cotangent is the caller's"
    again = torch.autograd.grad(out, wanted, g)  # nothing that is saved was written over
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    bent = []
    for f in (rectified, plain):
        loss = f(x, weights, biases).square().sum()
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        bent.append(torch.autograd.grad(sum(v.square().sum() for v in first), wanted))
    torch.testing.assert_close(*bent)


def test_it_maps_and_takes_any_batch():
    weights, biases = stack()
    x = torch.randn(3, 4, 2, 4, 4, dtype=torch.float64)
    want = torch.stack([plain(v, weights, biases) for v in x])
    torch.testing.assert_close(rectified(x, weights, biases), want)
    torch.testing.assert_close(torch.func.vmap(lambda v: rectified(v, weights, biases))(x), want)
    slopes = [torch.func.grad(lambda v, f=f: f(v, weights, biases).square().sum())(x[0]) for f in (rectified, plain)]
    torch.testing.assert_close(*slopes)
    assert rectified(x[:0], weights, biases).shape == (0, 4, 3, 4, 4)


def test_mixed_types_take_the_plain_operations():
    net = randomize(ConvNet(2, 4, hidden=8), 0, 0.3)
    x = torch.randn(3, 2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_memory_is_channel_major_between_layers():
    x = torch.randn(5, 3, 4, 4)
    squeezed = image.squeeze(x, 2)
    assert squeezed.movedim(-3, 0).is_contiguous()
    torch.testing.assert_close(squeezed, F.pixel_unshuffle(x, 2))
    torch.testing.assert_close(image.unsqueeze(squeezed, 2), x)
    weight = torch.randn(4, 12)
    mixed = image.mix(squeezed, weight)
    assert mixed.movedim(-3, 0).is_contiguous()
    torch.testing.assert_close(mixed, F.conv2d(squeezed, weight[..., None, None]), rtol=1e-5, atol=1e-5)
    for layer in (bj.Conv1x1(12), bj.ActNorm(12, event_dim=3), bj.ImageCoupling(bj.Affine(), 12, hidden=4)):
        assert layer(squeezed)[0].movedim(-3, 0).is_contiguous(), type(layer).__name__


class Count(TorchDispatchMode):
    """How often each operation runs."""

    def __enter__(self):
        self.calls = {}
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket._qualified_op_name] = (
            self.calls.get(func.overloadpacket._qualified_op_name, 0) + 1
        )
        return func(*args, **(kwargs or {}))


def test_a_step_of_glow_runs_no_more_operations_than_it_did():
    layers = [bj.ActNorm(12, event_dim=3), bj.Conv1x1(12), bj.ImageCoupling(bj.Affine(), 12, hidden=8)]
    x = image.channel_major(torch.randn(4, 12, 4, 4))
    with Count() as count:
        z, ladj = bj.Chain(*layers)(x)
        (z.square().sum() - ladj.sum()).backward()
    assert count.calls["aten::convolution"] == 3
    assert count.calls["aten::convolution_backward"] == 2  # the 1x1 convolution is two matrix products
    assert sum(count.calls.values()) <= 330

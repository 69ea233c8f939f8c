"""Stacks of convolutions with rectifiers between them: the networks in which image flows spend their time.

The autograd function here works with the images of the forward pass alone: a rectifier acts in place on the way there, since
a convolution does not need its own output again, and on the cotangent on the way back, and a 1x1 convolution is
differentiated as the matrix product that it is. Second derivatives, ``torch.func``, captured graphs and autocast take the
plain operations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bijectory.ops.eager import is_direct
from bijectory.ops.image import channels_last, conv2d
from bijectory.ops.native import is_first_order


def rectified(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Convolutions that keep height and width, a rectifier after each but the last.

    Args:
        x: ``(*batch, i, height, width)``.
        weights: ``(o, i, k, k)`` each, with odd ``k``.
        biases: ``(o,)`` each.

    Example:
        >>> one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1)
        >>> rectified(torch.tensor([[[-1.0, 2.0]]]), [one, 3 * one], [zero, zero])
        tensor([[[0., 6.]]])
    """
    tensors = (*weights, *biases)
    records = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *tensors))
    if records and x.dim() == 4 and x.numel() and _is_simple(x, tensors):
        out: Tensor = _Rectified.apply(x, *tensors)
        return out
    return _layers(x, *tensors)[-1]


def _is_simple(x: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether the arithmetic of the backward pass is that of the forward pass: here, now, and in one type."""
    alone = is_direct(x) and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return alone and all(t.dtype == x.dtype and forward_ad.unpack_dual(t).tangent is None for t in tensors)


def _layers(x: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The input of every convolution, then the result."""
    half = len(tensors) // 2
    images = [_laid_out(x)]
    for weight, bias in zip(tensors[:half], tensors[half:], strict=True):
        images.append(conv2d(images[-1].relu_() if len(images) > 1 else images[-1], weight, bias))
    return images


def _laid_out(x: Tensor) -> Tensor:
    """Channels last, but for one image: torch has a kernel for channels first there. `len` would fix the number."""
    return x if x.dim() == 4 and x.shape[0] == 1 else channels_last(x)


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *tensors: Tensor) -> Tensor:
        *inputs, out = _layers(x, *tensors)
        ctx.save_for_backward(x, *tensors, *inputs)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        n = len(ctx.saved_tensors) // 3
        x, tensors, inputs = ctx.saved_tensors[0], ctx.saved_tensors[1 : 1 + 2 * n], ctx.saved_tensors[1 + 2 * n :]
        if not is_first_order(g):
            return tuple(torch.func.vjp(lambda *t: _layers(*t)[-1], x, *tensors)[1](g))
        pulled, back = [], _laid_out(g)
        for k in range(n - 1, -1, -1):
            if k < n - 1:  # through the rectifier behind, whose cotangent is nobody else's
                torch.ops.aten.threshold_backward.grad_input(back, inputs[k + 1], 0, grad_input=back)
            needed = [k > 0 or ctx.needs_input_grad[0], *(ctx.needs_input_grad[1 + k + j * n] for j in range(2))]
            back, *own = _pull(back, inputs[k], tensors[k], needed)
            pulled.append(own)
        weights, biases = zip(*reversed(pulled), strict=True)
        return back, *weights, *biases


def _pull(g: Tensor, x: Tensor, weight: Tensor, needed: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of the input, the weight and the bias of a convolution."""
    if weight.shape[-1] == 1 and len(x) > 1:
        rows, inputs, matrix = g.movedim(1, -1), x.movedim(1, -1).flatten(0, 2), weight.flatten(1)
        flat = rows.flatten(0, 2)
        g_x = (flat @ matrix).unflatten(0, rows.shape[:3]).movedim(-1, 1)
        return g_x, (flat.mT @ inputs).reshape(weight.shape), flat.sum(0)
    grid: dict[str, Any] = {"stride": [1, 1], "padding": [weight.shape[-1] // 2] * 2, "dilation": [1, 1]}
    grid |= {"transposed": False, "output_padding": [0, 0], "groups": 1}
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g, x, weight, bias_sizes=[len(weight)], **grid, output_mask=needed
    )
    return out

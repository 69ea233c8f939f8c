"""What tests of native kernels share: all derivatives of a layer, and how close two lists of tensors must be."""

import torch


def derivatives(layer, way, x, c=None):
    """Results, and gradients of everything; ``way`` may be that of the point alone."""
    x = x.detach().clone().requires_grad_()
    c = None if c is None else c.detach().clone().requires_grad_()
    layer.zero_grad()
    found = getattr(layer, way)(x, c)
    found = found if isinstance(found, tuple) else (found,)
    sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in found).backward()
    given = [] if c is None else [c.grad]
    return [*(t.detach() for t in found), x.grad, *given, *(p.grad for p in layer.parameters())]


def close(ours, theirs, tolerance):
    """Each within ``tolerance`` of the largest entry; a gradient that is missing counts as zero."""
    for a, b in zip(ours, theirs, strict=True):
        if b is None or a is None:
            assert all(t is None or not t.any() for t in (a, b))
        else:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert (a - b).abs().le(tolerance * (1 + b.abs().max() if b.numel() else 1)).all(), (a - b).abs().max()

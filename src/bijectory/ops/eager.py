"""Whether the values of tensors may be read: what decides between a loop that stops by itself and one of fixed length."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_direct(x: Tensor) -> bool:
    """Whether an operation on a tensor is carried out now: not captured, not transformed, not in forward mode.

    False under ``torch.compile`` and ``torch.export``, under the transforms of ``torch.func``, for tensors without values
    (meta, fake) and where forward-mode derivatives are recorded.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not x.is_meta and type(x) is Tensor and forward_ad.unpack_dual(x).tangent is None


def is_plain(x: Tensor, others: Iterable[Tensor | None] = ()) -> bool:
    """Whether an operation on these tensors is plain arithmetic: ``is_direct``, and no derivatives are recorded."""
    if not is_direct(x):
        return False
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *others)))

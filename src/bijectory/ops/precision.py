"""Where autocast must not reach: the data's own way through a layer keeps its digits, only networks may lose some."""

import contextlib

import torch
from torch import Tensor


def full_precision(device: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off inside; nothing at all where it is off already, so that a captured graph is the same."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def as_precise_as(x: Tensor, raw: Tensor) -> Tensor:
    r"""``raw`` in the dtype of ``x`` where that has more digits, else as it is.

    A network under autocast answers in bfloat16. Its rounding is one thing; that of the formula which reads the answer is
    another, and larger near the identity: :math:`e^s` of a small :math:`s` would keep 8 bits of :math:`1 + s`.
    """
    return raw.to(x.dtype) if raw.dtype.itemsize < x.dtype.itemsize else raw

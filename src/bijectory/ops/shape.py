r"""Dimension arithmetic: the only place that knows how batches, events, planes and memory are laid out.

Logical shapes are ``(*batch, *event)`` for data and ``(P, *batch, features)`` for the raw parameters ``phi`` of a scalar
family. *Memory* is feature-major: the feature (and plane) index is the slowest, the batch index the fastest. A long batch
is then one contiguous run for every feature of every plane, and each elementwise kernel one vectorised pass over elements.
Layers keep that layout through strides; nothing here changes a logical shape.
"""

import math

import torch
from torch import Tensor


def sum_event(value: Tensor, event_dim: int) -> Tensor:
    """Sum the last ``event_dim`` dimensions, in at least float32: ``(*batch, *event) -> (*batch,)``."""
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    if event_dim > 1:
        value = value.flatten(value.dim() - event_dim)
    return value.sum(-1) if event_dim else value


def feature_major(x: Tensor) -> Tensor:
    """Copy ``(*batch, features)`` so that memory is ``(features, *batch)``; the logical shape stays.

    A real copy: a transposed view without one makes every later elementwise kernel strided, about four times slower.
    """
    return x if x.dim() < 2 else x.movedim(-1, 0).contiguous().movedim(0, -1)


def take(x: Tensor, order: Tensor) -> Tensor:
    """Pick features, ``x[..., order]``, and keep memory feature-major."""
    return x.movedim(-1, 0).index_select(0, order).movedim(0, -1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map ``(*batch, i) -> (*batch, o)`` computed as ``W @ X`` so that the result is feature-major.

    Args:
        x: ``(*batch, i)``, feature-major for speed, any strides for correctness.
        weight: ``(o, i)``.
        bias: ``(o,)`` or None.
    """
    batch = x.shape[:-1]
    columns = x.mT if x.dim() == 2 else x.movedim(-1, 0).reshape(x.shape[-1], math.prod(batch))
    out = weight @ columns if bias is None else torch.addmm(bias.unsqueeze(-1), weight, columns)
    return out.mT if x.dim() == 2 else out.reshape(weight.shape[0], *batch).movedim(0, -1)


def to_planes(raw: Tensor, n_params: int) -> Tensor:
    """Split a conditioner's output ``(*batch, P * features)`` into planes ``(P, *batch, features)``; a view, no copy.

    Row ``p * features + f`` of the last weight belongs to parameter ``p`` of feature ``f``.
    """
    return raw.movedim(-1, 0).unflatten(0, (n_params, -1)).movedim(1, -1)


def align(phi: Tensor, dim: int) -> Tensor:
    """Give planes ``(P, *batch, features)`` at least ``dim`` dimensions behind the first, to broadcast many at once."""
    return phi.reshape(len(phi), *(1,) * (dim + 1 - phi.dim()), *phi.shape[1:])


def expand_to_context(x: Tensor, c: Tensor | None, event_dim: int) -> Tensor:
    """Expand the batch of ``x`` to the joint batch shape with ``c`` (``(*batch, context)``); a view."""
    if c is None:
        return x
    split = x.dim() - event_dim
    batch = torch.broadcast_shapes(x.shape[:split], c.shape[:-1])
    return x if batch == x.shape[:split] else x.expand(*batch, *x.shape[split:])


def draw_shape(shape: int | tuple[int, ...], c: Tensor | None, event_shape: torch.Size) -> torch.Size:
    """Shape of a draw: ``(*shape, *batch of c, *event)``."""
    lead = (shape,) if isinstance(shape, int) else tuple(shape)
    return torch.Size((*lead, *(c.shape[:-1] if c is not None else ()), *event_shape))

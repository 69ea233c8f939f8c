"""Validation at the public door: static facts only (type, shape, dtype, device), so that capture stays whole."""

import torch
from torch import Tensor, nn

from bijectory.errors import ContextError, DtypeError, FlowError, ShapeError, check


def check_shape(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return a sample shape as a tuple of non-negative ints, or raise ``FlowError``."""
    if type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape):
        return shape  # as it comes from within
    lead = (shape,) if isinstance(shape, int) else tuple(shape) if isinstance(shape, (tuple, list)) else None
    ok = lead is not None and all(
        isinstance(n, (int, torch.SymInt)) and not isinstance(n, bool) and n >= 0 for n in lead
    )
    check(ok, FlowError, f"shape must be a non-negative int or a tuple of them, got {shape!r}.")
    return lead or ()


def check_tensor(x: object, name: str) -> None:
    """Check that ``x`` is a dense tensor."""
    if not isinstance(x, Tensor):
        raise DtypeError(
            f"expected a torch.Tensor for {name}, got {type(x).__module__}.{type(x).__name__}; "
            f"use torch.as_tensor({name}) or the scikit-learn estimator FlowDensity."
        )
    check(x.layout == torch.strided, DtypeError, f"{name} is sparse ({x.layout}); use {name}.to_dense().")


def check_events(module: nn.Module, x: Tensor, event_shape: torch.Size, name: str) -> None:
    """Check that ``x`` is a tensor ``(*batch, *event_shape)`` of the module's dtype and device."""
    check_tensor(x, name)
    n = len(event_shape)
    if x.dim() < n or x.shape[x.dim() - n :] != event_shape:
        raise ShapeError(shape_message(x, event_shape, name))
    reference = _reference(module)
    if reference is None:
        return
    if x.dtype != reference.dtype:
        short, want = (str(d).removeprefix("torch.") for d in (x.dtype, reference.dtype))
        other = f" or flow.to(torch.{short})" if x.dtype.is_floating_point else ""  # a flow has no integer weights
        raise DtypeError(f"{name} is {short} but the flow is {want}; use {cast(x, reference.dtype, name)}{other}.")
    if x.device != reference.device:
        raise DtypeError(f"{name} is on {x.device}, the flow is on {reference.device}; move one with .to(...).")


def check_floating(module: nn.Module, x: Tensor, name: str) -> None:
    """Check that ``x`` holds floating-point numbers."""
    if not x.dtype.is_floating_point:
        reference = _reference(module)
        remedy = cast(x, torch.get_default_dtype() if reference is None else reference.dtype, name)
        raise DtypeError(f"{name} is {str(x.dtype).removeprefix('torch.')}, not a floating-point number; use {remedy}.")


def cast(x: Tensor, dtype: torch.dtype, name: str) -> str:
    """What makes ``x`` a tensor of that dtype, in code."""
    if x.dtype.is_complex:
        return f"torch.view_as_real({name})"
    short = {torch.float32: "float()", torch.float64: "double()"}
    return f"{name}.{short.get(dtype, f'to({dtype})')}"


def shape_message(x: Tensor, event_shape: torch.Size, name: str) -> str:
    """What is wrong with the shape of ``x``, and what to do."""
    got = tuple(x.shape)
    if len(event_shape) != 1:
        return f"{name} has shape {got}; this flow takes (*batch, {', '.join(map(str, event_shape))})."
    features = event_shape[0]
    if features == 1 and x.dim() == 1:
        return (
            f"{name} has shape {got}; for a flow with features=1 pass {name}[:, None] ({x.shape[0]} events) "
            f"or one event of shape (1,)."
        )
    if x.dim() == 0:
        return f"{name} is a scalar; this flow takes (*batch, {features})."
    return f"{name} has {x.shape[-1]} features (shape {got}); this flow was built with features={features}."


def check_context(module: nn.Module, c: Tensor | None, width: int) -> None:
    """Check that a context is present exactly when the flow reads one, and that its width fits."""
    if c is None:
        check(width == 0, ContextError, f"this flow was built with context={width} but got context=None.")
        return
    if not isinstance(c, Tensor):
        raise DtypeError(f"expected a torch.Tensor for the context, got {type(c).__name__}; use torch.as_tensor(c).")
    if width == 0:
        raise ContextError(f"this flow was built without context but got one of shape {tuple(c.shape)}.")
    if c.dim() == 0 or c.shape[-1] != width:
        got = c.shape[-1] if c.dim() else "no"
        raise ContextError(f"context has {got} features (shape {tuple(c.shape)}), expected {width}.")
    reference = _reference(module)
    if reference is not None and (c.dtype != reference.dtype or c.device != reference.device):
        raise DtypeError(
            f"the context is {c.dtype} on {c.device} but the flow is {reference.dtype} on {reference.device}; "
            "move one with .to(...)."
        )


def check_batches(x: Tensor, c: Tensor | None, event_dim: int) -> None:
    """Check that the batch shapes of ``x`` and ``c`` broadcast."""
    if c is None:
        return
    batch = x.shape[: x.dim() - event_dim]
    for n, m in zip(reversed(batch), reversed(c.shape[:-1]), strict=False):
        if n != m and n != 1 and m != 1:
            raise ContextError(f"context has {m} rows, x has {n}; use 1 or {n} (batch {tuple(batch)}).")


def _reference(module: nn.Module) -> Tensor | None:
    """The first parameter, else the first floating-point buffer: every call comes past here, so no generators."""
    todo: list[nn.Module | None] = [module]
    while todo:
        if (m := todo.pop()) is None:
            continue
        for p in m._parameters.values():
            if p is not None:
                return p
        todo.extend(reversed(m._modules.values()))
    return next((b for b in module.buffers() if b.is_floating_point()), None)

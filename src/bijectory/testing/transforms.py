"""Laws of transforms: the layers of a flow."""

import re

import torch
from torch import Tensor, nn
from torch.func import jacrev

from bijectory.testing.maps import COSTLY_MAP_LAWS, MAP_LAWS
from bijectory.testing.subject import Subject, Way, detached
from bijectory.testing.violation import Law, law, require, require_close


@law
def jacobian(s: Subject) -> None:
    """``ladj`` is ``log|det J|`` of the Jacobian that autodiff finds, both ways."""
    for way in s.ways():
        x, c = way.inputs(3), s.side(3)
        ladj = way.call(x, c)[1]
        for i in range(len(x)):
            row = s.row(c, i)
            j = jacrev(lambda v, call=way.call, row=row: call(v, row)[0].flatten())(x[i]).flatten(1)
            want = torch.linalg.slogdet(j).logabsdet
            require_close(f"ladj of {way.name} against autodiff, row {i}", ladj[i], want, s.tolerance.ladj)


@law
def context_broadcasts(s: Subject) -> None:
    """5 draws x 7 contexts: every shape of ``c`` that broadcasts gives the rows of the expanded call."""
    if not s.context:
        return
    for way in s.ways():
        x = way.inputs(5, 7)
        for batch in ((), (1,), (7,), (5, 7), (5, 1)):
            c = s.side(*batch)
            full = c.expand(5, 7, s.context)  # type: ignore[union-attr]
            for a, b in zip(way.call(x, c), way.call(x, full), strict=True):
                require_close(f"{way.name} of (5, 7) rows with context {batch}", a, b, s.tolerance.same)
        one, c = way.inputs(), s.side(7)
        y, ladj = way.call(one, c)
        require(y.shape[:1] == ladj.shape == (7,), f"{way.name} of one row, 7 contexts: {tuple(y.shape)}")


@law
def context_matters(s: Subject) -> None:
    """Every context dimension changes the result, and every output depends on the context."""
    if not s.context:
        return
    for way in s.ways():
        reach, x = _context_reach(way, way.inputs(16), s.side(16))
        blind = [k for k in range(s.context) if not reach[:, k].any()]
        require(not blind, f"{way.name} is blind to the context dimensions {blind}")
        y = way.call(x, s.side(16))[0].flatten(1)
        copied = [bool((y[:, i : i + 1] == x.flatten(1)).all(0).any()) for i in range(y.shape[1])]
        deaf = [i for i in range(y.shape[1]) if not reach[i].any() and not copied[i] and i not in s.context_free]
        require(not deaf, f"outputs {deaf} of {way.name} ignore the context")


def _context_reach(way: Way, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Booleans ``(outputs + 1, context)``: whether output (the last is ``ladj``) ever changes with a context dimension."""
    (c,) = detached(c)
    y, ladj = way.call(x, c)
    columns = [*y.flatten(1).unbind(1), ladj]
    grads = [
        torch.autograd.grad(v.sum(), c, retain_graph=True, allow_unused=True)[0] if v.requires_grad else None
        for v in columns
    ]
    return torch.stack([torch.zeros_like(c[0]) if g is None else g.abs().amax(0) for g in grads]) > 0, x


@law
def gradients_reach_parameters(s: Subject) -> None:
    """Every parameter gets a finite, non-zero gradient from either direction."""
    built = s.trained()
    for way in s.ways(built):
        y, ladj = way.call(way.inputs(64), s.side(64))
        built.zero_grad()
        if (loss := y.sin().sum() + ladj.sin().sum()).requires_grad:
            loss.backward()
        require_gradients(s, built, way.name)


def require_gradients(s: Subject, built: nn.Module, what: str) -> None:
    """Require a finite gradient on every parameter, non-zero unless the parameter is listed as idle."""
    for name, p in built.named_parameters():
        if not p.requires_grad or not p.numel() or any(re.search(pattern, name) for pattern in s.idle):
            continue
        require(p.grad is not None and bool(p.grad.any()), f"{what} sends no gradient to {name}")
        require(bool(p.grad.isfinite().all()), f"{what} sends a non-finite gradient to {name}")  # type: ignore[union-attr]


@law
def state_restores(s: Subject) -> None:
    """The ``state_dict`` in a fresh build gives the same bits."""
    built, other = s.trained(), s.fresh(s.seed + 1)
    other.load_state_dict(built.state_dict())
    for way, again in zip(s.ways(built), s.ways(other), strict=True):
        x, c = way.inputs(7), s.side(7)
        for a, b in zip(way.call(x, c), again.call(x, c), strict=True):
            require(torch.equal(a, b), f"{way.name} differs after state_dict into a fresh build")


@law
def double_is_float64(s: Subject) -> None:
    """``.double()`` computes in float64 throughout, constants too: equal to a build born in float64."""
    built = s.in_dtype(torch.float64).trained()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        born = s.in_dtype(torch.float64).fresh()
    finally:
        torch.set_default_dtype(default)
    with torch.no_grad():
        for p, q in zip(born.parameters(), built.parameters(), strict=True):
            p.copy_(q)
    wide = s.in_dtype(torch.float64)
    for way, ref in zip(wide.ways(built), wide.ways(born), strict=True):
        x, c = way.inputs(16), wide.side(16)
        for a, b in zip(way.call(x, c), ref.call(x, c), strict=True):
            require_close(f"{way.name} after .double()", a, b, wide.tolerance.same)


@law
def maps_alone(s: Subject) -> None:
    """``encode`` and ``decode`` are the maps of ``forward`` and ``inverse`` without their log-determinants."""
    built = s.trained()
    for way, alone in zip(s.ways(built), (built.encode, built.decode), strict=True):
        x, c = way.inputs(7), s.side(7)
        y = way.call(x, c)[0]
        require_close(f"{alone.__name__} against {way.name}", alone(x, c), y, s.tolerance.same, 1 + y.abs())


TRANSFORM_LAWS: tuple[Law, ...] = (
    *MAP_LAWS,
    jacobian,
    context_broadcasts,
    context_matters,
    gradients_reach_parameters,
    state_restores,
)
"""Laws that run in every dtype."""

COSTLY_TRANSFORM_LAWS: tuple[Law, ...] = (*COSTLY_MAP_LAWS, double_is_float64, maps_alone)
"""Laws that are slow, or that need float64; run once."""

r"""Initial value problems :math:`dy/dt = f(t, y; \theta)` for batches of rows: two loops over the same tableaus.

``fixed`` takes equal steps: no branch looks at a value, so it runs under ``vmap``, ``compile`` and ``export``. It is a plain
composition of calls of ``f``; its gradients are those of the discrete solution, of any order.

``adaptive`` gives *every row its own time and step size*: the error norm never mixes rows, so a row's result does not depend
on who else is in the batch. Steps follow proportional-integral control. Step sizes are constants to the gradients.

The state is a tuple of tensors that share their batch dimensions, ``(*batch, *event)`` each, so that a point and the
log-determinant it gathers are solved together: the last ``gathered`` tensors are integrals that ``f`` does not read, and no
stage has to keep them up to date. Time may run backwards.

References:
    Solving Ordinary Differential Equations I, Hairer, Nørsett, Wanner 1993: sec. II.4 (error norm and first step).
    Automatic control and adaptive time-stepping, Söderlind 2002, Numerical Algorithms 31 (proportional-integral control).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bijectory.errors import ConfigError, ConvergenceError, check
from bijectory.ops.tableaus import TABLEAUS, Tableau

State = tuple[Tensor, ...]
Slope = Callable[..., State]
"""``f(t, y, *params) -> dy/dt``: ``t`` is a scalar tensor on a fixed grid and ``(*batch,)`` with adaptive steps."""

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


class Solution(NamedTuple):
    """What ``adaptive`` returns.

    Attributes:
        y: The state at the end; NaN in rows that failed.
        evaluations: Evaluations of ``f`` that a row needed, ``(*batch,)``.
        steps: Steps taken.
        rejected: Steps tried in vain.
        status: 0: done. 1: the state or its slope is not finite.
        grid: The steps that each row took, in order and with their sign, ``(most steps of a row, *batch)``, then zeros.
    """

    y: State
    evaluations: Tensor
    steps: Tensor
    rejected: Tensor
    status: Tensor
    grid: Tensor


def find_tableau(method: str) -> Tableau:
    """The tableau of a name.

    Raises:
        ConfigError: If there is none.
    """
    check(method in TABLEAUS, ConfigError, f"method={method!r} is unknown; use one of {list(TABLEAUS)}.")
    return TABLEAUS[method]


def fixed(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 8,
    method: str = "tsit5",
    gathered: int = 0,
    clock: Callable[..., Tensor] | None = None,
) -> State:
    """Integrate from ``start`` to ``end`` in equal steps.

    Args:
        f: The slope, ``f(t, y, *params)``.
        y: State at ``start``.
        params: Tensors handed to ``f``.
        start: First time.
        end: Last time, on either side of ``start``.
        steps: Number of steps.
        method: Name of a tableau.
        gathered: How many of the last tensors of the state ``f`` does not read; it is handed stale ones.
        clock: ``clock(times, *params)``, ``(n,) -> (n, …)``: what ``f`` is handed in place of a time, made for all stages of
            all steps at once. None: the time itself.

    Raises:
        ConfigError: If ``steps < 1`` or the method is unknown.

    Example:
        >>> (y,) = fixed(lambda t, y: (-y[0],), (torch.ones(()),))
        >>> round(y.item(), 5)  # exp(-1)
        0.36788
    """
    check(steps >= 1, ConfigError, f"steps must be at least 1, got {steps}.")
    tableau = find_tableau(method)
    h = (end - start) / steps
    times = torch.tensor([start + k * h + c * h for k in range(steps) for c in tableau.c], dtype=torch.float64)
    times = times.to(y[0].device, y[0].dtype)
    stages = (times if clock is None else clock(times, *params)).unflatten(0, (steps, -1))
    for now in stages.unbind(0):
        y = moved(y, _slopes(f, y, params, now, h, tableau, gathered), tableau.b, h)
    return y


def fixed_slopes(
    f: Slope, y: State, params: Sequence[Tensor], t: float, h: float, tableau: Tableau, gathered: int = 0
) -> list[State]:
    """The slopes at the stages of one step from ``t`` to ``t + h``, the same for all rows."""
    times = torch.tensor([t + c * h for c in tableau.c], dtype=torch.float64).to(y[0].device, y[0].dtype)
    return _slopes(f, y, params, times, h, tableau, gathered)


def _slopes(
    f: Slope, y: State, params: Sequence[Tensor], stages: Tensor, h: float, tableau: Tableau, gathered: int
) -> list[State]:
    slopes: list[State] = []
    for now, a in zip(stages.unbind(0), ((), *tableau.a), strict=True):
        slopes.append(f(now, moved(y, slopes, a, h, gathered), *params))
    return slopes


def moved(y: State, slopes: Sequence[State], weights: Sequence[float], h: float, gathered: int = 0) -> State:
    """``y + h * sum(w * k)``, one fused operation a term; the last ``gathered`` tensors stay as they are."""
    read = len(y) - gathered
    front = y[:read]
    for w, k in zip(weights, slopes, strict=True):
        if w:
            front = tuple(torch.add(u, v, alpha=h * w) for u, v in zip(front, k[:read], strict=True))
    return (*front, *y[read:])


def adaptive(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    method: str = "tsit5",
    max_steps: int = 1000,
    batch_dim: int | None = None,
    gathered: int = 0,
) -> Solution:
    """Integrate from ``start`` to ``end``, every row with step sizes of its own.

    A batch of ``f`` is evaluated until its slowest row is done; rows that are done stand still. Evaluations are counted for
    each row as if it were alone.

    Args:
        f: The slope, ``f(t, y, *params)``, with ``t`` of shape ``(*batch,)``. A row of it may depend on that row only.
        y: State at ``start``.
        params: Tensors handed to ``f``.
        start: First time.
        end: Last time, on either side of ``start``.
        rtol: Tolerance of the error of a step relative to the state.
        atol: Absolute tolerance.
        method: Name of a tableau with an error estimate.
        max_steps: Cap on the steps tried for any one row.
        batch_dim: Leading dimensions that count rows; None: those of the tensor with the fewest.
        gathered: How many of the last tensors of the state ``f`` does not read; it is handed stale ones.

    Raises:
        ConfigError: If the method has no error estimate, or a number is out of range.
        ConvergenceError: If a row needs more than ``max_steps``.

    Example:
        >>> rate = torch.tensor([1.0, 30.0])  # the second row needs more steps, the first does not
        >>> solution = adaptive(lambda t, y: (-rate * y[0],), (torch.ones(2),))
        >>> solution.steps.tolist()[0] < solution.steps.tolist()[1]
        True
    """
    tableau = find_tableau(method)
    check(bool(tableau.error), ConfigError, f"method={method!r} has no error estimate; use e.g. 'tsit5'.")
    check(rtol >= 0 and atol > 0, ConfigError, f"rtol={rtol} must not be negative, atol={atol} must be positive.")
    check(max_steps >= 1, ConfigError, f"max_steps must be at least 1, got {max_steps}.")
    batch = y[0].shape[: min(u.dim() for u in y) if batch_dim is None else batch_dim]
    sign = 1.0 if end >= start else -1.0
    span = abs(end - start)

    def call(since: Tensor, u: State) -> State:
        return f(start + sign * since, u, *params)

    def norm(d: State, u: State, v: State) -> Tensor:
        return _norm(len(batch), d, u, v, rtol, atol)

    gone = y[0].new_zeros(batch)
    k = call(gone, y)
    with torch.no_grad():
        failed = ~_finite(len(batch), y, k)
        h = _first_step(call, y, k, norm, sign, tableau.error_order).clamp(max=span)
        last = torch.ones_like(h)
        zero = torch.zeros(batch, dtype=torch.long, device=h.device)
        counts = {"evaluations": zero + 2, "steps": zero, "rejected": zero}
        active = ~failed & (span > 0)
    reads_end = len(tableau.error) > len(tableau.b)
    tried: list[tuple[Tensor, Tensor]] = []
    for _ in range(max_steps):
        if not bool(active.any()):
            break
        with torch.no_grad():
            h = torch.minimum(h, span - gone)
            final = h >= span - gone
            step = torch.where(active, sign * h, torch.zeros_like(h))
        slopes = [k]
        for c, a in zip(tableau.c[1:], tableau.a, strict=True):
            slopes.append(call(gone + c * step.abs(), stepped(y, slopes, a, step, gathered)))
        new = stepped(y, slopes, tableau.b, step)
        k_new = call(gone + step.abs(), new)
        with torch.no_grad():
            weighted = slopes if not reads_end else [*slopes, k_new]
            change = stepped(tuple(torch.zeros_like(u) for u in y), weighted, tableau.error, step)
            error = norm(change, y, new)
            error = torch.where(_finite(len(batch), new, k_new), error, torch.full_like(error, torch.inf))
            accepted, refused = active & (error <= 1), active & ~(error <= 1)
            counts["evaluations"] = counts["evaluations"] + active * len(tableau.b)  # the last one opens the next step
            tried.append((accepted, step))
            counts["steps"], counts["rejected"] = counts["steps"] + accepted, counts["rejected"] + refused
            gone = torch.where(accepted, torch.where(final, torch.full_like(h, span), gone + h), gone)
            h, last = _controlled(h, error, last, accepted, refused, tableau.error_order)
            active = active & (gone < span)
            if not bool(accepted.any()):  # nothing to keep, so no graph either
                continue
        y = tuple(torch.where(widen(accepted, u), v, u) for u, v in zip(y, new, strict=True))
        k = tuple(torch.where(widen(accepted, u), v, u) for u, v in zip(k, k_new, strict=True))
    if bool(active.any()):
        worst = span - float(gone[active].min())
        raise ConvergenceError(
            f"{int(active.sum())} of {active.numel()} rows are not at the end after max_steps={max_steps} steps "
            f"(up to {worst:.3g} of {span:.3g} left); loosen rtol={rtol:g} and atol={atol:g}, raise max_steps, or "
            "make the field smoother."
        )
    y = tuple(torch.where(widen(failed, u), torch.full_like(u, torch.nan), u) for u in y)
    grid = _accepted(tried, counts["steps"], h)
    return Solution(y, counts["evaluations"], counts["steps"], counts["rejected"], failed.long(), grid)


def _accepted(tried: Sequence[tuple[Tensor, Tensor]], steps: Tensor, like: Tensor) -> Tensor:
    """The accepted steps of each row, moved up to the front: ``(most steps, *batch)``."""
    if not tried or not steps.numel():
        return like.new_zeros((0, *steps.shape))
    accepted, sizes = (torch.stack(column) for column in zip(*tried, strict=True))
    sizes = torch.where(accepted, sizes, torch.zeros_like(sizes))
    order = accepted.int().argsort(dim=0, descending=True, stable=True)
    return sizes.gather(0, order)[: int(steps.max())]


def widen(rows: Tensor, u: Tensor) -> Tensor:
    """``(*batch,)`` with trailing dimensions of size one, to broadcast with ``u``."""
    return rows.reshape((*rows.shape, *(1,) * (u.dim() - rows.dim())))


def stepped(y: State, slopes: Sequence[State], weights: Sequence[float], h: Tensor, gathered: int = 0) -> State:
    """``y + h * sum(w * k)`` with a step for each row; the last ``gathered`` tensors stay as they are."""
    used = [(w, k) for w, k in zip(weights, slopes, strict=True) if w]
    if not used:
        return y
    (w, first), *rest = used
    front = []
    for i, u in enumerate(y[: len(y) - gathered]):
        total = w * first[i]
        for v, k in rest:
            total = torch.add(total, k[i], alpha=v)
        front.append(torch.addcmul(u, widen(h, u), total))
    return (*front, *y[len(y) - gathered :])


def _finite(batch_dim: int, *states: State) -> Tensor:
    """Which rows are finite throughout, ``(*batch,)``."""
    return torch.stack([_rows(u, batch_dim).isfinite().all(-1) for y in states for u in y]).all(0)


def _rows(u: Tensor, batch_dim: int) -> Tensor:
    """One vector for each row: ``(*batch, *event) -> (*batch, numel of event)``."""
    return u.unsqueeze(-1).flatten(batch_dim)


def _norm(batch_dim: int, change: State, y: State, new: State, rtol: float, atol: float) -> Tensor:
    """Root mean square of ``change`` in units of the tolerance, over the event of each row: ``(*batch,)``."""
    sizes = [d / (atol + rtol * torch.maximum(u.abs(), v.abs())) for d, u, v in zip(change, y, new, strict=True)]
    return torch.cat([_rows(d, batch_dim) for d in sizes], -1).square().mean(-1).sqrt()


def _first_step(call: Slope, y: State, k: State, norm: Callable[..., Tensor], sign: float, order: int) -> Tensor:
    """A step from the sizes of the state, its slope, and the change of the slope over a short Euler step."""
    size, slope = norm(y, y, y), norm(k, y, y)
    small = (size < 1e-5) | (slope < 1e-5)
    h0 = torch.where(small, torch.full_like(size, 1e-6), 0.01 * size / slope.clamp(min=1e-5))
    bend = call(h0, stepped(y, [k], (1.0,), sign * h0))
    steepest = torch.maximum(slope, norm(tuple(a - b for a, b in zip(bend, k, strict=True)), y, y) / h0)
    h1 = (0.01 / steepest.clamp(min=1e-15)) ** (1 / order)
    return torch.minimum(100 * h0, torch.where(steepest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), h1))


def _controlled(
    h: Tensor, error: Tensor, last: Tensor, accepted: Tensor, refused: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """The next step of each row, and the error it remembers: proportional-integral after a step, integral after none."""
    floor = error.clamp(min=1e-10)
    grow = (_SAFETY * floor ** (-0.7 / order) * last ** (0.4 / order)).clamp(_SHRINK, _GROW)
    shrink = (_SAFETY * floor ** (-1 / order)).clamp(_SHRINK, 1.0)
    h = torch.where(accepted, h * grow, torch.where(refused, h * shrink, h))
    return h, torch.where(accepted, floor, last)

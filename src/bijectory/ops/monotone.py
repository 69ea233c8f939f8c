r"""Inverse of increasing scalar functions: bracketed roots with implicit gradients.

The root of :math:`f(x) = y` is bracketed, then found by Chandrupatla's method: inverse quadratic interpolation where the
last three points show that it can be trusted, bisection elsewhere. Smooth functions are solved to the last bit in about 15
steps. The number of steps is a constant and no branch looks at a value: it runs under ``vmap``, ``compile`` and ``export``.

Gradients do not go through the iterations. Two Newton steps are taken *in derivatives only*,
:math:`x \leftarrow x + s - \operatorname{detach}(s)` with :math:`s = (y - f(x)) / f'(x)`: the value stays what the bracket
gave, the first step makes first derivatives right (the implicit function theorem), the second those up to the third.
They reach ``y``, ``params`` and every tensor that ``f`` closes over, in reverse and in forward mode. An exported graph
carries the value only.

References:
    A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without using derivatives,
    Chandrupatla 1997, Advances in Engineering Software 28(3).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bijectory.ops.scalar import where_valid

_GROWTH = 8.0


_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)  # new in torch 2.7


def monotone_inverse(
    f: Callable[..., Tensor],
    y: Tensor,
    params: tuple[Tensor, ...] = (),
    lower: float | Tensor = -8.0,
    upper: float | Tensor = 8.0,
    *,
    iterations: int = 32,
    expansions: int = 8,
) -> tuple[Tensor, Tensor]:
    """Solve ``f(x, *params) = y`` elementwise for an increasing ``f``.

    Args:
        f: Increasing in ``x`` and elementwise: entry ``i`` of the result depends on ``x`` through ``x[i]`` only.
        y: Targets, any shape that broadcasts with ``f``.
        params: Tensors handed to ``f`` after ``x``.
        lower: Left end of the first bracket.
        upper: Right end of the first bracket.
        iterations: Steps after the bracket is found, one evaluation of ``f`` each.
        expansions: Times that an end which is not yet beyond the root moves outwards, by steps that grow eightfold. Pass 0
            where ``f`` is only defined between ``lower`` and ``upper``.

    Returns:
        ``x``, and the residual ``|f(x) - y|``: without gradient, 0 where no floating-point number does better, and large
        where ``y`` was not reached (for the caller to raise on or to mask).

    Example:
        >>> x, residual = monotone_inverse(lambda v, a: v + a * v**3, torch.tensor([10.0]), (torch.tensor(1.0),))
        >>> round(x.item(), 6), residual.item() < 1e-5
        (2.0, True)
    """
    with torch.no_grad():
        fixed = tuple(p.detach() for p in params)
        x, residual = _solve(lambda v: f(v, *fixed), y.detach(), lower, upper, iterations, expansions)
        x, residual = x.detach(), residual.detach()
    return implicit(lambda v: _newton_step(f, v, y, params), x), residual


def implicit(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Give a root ``x`` its derivatives by two Newton steps that leave its value alone.

    Args:
        step: Newton's step :math:`(y - f(x)) / f'(x)` as a function of ``x``, differentiable with respect to all else.
        x: The root, without gradient.

    Example:
        >>> y = torch.tensor(4.0, requires_grad=True)
        >>> root = implicit(lambda x: (y - x**2) / (2 * x), torch.tensor(2.0))
        >>> torch.autograd.grad(root, y)
        (tensor(0.2500),)
    """
    if torch.is_grad_enabled() and not _is_exporting():
        for _ in range(2):
            s = step(x)
            x = x + (s - s.detach())
    return x


def box_inverse(
    f: Callable[..., tuple[Tensor, Tensor]],
    y: Tensor,
    params: tuple[Tensor, ...],
    bound: float,
    *,
    iterations: int = 24,
) -> tuple[Tensor, Tensor]:
    """Inverse of a function that is a straight line on either side of ``[-bound, bound]``.

    On the lines the root is known, within the box it is searched for.

    Args:
        f: ``f(x, *params)`` returns the value and the logarithm of the slope.
        y: Targets.
        params: Tensors handed to ``f`` after ``x``.
        bound: Half width of the box.
        iterations: Steps of the search.

    Returns:
        ``x`` and the logarithm of ``dx/dy``; NaN where the search did not reach ``y``.
    """
    with torch.no_grad():
        edge = torch.full_like(y, bound)
        (low, log_left), (high, log_right) = f(-edge, *params), f(edge, *params)
        left = -bound + (y - low).clamp(max=0) * (-log_left).exp()
        right = bound + (y - high).clamp(min=0) * (-log_right).exp()
        lower, upper = torch.where(y > high, edge, left), torch.where(y < low, -edge, right)
    x, residual = monotone_inverse(
        lambda v, *p: f(v, *p)[0], y, params, lower, upper, iterations=iterations, expansions=0
    )
    x = where_valid(residual <= torch.finfo(y.dtype).eps ** 0.5 * (1 + y.abs()), x)
    return x, -f(x, *params)[1]


def _solve(
    f: Callable[[Tensor], Tensor],
    y: Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
    iterations: int,
    expansions: int,
) -> tuple[Tensor, Tensor]:
    a, b = torch.zeros_like(y) + lower, torch.zeros_like(y) + upper
    f_a, f_b = f(a) - y, f(b) - y  # kept as f - y: negative at a, positive at b
    a, b = a.expand(f_a.shape), b.expand(f_a.shape)
    stride = b - a
    for _ in range(expansions):
        low, high = f_a > 0, f_b < 0
        a, b = (
            torch.where(low, a - stride, torch.where(high, b, a)),
            torch.where(high, b + stride, torch.where(low, a, b)),
        )
        f_a, f_b = f(a) - y, f(b) - y
        stride = stride * _GROWTH
    # An end that is beyond its target, if only by rounding, is the nearest there is: the search must not leave it.
    beyond, short = f_a > 0, f_b < 0
    a, f_a, b, f_b = (
        torch.where(short, b, a), torch.where(short, f_b, f_a), torch.where(beyond, a, b), torch.where(beyond, f_a, f_b)
    )  # fmt: skip

    # From here a is the newest point, the root lies between a and b, and c is the point that was dropped last.
    eps, tiny = torch.finfo(f_a.dtype).eps, torch.finfo(f_a.dtype).tiny
    t: Tensor | float = 0.5
    for _ in range(iterations):
        x = a + t * (b - a)
        f_x = f(x) - y
        same = torch.sign(f_x) == torch.sign(f_a)
        c, f_c = torch.where(same, a, b), torch.where(same, f_a, f_b)
        b, f_b = torch.where(same, b, a), torch.where(same, f_b, f_a)
        a, f_a = x, f_x
        xi, rise = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
        trusted = (1 - (1 - xi).sqrt() < rise) & (rise < xi.sqrt())
        t = f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
        t = torch.where(trusted, t, 0.5)
        # Step over the root by one place, to close the bracket.
        margin = (eps * a.abs() / (b - a).abs().clamp(min=tiny)).clamp(max=0.5)
        t = torch.minimum(torch.maximum(t, margin), 1 - margin)

    newest = f_a.abs() <= f_b.abs()
    x, residual = torch.where(newest, a, b), torch.where(newest, f_a, f_b).abs()
    closed = (f_a * f_b <= 0) & (torch.nextafter(a, b) == b)
    return torch.where(residual.isnan(), residual, x), residual.masked_fill(closed, 0)  # NaN stays NaN


def _newton_step(f: Callable[..., Tensor], x: Tensor, y: Tensor, params: tuple[Tensor, ...]) -> Tensor:
    """``(y - f(x)) / f'(x)``, and 0 where that says nothing."""
    result = torch.func.vjp(lambda v: f(v, *params), x)
    value, pull = result[0], result[1]
    (slope,) = pull(torch.ones_like(value))
    usable = torch.isfinite(value) & torch.isfinite(slope) & (slope > 0)
    return torch.where(usable, (y - value) / torch.where(usable, slope, 1.0), 0.0)

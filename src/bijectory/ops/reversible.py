r"""An algebraically reversible solver: exact gradients of the discrete solution in constant memory.

Any explicit method with the increment :math:`\Psi_h(t, y) = h \sum_i b_i k_i` becomes reversible on a pair
:math:`(y, z)` that starts at :math:`(y_0, y_0)`:

.. math::
    y_{n+1} &= \lambda y_n + (1 - \lambda) z_n + \Psi_h(t_n, z_n), \\
    z_{n+1} &= z_n - \Psi_{-h}(t_{n+1}, y_{n+1}).

Solved for :math:`(y_n, z_n)` the same lines lead back, without a system to solve and without an error but rounding, which
grows as :math:`\lambda^{-n}`. So the backward pass keeps the last pair alone, goes back step by step, and gives the
gradients of the numbers that the forward pass computed: where ``adjoint`` carries the error of the grid, there is none here.

The scheme has the order of its method, evaluates ``f`` twice as often, and its solution differs from that of ``ode.fixed``
on the same grid by the error of both.

References:
    Efficient, Accurate and Stable Gradients for Neural ODEs, McCallum, Foster 2024, arXiv:2410.11648, sec. 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.ode import Slope, State, find_tableau, fixed_slopes, moved


def reversible(
    f: Slope,
    y: State,
    params: Sequence[Tensor] = (),
    *,
    start: float = 0.0,
    end: float = 1.0,
    steps: int = 8,
    method: str = "tsit5",
    gathered: int = 0,
    coupling: float = 0.99,
) -> State:
    r"""Integrate in equal steps of the reversible scheme; see ``ode.fixed`` for the other arguments and errors.

    Args:
        f: The slope, ``f(t, y, *params)``.
        y: State at ``start``.
        params: Tensors handed to ``f``; gradients reach these and ``y`` only.
        start: First time.
        end: Last time, on either side of ``start``.
        steps: Number of steps.
        method: Name of a tableau.
        gathered: How many of the last tensors of the state ``f`` does not read.
        coupling: :math:`\lambda` in (0, 1]; less is more stable on stiff fields, and grows rounding faster on the way back.

    Raises:
        ConfigError: If ``steps < 1``, the method is unknown, or the coupling is out of range.

    Example:
        >>> y = torch.ones((), requires_grad=True)
        >>> (z,) = reversible(lambda t, y: (-y[0],), (y,))
        >>> round(torch.autograd.grad(z, y)[0].item(), 5)  # exp(-1)
        0.36788
    """
    check(steps >= 1, ConfigError, f"steps must be at least 1, got {steps}.")
    check(0 < coupling <= 1, ConfigError, f"coupling must lie in (0, 1], got {coupling}.")
    solver = _Scheme(f, len(y), gathered, start, end, steps, method, coupling)
    return _Reversible.apply(solver, *y, *y, *params)[: len(y)]


class _Scheme:
    """The increments of a method, and its grid."""

    def __init__(
        self, f: Slope, n: int, gathered: int, start: float, end: float, steps: int, method: str, coupling: float
    ) -> None:
        self.f, self.n, self.gathered, self.tableau = f, n, gathered, find_tableau(method)
        self.h, self.coupling = (end - start) / steps, coupling
        self.times = [start + k * self.h for k in range(steps)]

    def ahead(self, t: float, *tensors: Tensor) -> State:
        r""":math:`\Psi_h(t, y)`."""
        return self._increment(t, self.h, *tensors)

    def back(self, t: float, *tensors: Tensor) -> State:
        r""":math:`\Psi_{-h}(t + h, y)`."""
        return self._increment(t + self.h, -self.h, *tensors)

    def _increment(self, t: float, h: float, *tensors: Tensor) -> State:
        y, params = tensors[: self.n], tensors[self.n :]
        slopes = fixed_slopes(self.f, y, params, t, h, self.tableau, self.gathered)
        (first, w), *rest = [(k, w) for k, w in zip(slopes, self.tableau.b, strict=True) if w]
        total = tuple(h * w * u for u in first)
        return moved(total, [k for k, _ in rest], [w for _, w in rest], h)

    def mixed(self, y: State, z: State) -> State:
        r""":math:`\lambda y + (1 - \lambda) z`."""
        return tuple(self.coupling * u + (1 - self.coupling) * v for u, v in zip(y, z, strict=True))


class _Reversible(torch.autograd.Function):
    """``(y, z, params) -> (y, z)`` at the end. ``z`` is an output, for the backward pass is a function of it too."""

    @staticmethod
    def forward(ctx: Any, scheme: _Scheme, *tensors: Tensor) -> State:
        n = scheme.n
        y, z, params = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        for t in scheme.times:
            y = _plus(scheme.mixed(y, z), scheme.ahead(t, *z, *params))
            z = _plus(z, scheme.back(t, *y, *params), -1)
        ctx.scheme = scheme
        ctx.save_for_backward(*y, *z, *params)
        return (*y, *z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        scheme, n, rest = ctx.scheme, ctx.scheme.n, 1 - ctx.scheme.coupling
        y, z = ctx.saved_tensors[:n], ctx.saved_tensors[n : 2 * n]
        params = ctx.saved_tensors[2 * n :]
        of_y, of_z = grads[:n], grads[n:]
        of_params = tuple(torch.zeros_like(p) for p in params)
        for t in reversed(scheme.times):
            change, pull = _pulled(scheme.back, t, y, params)
            z, pulled = _plus(z, change), pull(of_z)
            of_y, of_params = _plus(of_y, pulled[:n], -1), _plus(of_params, pulled[n:], -1)
            change, pull = _pulled(scheme.ahead, t, z, params)
            y = tuple((u - rest * v - d) / scheme.coupling for u, v, d in zip(y, z, change, strict=True))
            pulled = pull(of_y)
            of_z, of_params = _plus(_plus(of_z, of_y, rest), pulled[:n]), _plus(of_params, pulled[n:])
            of_y = tuple(scheme.coupling * g for g in of_y)
        return (None, *of_y, *of_z, *of_params)


def _plus(y: State, z: State, factor: float = 1) -> State:
    return tuple(torch.add(u, v, alpha=factor) for u, v in zip(y, z, strict=True))


def _pulled(step: Any, t: float, y: State, params: State) -> tuple[State, Any]:
    """The increment and the function that pulls gradients back through it."""
    with torch.enable_grad():
        value, pull, *_ = torch.func.vjp(lambda *tensors: step(t, *tensors), *y, *params)
    return value, pull

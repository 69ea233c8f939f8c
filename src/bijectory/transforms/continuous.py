"""Continuous flow: the solution of a differential equation as a layer."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import Redrawn
from bijectory.nets.field import Field, Prepared
from bijectory.ops.adaptive_gradients import adaptive_adjoint, adaptive_checkpointed
from bijectory.ops.adjoint import adjoint, checkpointed
from bijectory.ops.divergence import deflated, inner, probes, pullback, split, spread
from bijectory.ops.estimates import mean_and_error
from bijectory.ops.ode import Slope, Solution, State, adaptive, find_tableau, fixed
from bijectory.ops.reversible import reversible
from bijectory.ops.shape import expand_to_context, sum_event
from bijectory.transforms.fused_field import can_solve, fits
from bijectory.transforms.stochastic import Stochastic

_TRACES = ("exact", "hutchinson", "hutch++")
_FIXED: dict[str, Callable[..., Any]] = {
    "solver": fixed,
    "checkpoint": checkpointed,
    "adjoint": adjoint,
    "reversible": reversible,
}
_ADAPTIVE: dict[str, Callable[..., Any]] = {
    "solver": adaptive,
    "checkpoint": adaptive_checkpointed,
    "adjoint": adaptive_adjoint,
}


class Evaluations(NamedTuple):
    """What a solution costs and whether it is there.

    Attributes:
        number: Evaluations of the field that each row needs, ``(*batch,)``.
        status: 0: at the end. 1: the state or its slope is not finite.
    """

    number: Tensor
    status: Tensor


class Continuous(Stochastic, Redrawn):
    r"""Solution at :math:`t = 1` of :math:`dz/dt = v(t, z, c)` from :math:`z(0) = x`, and back.

    .. math::
        \log\left|\det \frac{\partial z(1)}{\partial z(0)}\right| =
        \int_0^1 \operatorname{tr} \frac{\partial v}{\partial z}\, dt

    Both are one system, solved together, and *true to the accuracy of the solver*: a round trip ends where it began, and
    the log-determinant is that of the map, up to the error of the grid. Doubling ``steps`` divides it by :math:`2^p` with a
    method of order :math:`p` (5 by default); compare the two to see how large it is. A wilder field, e.g. after training,
    needs more steps.

    A fixed grid captures, maps and exports. ``steps=None`` adapts: every row takes steps of its own as ``rtol`` and ``atol``
    ask, which cannot be captured or mapped.

    The trace is exact by default: a ``TimeMLP`` has it in closed form, whatever the number of features; other fields need
    as many passes as the event has entries, which is affordable up to a few tens. ``trace="hutchinson"`` estimates it with
    probes that are drawn at construction from ``seed`` and shared by all rows and calls, so that the layer is a function:
    then ``exact = False``, and the flow's density is off by the same noise whenever it is asked. ``log_det`` and
    ``Flow.log_prob_and_error`` say how far, with fresh probes for every row. ``fit`` lends fresh ones to every step of
    training; in a loop of your own call ``redraw``, or the field learns to please these probes. ``trace="hutch++"`` uses
    half of the probes for the directions in which the Jacobian is large and has less noise where these are few, for one pass
    more for each of them, see ``ops.divergence.hutchpp``.

    ``encode`` and ``decode`` solve for the point alone, which costs about half. With adaptive steps they agree with
    ``forward`` and ``inverse`` up to the tolerances, for the trace has its say in the size of steps.

    Args:
        field: The velocity ``v``; of any event shape.
        method: Name of a tableau in ``bijectory.ops.tableaus``.
        steps: Steps of the fixed grid; None adapts them to the tolerances.
        trace: ``"exact"``, ``"hutchinson"`` or ``"hutch++"``.
        probes: Number of probes; at least 2 for ``"hutch++"``.
        noise: Kind of the probes: ``"rademacher"`` or ``"gaussian"``.
        seed: Of the private generator of probes.
        gradient: ``"solver"``: through the operations of the solver. ``"checkpoint"``: the same gradients, every step
            computed again in the backward pass, in the memory of one step and the states. ``"adjoint"``: by the adjoint
            equation in constant memory, true to the accuracy of the grid or the tolerances. ``"reversible"``: on a fixed
            grid only; a scheme that runs backwards exactly, at twice the evaluations: the gradients of its own solution in
            constant memory; that solution differs from the others' by the error of the grid. The last three do not map or
            capture.
        rtol: Relative tolerance of adaptive steps.
        atol: Absolute tolerance of adaptive steps.
        max_steps: Cap on the adaptive steps of a row.

    Raises:
        ConfigError: If an argument is out of range.
        ConvergenceError: From both directions, if adaptive steps reach their cap.

    References:
        Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt, Duvenaud 2018, arXiv:1806.07366, eq. 8.
        FFJORD, Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, arXiv:1810.01367, eq. 8 and algorithm 1.

    Example:
        >>> from bijectory.nets import TimeMLP
        >>> layer = Continuous(TimeMLP(2))
        >>> z, ladj = layer(torch.ones(5, 2))
        >>> bool((layer.inverse(z)[0] - 1).abs().max() < 1e-6)
        True
    """

    solver = "integral"
    ladj_cost = "1 to d passes"
    drawn = ("_probes",)
    _probes: Tensor | None
    _kernels: Callable[..., State] | None = None  # `solved` to solve in kernels; see `use_native`

    def __init__(
        self,
        field: Field,
        method: str = "tsit5",
        steps: int | None = 8,
        trace: Literal["exact", "hutchinson", "hutch++"] = "exact",
        probes: int = 1,
        noise: Literal["rademacher", "gaussian"] = "rademacher",
        seed: int = 0,
        gradient: Literal["solver", "checkpoint", "adjoint", "reversible"] = "solver",
        rtol: float = 1e-6,
        atol: float = 1e-6,
        max_steps: int = 1000,
    ) -> None:
        super().__init__()
        check_type(field, Field, "field")
        tableau = find_tableau(method)
        check(steps is None or steps >= 1, ConfigError, f"steps must be at least 1, or None to adapt, got {steps}.")
        check(trace in _TRACES, ConfigError, f"trace must be one of {_TRACES}, got {trace!r}.")
        least = 2 if trace == "hutch++" else 1
        check(probes >= least, ConfigError, f"probes must be at least {least} with trace={trace!r}, got {probes}.")
        check(gradient in _FIXED, ConfigError, f"gradient must be one of {list(_FIXED)}, got {gradient!r}.")
        if steps is None:
            check(bool(tableau.error), ConfigError, f"method={method!r} has no error estimate, so it needs steps.")
            check(gradient in _ADAPTIVE, ConfigError, f"gradient={gradient!r} needs a fixed grid; pass steps.")
        self.field, self.method, self.steps, self.trace = field, method, steps, trace
        self.probes, self.noise, self.seed, self.gradient = probes, noise, seed, gradient
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps
        self.event_dim = self.latent_event_dim = len(field.event_shape)
        self.exact, self.context = trace == "exact", field.context
        self.register_buffer("_probes", None if self.exact else self._draw(probes), persistent=True)

    def extra_repr(self) -> str:
        grid = f"steps={self.steps}" if self.steps else f"rtol={self.rtol:g}, atol={self.atol:g}"
        return f"method={self.method!r}, {grid}, trace={self.trace!r}"

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(x, c, 0.0, 1.0)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z, c, 1.0, 0.0)

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self._move(x, c, 0.0, 1.0)

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self._move(z, c, 1.0, 0.0)

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Replace the probes of an estimated trace; nothing to do for an exact one.

        Args:
            generator: Where they come from; None: the global generator.
        """
        if self._probes is not None:
            seed = int(torch.randint(2**31, (), generator=generator))
            self._probes.copy_(self._draw(self.probes, seed=seed))

    def log_det(
        self, x: Tensor, c: Tensor | None = None, *, samples: int = 16, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Estimate ``log|det dz/dx|`` with fresh probes for every row, and say how far off it may be.

        Args:
            x: ``(*batch, *event)``.
            c: Context ``(*batch, context)``.
            samples: Number of independent estimates of a row, with ``probes`` probes each; at least 2.
            generator: Where the probes come from; the global one if None.

        Returns:
            Their mean and its standard error, ``(*batch,)`` each: of the noise of the estimate, not of the solver. Zero
            error for an exact trace, which needs no probes.

        Example:
            >>> from bijectory.nets import TimeMLP
            >>> layer = Continuous(TimeMLP(3), trace="hutchinson")
            >>> estimate, error = layer.log_det(torch.ones(5, 3), samples=100)
            >>> error.shape
            torch.Size([5])
        """
        check(samples >= 2, ConfigError, f"a standard error needs at least 2 samples, got {samples}.")
        c = c if self.context else None
        x = expand_to_context(x, c, self.event_dim)
        if self.exact:
            ladj = self._solve(x, c, 0.0, 1.0, None)[1]
            return ladj, torch.zeros_like(ladj)
        x = x.expand(samples, *x.shape)
        return mean_and_error(self._solve(x, c, 0.0, 1.0, self._fresh(x, generator))[1].mean(-1))

    def evaluations(self, x: Tensor, c: Tensor | None = None) -> Evaluations:
        """How often ``forward`` evaluates the field for each row, and whether the row comes to its end.

        Args:
            x: ``(*batch, *event)``.
            c: Context ``(*batch, context)``.

        Raises:
            ConvergenceError: If adaptive steps reach their cap.

        Example:
            >>> from bijectory.nets import TimeMLP
            >>> Continuous(TimeMLP(2)).evaluations(torch.ones(3, 2)).number  # 8 steps of 6 stages
            tensor([48, 48, 48])
        """
        c = c if self.context else None
        x = expand_to_context(x, c, self.event_dim)
        with torch.no_grad():
            y, solution = self._joint(x, c, 0.0, 1.0, self._probes)
        if solution is not None:
            return Evaluations(solution.evaluations, solution.status)
        batch = x.shape[: x.dim() - self.event_dim]
        stages = len(find_tableau(self.method).b) * (2 if self.gradient == "reversible" else 1)
        finite = torch.stack([u.unsqueeze(-1).flatten(len(batch)).isfinite().all(-1) for u in y]).all(0)
        return Evaluations(torch.full_like(finite, (self.steps or 0) * stages, dtype=torch.long), (~finite).long())

    def forward_with_costs(
        self, x: Tensor, c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        r"""Data -> latent with the costs of the path, gathered in the same solve.

        .. math::
            \text{kinetic} = \int_0^1 |v|^2\, dt, \qquad
            \text{jacobian} = \int_0^1 \Bigl\|\frac{\partial v}{\partial z}\Bigr\|_F^2\, dt
            \approx \int_0^1 \frac1k \sum_{i=1}^k \Bigl|e_i^\top \frac{\partial v}{\partial z}\Bigr|^2 dt

        The norm of the Jacobian is always an estimate, by the probes of the trace (with ``"hutch++"``, those of the sketch).
        An exact trace has none: ``probes`` fresh ones are then drawn for every row, and the kinetic energy is exact.

        Args:
            x: ``(*batch, *event)``.
            c: Context ``(*batch, context)``.
            generator: Where fresh probes come from; the global one if None.

        Returns:
            ``z``, ``log|det dz/dx|``, and the costs by their names, ``(*batch,)`` each.

        References:
            How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization, Finlay, Jacobsen, Nurbekyan,
            Oberman 2020, arXiv:2002.02798.

        Example:
            >>> from bijectory.nets import TimeMLP
            >>> z, ladj, costs = Continuous(TimeMLP(2)).forward_with_costs(torch.ones(5, 2))
            >>> {name: cost.shape for name, cost in costs.items()}
            {'kinetic': torch.Size([5]), 'jacobian': torch.Size([5])}
        """
        c = c if self.context else None
        x = expand_to_context(x, c, self.event_dim)
        e = self._fresh(x, generator) if self._probes is None else self._probes
        z, ladj, kinetic, jacobian = self._solve(x, c, 0.0, 1.0, e, costs=True)
        return z, ladj if self.exact else ladj.mean(-1), {"kinetic": kinetic, "jacobian": jacobian}

    def _draw(self, k: int, *, seed: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed if seed is None else seed)
        return probes((k, *self.field.event_shape), self.noise, generator=generator).to(torch.get_default_dtype())

    def _fresh(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Probes for every row of ``x``."""
        return probes((self.probes, *x.shape), self.noise, generator=generator).to(x)

    def _map(self, x: Tensor, c: Tensor | None, start: float, end: float) -> tuple[Tensor, Tensor]:
        c = c if self.context else None
        x = expand_to_context(x, c, self.event_dim)
        e = self._probes if self.exact or self.source is None else self._fresh(x, self.source)
        z, ladj = self._solve(x, c, start, end, e)
        return z, ladj if self.exact else ladj.mean(-1)

    def _move(self, x: Tensor, c: Tensor | None, start: float, end: float) -> Tensor:
        """The end point alone, without the trace."""
        c = c if self.context else None
        x = expand_to_context(x, c, self.event_dim)
        if self._kernels and (found := self._solve_native(x, c, start, end, joint=False)):
            return found[0]
        ready = self.field.prepare(c, divergence=False, functional=self.gradient != "solver")
        ready, clock = self._clocked(ready)
        return self._integrate(functools.partial(_velocity, ready), (x,), ready.tensors, start, end, clock)[0][0]

    def _clocked(self, ready: Prepared) -> tuple[Prepared, Callable[..., Tensor] | None]:
        """The field as a function of what times add to it, where the solver knows all of its times beforehand."""
        if self.steps is None or self.gradient != "solver" or ready.clocked is None:
            return ready, None
        return ready._replace(velocity=ready.clocked[0], joint=ready.clocked[1]), ready.clock

    def _solve(
        self, x: Tensor, c: Tensor | None, start: float, end: float, e: Tensor | None, *, costs: bool = False
    ) -> State:
        """End point, gathered trace (``(*batch,)``, or ``(*batch, k)`` for ``k`` estimates), and costs ``(*batch,)``."""
        if self._kernels and self.exact and not costs and (found := self._solve_native(x, c, start, end, joint=True)):
            return found
        return self._joint(x, c, start, end, e, costs=costs)[0]

    def _has_kernel(self, *, joint: bool) -> bool:
        """Whether the kernels know its solution, with ``joint`` or the point alone."""
        return self.steps is not None and self.gradient == "solver" and can_solve(self.field, joint=joint)

    def _solve_native(self, x: Tensor, c: Tensor | None, start: float, end: float, *, joint: bool) -> State | None:
        """The end point, and the gathered trace if asked for, in one call of the kernels; None where they cannot."""
        field: Any = self.field
        if self._kernels is None or not self._has_kernel(joint=joint) or not fits(field, x, c):
            return None
        return self._kernels(field, x, c, self.method, self.steps or 0, start, end, joint=joint)

    def _joint(
        self, x: Tensor, c: Tensor | None, start: float, end: float, e: Tensor | None, *, costs: bool = False
    ) -> tuple[State, Solution | None]:
        batch = x.shape[: x.dim() - self.event_dim]
        traces = {"exact": (), "hutchinson": (self.probes,), "hutch++": (self.probes - self.probes // 2,)}[self.trace]
        state = (x, x.new_zeros((*batch, *traces)), *(x.new_zeros(batch) for _ in range(2 * costs)))
        ready = self.field.prepare(c, divergence=self.exact, functional=self.gradient != "solver")
        ready, clock = self._clocked(ready)
        slope = functools.partial(_slope, ready, self.trace, e, self.event_dim, costs)
        return self._integrate(slope, state, ready.tensors, start, end, clock)

    def _integrate(
        self,
        slope: Slope,
        state: State,
        tensors: tuple[Tensor, ...],
        start: float,
        end: float,
        clock: Callable[..., Tensor] | None = None,
    ) -> tuple[State, Solution | None]:
        """The state at the end, and with adaptive steps how it got there."""
        ends: dict[str, Any] = {"start": start, "end": end, "method": self.method, "gathered": len(state) - 1}
        if self.steps is not None:
            if clock is not None:
                ends["clock"] = clock
            return _FIXED[self.gradient](slope, state, tensors, steps=self.steps, **ends), None
        control = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        batch_dim = state[0].dim() - self.event_dim
        solution = _ADAPTIVE[self.gradient](slope, state, tensors, batch_dim=batch_dim, **ends, **control)
        return solution.y, solution


def _velocity(ready: Prepared, t: Tensor, y: State, *tensors: Tensor) -> State:
    return (ready.velocity(t, y[0], *tensors),)


def _slope(
    ready: Prepared,
    trace: str,
    e: Tensor | None,
    event_dim: int,
    costs: bool,  # noqa: FBT001 - a partial application, not a call
    t: Tensor,
    y: State,
    *tensors: Tensor,
) -> State:
    """The slope of the joint state: velocity, trace or its estimates, and the rates of the costs."""
    if e is None:
        return ready.joint(t, y[0], *tensors)
    v, pull = pullback(lambda z: ready.velocity(t, z, *tensors), y[0])
    if trace == "hutch++":
        s, g = split(e)
        rows = pull(s)
        divergence = deflated(pull, rows, g, event_dim).movedim(0, -1)
    else:
        rows = pull(e)
        divergence = inner(rows, spread(e, v), event_dim).movedim(0, -1)
    if not costs:
        return v, divergence
    if trace == "exact":
        divergence = ready.joint(t, y[0], *tensors)[1]
    return v, divergence, sum_event(v.square(), event_dim), inner(rows, rows, event_dim).mean(0)

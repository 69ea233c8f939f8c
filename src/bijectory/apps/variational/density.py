"""The user's log-density, checked: what comes back wrong is named with the remedy."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bijectory.apps.variational.parameters import Parameters
from bijectory.errors import DtypeError, FlowError, NonFiniteError, ShapeError, check
from bijectory.transforms import Transform

LogDensity = Callable[[Tensor], Tensor]
PROBES = 7  # rows of the first call: not the size of anything a user sums over
NO_GRADIENT = (
    "log_density has no gradient: compute it with torch operations on x (no .item(), .numpy() or .detach()), or use "
    'objective="forward" with start="broad", which needs no gradient.'
)


class UnnormalizedDensity:
    """A log-density of parameters ``(n, width) -> (n,)``, also in unconstrained coordinates.

    Args:
        function: The user's callable.
        parameters: Names and supports of the columns.
    """

    def __init__(self, function: LogDensity, parameters: Parameters) -> None:
        self.function, self.parameters = function, parameters
        self.map: Transform = parameters.unconstrain().double()

    def __call__(self, x: Tensor) -> Tensor:
        """Log-density of rows; ``-inf`` where it is zero.

        Raises:
            ShapeError, DtypeError: If the callable does not return one number for each row.
            NonFiniteError: If a value is NaN or ``+inf``; with the first such row.
        """
        value: Any = self.function(x)
        check(isinstance(value, Tensor), DtypeError, f"log_density must return a Tensor, got {type(value).__name__}.")
        if value.shape != (len(x),):
            raise ShapeError(
                f"log_density returned shape {tuple(value.shape)} for {len(x)} rows, expected ({len(x)},): one number for "
                "each row. Sum over parameters and data (dim=-1), not over rows; for data y write x[:, :1] - y, so that "
                "rows and data points broadcast."
            )
        bad = (value.isnan() | (value == torch.inf)).nonzero().flatten()
        if len(bad):
            at, first = self.describe(x[bad[0]]), float(value[bad[0]].detach())
            raise NonFiniteError(
                f"log_density is {first} for {len(bad)} of {len(x)} rows, first at {at}. Declare the "
                "support (bounded=, positive=) if this lies outside of it, return -inf where the density is zero, and use "
                "stable forms (logsumexp, log1p, logsigmoid)."
            )
        return value.to(x.dtype)

    def tolerant(self, x: Tensor) -> Tensor:
        """Log-density of rows, ``-inf`` also where a row or the answer is not finite: a place that no chain may enter."""
        ok = x.isfinite().all(-1)
        value = self.function(torch.where(ok.unsqueeze(-1), x, x[ok][:1] if bool(ok.any()) else 1.0)).to(x.dtype)
        return torch.where(ok & ~value.isnan() & (value < torch.inf), value, -torch.inf)

    def batched(self, x: Tensor) -> Tensor:
        """Log-density of ``(*batch, width)``, unchecked: training skips steps whose loss is not finite."""
        return self.function(x.reshape(-1, x.shape[-1])).to(x.dtype).reshape(x.shape[:-1])

    def free(self, u: Tensor) -> Tensor:
        """Log-density in unconstrained coordinates, the log-determinant of the map counted."""
        x, ladj = self.map.inverse(u)
        return self(x) + ladj

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(n,)`` and gradients ``(n, width)`` in unconstrained coordinates."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            value = self.free(leaf)
            check(value.requires_grad, FlowError, NO_GRADIENT)
            (g,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), g

    def describe(self, row: Tensor) -> str:
        """One row for people."""
        shown = [f"{n}={v:.4g}" for n, v in zip(self.parameters.columns, row.tolist(), strict=True)]
        return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")

    def probe(self, generator: torch.Generator, *, gradient: bool) -> None:
        """Call the density on a few rows and refuse what cannot work.

        Raises:
            FlowError: Of the kind that fits, see the class.
        """
        u = torch.randn(PROBES, self.parameters.width, generator=generator, dtype=torch.float64)
        x = self.map.inverse(u)[0].requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            value = self(x)
            alone = self(x[:1])
        if gradient:
            own = value.requires_grad and torch.autograd.grad(value.sum(), x, allow_unused=True)[0] is not None
            check(own, FlowError, NO_GRADIENT)
        first, single = float(value[0].detach()), float(alone[0].detach())
        same = first == single or abs(first - single) <= 1e-4 * (1 + abs(single))
        message = (
            f"log_density of a row depends on the other rows: {first:.6g} among {PROBES} rows, {single:.6g} alone. "
            "Treat each row by itself (no mean or sum over dim 0)."
        )
        check(same, ShapeError, message)

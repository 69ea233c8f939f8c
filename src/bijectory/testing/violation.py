"""What a broken law looks like, and the tolerances: the only place where a bound is written down."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LawViolation(AssertionError):
    """A law of the contract does not hold.

    Attributes:
        law: Name of the law, once it has left the law function.
        subject: What was tested.
        detail: What went wrong.
        measured: The measured error, if there is one.
        bound: The bound it exceeds.
        where: Index of the worst element.
    """

    def __init__(
        self,
        detail: str,
        *,
        measured: float | None = None,
        bound: float | None = None,
        where: tuple[int, ...] | None = None,
    ) -> None:
        self.law, self.subject = "", ""
        self.detail, self.measured, self.bound, self.where = detail, measured, bound, where
        super().__init__(detail)

    def __str__(self) -> str:
        text = f"{self.law} [{self.subject}]: {self.detail}" if self.law else self.detail
        if self.measured is not None:
            text += f"; measured {self.measured:.3g}"
        if self.bound is not None:
            text += f", bound {self.bound:.3g}"
        return text if self.where is None else f"{text}, worst element {self.where}"


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Bounds for one dtype, each relative to ``1 + |expected value|``.

    Attributes:
        round_trip: Forward, then back, beyond what rounding costs at an ill-conditioned point; and against float64.
        ladj: Log-determinant against autodiff and against the opposite direction.
        same: The same numbers by another route (other batch, captured, vmapped, exported, reloaded).
        extreme: Round trip at inputs of ``1e4 ... 1e6``, relative to the largest entry of the row.

    Example:
        >>> TOLERANCES[torch.float64].ladj < TOLERANCES[torch.float32].ladj
        True
    """

    round_trip: float
    ladj: float
    same: float
    extreme: float


TOLERANCES: dict[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(round_trip=3e-5, ladj=5e-5, same=2e-5, extreme=1e-2),
    torch.float64: Tolerance(round_trip=1e-10, ladj=1e-10, same=1e-12, extreme=1e-6),
}


def require(condition: bool, detail: str, **facts: Any) -> None:  # noqa: FBT001
    """Raise ``LawViolation(detail, **facts)`` unless ``condition`` holds."""
    if not condition:
        raise LawViolation(detail, **facts)


def require_close(what: str, got: Tensor, want: Tensor, bound: float, scale: Tensor | None = None) -> None:
    """Require equal shape and dtype and ``|got - want| <= bound * (1 + |want|)`` everywhere (equal infinities pass)."""
    require(got.shape == want.shape, f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    require(got.dtype == want.dtype, f"{what} is {got.dtype}, expected {want.dtype}")
    if got.numel() == 0:
        return
    got, want = got.detach(), want.detach()
    error = (got - want).abs() / (1 + want.abs() if scale is None else scale.detach())
    error = torch.where((got == want) | (got.isnan() & want.isnan()), torch.zeros_like(error), error)
    error = error.nan_to_num(nan=math.inf, posinf=math.inf)
    worst = int(error.argmax())
    where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
    measured = float(error.flatten()[worst])
    detail = f"{what} is {float(got.flatten()[worst]):.6g}, expected {float(want.flatten()[worst]):.6g}"
    require(measured <= bound, detail, measured=measured, bound=bound, where=where)


Law = Callable[[Any], None]


def law(check: Law) -> Law:
    """Make a law of a function: whatever it raises leaves as a ``LawViolation`` that names law and subject."""

    @functools.wraps(check)
    def checked(subject: Any) -> None:
        try:
            check(subject)
        except LawViolation as violation:
            violation.law, violation.subject = check.__name__, str(subject)
            raise
        except Exception as error:
            text = str(error).strip().split("\n", 1)[0]
            raised = LawViolation(f"raised {type(error).__name__}: {text}")
            raised.law, raised.subject = check.__name__, str(subject)
            raise raised from error

    return checked

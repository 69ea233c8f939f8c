"""The solve of a perceptron field on a fixed grid in one native call; see ``kernels/field.h``.

Its tensors come in a flat list: weight of the first product and what times add to it, ``(steps * stages, width)``, its bias
included; weight and bias of every other product; what a context adds to the first for every row, ``(width, batch)``, or
None; and what the divergence reads: the core of two hidden layers, the diagonal of one (see ``ops.perceptron``), else None.
"""

import ctypes
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bijectory.ops.layers import ACTIVATIONS, BLOCK, DEEPEST, Summed, address, addresses
from bijectory.ops.native import function, in_threads
from bijectory.ops.tableaus import TABLEAUS

SMOOTH = ("tanh", "silu", "softplus")  # activations with a curvature in the source
WORTH = 10_000_000  # operations that are worth another thread
_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong


class Solve(NamedTuple):
    """What is solved, without weights.

    Attributes:
        features: Of the state.
        hidden: Widths of the hidden layers, one to seven of them; at most two with the divergence.
        activation: One of ``SMOOTH``.
        method: Name of a tableau.
        steps: Of the grid.
        start: First time.
        end: Last time.
        joint: Whether the divergence is gathered.
    """

    features: int
    hidden: tuple[int, ...]
    activation: str
    method: str
    steps: int
    start: float
    end: float
    joint: bool


class _Field(ctypes.Structure):
    _fields_ = [
        *((name, _I) for name in ("act", "hidden", "features", "stages", "steps", "joint")),
        ("width", _I * DEEPEST),
        *((name, _P) for name in ("a", "b")),
    ]


class _Program:
    """A solve as the kernels read it."""

    def __init__(self, solve: Solve) -> None:
        tableau, h = TABLEAUS[solve.method], (solve.end - solve.start) / solve.steps
        n = len(tableau.b)
        rows = [[h * w for w in row] + [0.0] * (n - len(row)) for row in ((), *tableau.a)]
        self._owned = (
            (ctypes.c_double * (n * n))(*itertools.chain(*rows)),
            (ctypes.c_double * n)(*(h * w for w in tableau.b)),
        )
        self.field = _Field(
            ACTIVATIONS[solve.activation], len(solve.hidden), solve.features, n, solve.steps, int(solve.joint)
        )
        self.field.width[: len(solve.hidden)] = solve.hidden
        self.field.a, self.field.b = (ctypes.addressof(table) for table in self._owned)
        self.pointer = ctypes.addressof(self.field)
        widths = (solve.features, *solve.hidden, solve.features)
        products = sum(a * b for a, b in itertools.pairwise(widths))
        if solve.joint and len(solve.hidden) == 2:
            products += solve.hidden[0] * solve.hidden[1]
        self.least = max(1, WORTH // (2 * BLOCK * products * n * solve.steps))  # blocks that are worth another thread
        self.term = 2 * len(solve.hidden) + 2
        self._space: dict[tuple[torch.dtype, bool], int] = {}

    def space(self, dtype: torch.dtype, *, back: bool) -> int:
        """Elements of work space that a thread needs."""
        if (dtype, back) not in self._space:
            self._space[dtype, back] = function(dtype, "field_space", (_P, _I), _L)(self.pointer, back)
        return self._space[dtype, back]


@functools.lru_cache(256)
def _program(solve: Solve) -> _Program:
    return _Program(solve)


@functools.lru_cache(256)
def stage_times(method: str, steps: int, start: float, end: float, dtype: torch.dtype) -> Tensor:
    """Times of all stages of all steps, ``(steps * stages,)``; not to be written to."""
    h = (end - start) / steps
    times = [start + k * h + c * h for k in range(steps) for c in TABLEAUS[method].c]
    with torch.inference_mode(mode=False):
        return torch.tensor(times, dtype=torch.float64, device="cpu").to(dtype)


_SOLVE = (_P, _P, _P, _L, _L, _P, _P, _L, _P, _P, _L, _L)
_BACK = (_P, _P, _P, _P, _L, _L, _P, _L, _P, _P, _L, _P, _L, _L)


def run(
    solve: Solve, x: Tensor, tensors: Sequence[Tensor | None], *, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Solve from ``x``.

    Args:
        solve: What.
        x: ``(batch, features)``, of any strides.
        tensors: See above; contiguous, of the dtype of ``x``.
        keep: Whether derivatives will be asked for.

    Returns:
        The end ``(batch, features)``, feature-major in memory; the integral of the divergence ``(batch,)``, or None; and the
        states on the way, for ``run_back``.
    """
    n, d, dtype, program = x.shape[0], solve.features, x.dtype, _program(solve)
    y, ladj = x.new_empty(d, n), x.new_empty(n) if solve.joint else None
    blocks = -(-n // BLOCK)
    points = x.new_empty(blocks, solve.steps, d * BLOCK) if keep else None
    call, size, pointers = function(dtype, "field_solve", _SOLVE), program.space(dtype, back=False), addresses(tensors)
    by_row, by_feature = x.stride()

    def part(first: int, last: int) -> None:
        space = x.new_empty(size)
        call(
            program.pointer, pointers, x.data_ptr(), by_feature, by_row, y.data_ptr(), address(ladj), n, address(points),
            space.data_ptr(), first, last,
        )  # fmt: skip

    in_threads(part, blocks, program.least)
    return y.mT, ladj, points


def run_back(
    solve: Solve, points: Tensor, tensors: Sequence[Tensor | None], g_y: Tensor, g_ladj: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Cotangents of ``x``, ``(batch, features)``, and of all tensors: those of the discrete solution, to rounding."""
    n, d, dtype, program = g_y.shape[0], solve.features, g_y.dtype, _program(solve)
    g_x = g_y.new_empty(d, n)
    call, size, pointers = function(dtype, "field_back", _BACK), program.space(dtype, back=True), addresses(tensors)
    by_row, by_feature = g_y.stride()
    gradients: list[Tensor | None] = [None] * len(tensors)
    if (term := tensors[program.term]) is not None:  # written; the others are summed, in one piece of memory
        gradients[program.term] = torch.empty_like(term)
    summed = Summed([(i, t) for i, t in enumerate(tensors) if t is not None and i != program.term])

    def part(first: int, last: int) -> Tensor:
        own, space = addresses(gradients), g_y.new_empty(size)
        flat = summed.fresh(own, g_y)
        call(
            program.pointer, pointers, points.data_ptr(), g_y.data_ptr(), by_feature, by_row, address(g_ladj),
            0 if g_ladj is None else g_ladj.stride(0), g_x.data_ptr(), own, n, space.data_ptr(), first, last,
        )  # fmt: skip
        return flat

    summed.deal(in_threads(part, -(-n // BLOCK), program.least), gradients)
    return g_x.mT, gradients

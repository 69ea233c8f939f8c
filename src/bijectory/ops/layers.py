"""Runs of layers in one native call: what a layer is to the kernels, and how they are called.

See ``kernels/layers.h``. A run holds conditioned layers (couplings and autoregressive layers with a perceptron for
conditioner), matrices and what else ``Spec`` lists. Its tensors come in a flat list, layer by layer: weight and bias of
every product of the conditioner and what the context adds to the first, or None; for a matrix the matrix, its bias or None,
and None; for a stack of planar maps and an elementwise affine map their raw parameters, None and None; for the standard
normal three None.
"""

import ctypes
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors

from bijectory.ops.native import TAILS, function, in_threads
from bijectory.ops.ridge import planar_ridges, ridge_forward, ridge_inverse
from bijectory.ops.scalar import soft_bound
from bijectory.ops.spline import rational_quadratic, rational_quadratic_inverse
from bijectory.ops.spline_bins import SplineGrid, raw_one

BLOCK, DEEPEST = 64, 8  # as in the source
ACTIVATIONS = {"relu": 0, "silu": 1, "tanh": 2, "elu": 3, "softplus": 4, "leaky_relu": 5}
_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
LEAST = 8  # blocks that are worth another thread
KEEP = (
    1 << 25
)  # bytes of weighted sums kept for the way back: what an allocator reuses; beyond, they are computed again


class Net(NamedTuple):
    """A conditioner.

    Attributes:
        activation: A name in ``ACTIVATIONS``.
        widths: Rows of every product.
        inputs: Features that it reads, in the order of ``limits``.
        limits: How many leading columns each row of each product reads; empty for dense products.
        known: Inputs and hidden units that are computable level by level, ``levels + 1`` tuples; empty if there is no order.
    """

    activation: str
    widths: tuple[int, ...]
    inputs: tuple[int, ...]
    limits: tuple[tuple[int, ...], ...] = ()
    known: tuple[tuple[int, ...], ...] = ()


class Spec(NamedTuple):
    """A layer, without its weights.

    Attributes:
        features: Of the data.
        net: The conditioner; None without one.
        moved: Features that are transformed.
        planes: Parameters of each.
        grid: Of a spline; None for an affine map.
        bound: Of the log-scale of an affine map.
        inverse: Whether it runs backwards: matrices never do.
        permutes: Whether it is a permutation.
        ridges: How many planar maps it is; 0 if it is none.
        scales: Whether it is an elementwise affine map.
        normal: Whether it is the standard normal, which adds its log-density to the log-determinants.
    """

    features: int
    net: Net | None = None
    moved: tuple[int, ...] = ()
    planes: int = 0
    grid: SplineGrid | None = None
    bound: float = 0.0
    inverse: bool = False
    permutes: bool = False
    ridges: int = 0
    scales: bool = False
    normal: bool = False

    @property
    def depth(self) -> int:
        """Number of products."""
        return len(self.net.widths) if self.net else 1

    @property
    def sweeps(self) -> bool:
        """Whether it is inverted level by level, which carries no derivatives."""
        return self.inverse and self.net is not None and bool(self.net.known)


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _I) for name in ("kind", "map", "act", "depth", "features", "inputs", "moved", "planes", "inverse")),
        *((name, _I) for name in ("levels", "packed", "tails", "bins")),
        ("width", _I * DEEPEST),
        *((name, ctypes.c_double) for name in ("bound", "min_bin", "min_slope", "raw_one")),
        *((name, _P) for name in ("in_", "out")),
        ("limit", _P * DEEPEST),
        ("known", _P),
    ]


class Program:
    """Layers as the kernels read them, in the order in which they are applied.

    Args:
        specs: At least one, with equal ``features``.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.specs, self.features = tuple(specs), specs[0].features
        self.layers = (_Layer * len(specs))()
        self._owned: list[Any] = []  # integer tables that the layers point to
        for layer, spec in zip(self.layers, specs, strict=True):
            self._fill(layer, spec)
        self.sums = sum(sum(s.net.widths) if s.net else 2 * s.ridges for s in specs)
        self.sweeps = any(s.sweeps for s in specs)
        ends = itertools.accumulate(2 * s.depth + 1 for s in specs)
        self.terms = [end - 1 for end in ends]  # places of the terms of a context
        self._space: dict[tuple[torch.dtype, bool], int] = {}

    def __deepcopy__(self, memo: object) -> "Program":
        return self  # nothing in it changes

    def __reduce__(self) -> Any:
        return Program, (self.specs,)

    def _fill(self, layer: _Layer, spec: Spec) -> None:
        layer.features, layer.depth, layer.inverse = spec.features, spec.depth, spec.inverse
        net = spec.net
        if net is None:
            layer.kind = 3 if spec.ridges else 4 if spec.scales else 2 if spec.permutes else 5 if spec.normal else 1
            layer.moved, layer.width[0], layer.bound = spec.ridges, 2 * spec.ridges, spec.bound
            return
        layer.act, layer.inputs, layer.moved = ACTIVATIONS[net.activation], len(net.inputs), len(spec.moved)
        layer.planes, layer.levels, layer.packed = spec.planes, max(0, len(net.known) - 1), 0
        layer.width[: spec.depth] = net.widths
        layer.in_, layer.out = self._table(net.inputs), self._table(spec.moved)
        for k, limits in enumerate(net.limits):
            layer.limit[k] = self._table(limits)
        if net.known:
            layer.known = self._table([n for row in net.known for n in row])
            layer.packed = net.inputs != tuple(range(spec.features))
        if spec.grid is None:
            layer.bound = spec.bound
        else:
            layer.map, layer.tails, layer.bins = 1, TAILS[spec.grid.tails], spec.grid.bins
            layer.bound, layer.min_bin, layer.min_slope = spec.grid.bound, spec.grid.min_bin, spec.grid.min_slope
            layer.raw_one = raw_one(spec.grid)

    def _table(self, numbers: Sequence[int]) -> int:
        table = (ctypes.c_int * max(1, len(numbers)))(*numbers)
        self._owned.append(table)
        return ctypes.addressof(table)

    def space(self, dtype: torch.dtype, *, back: bool) -> int:
        """Elements of work space that a thread needs."""
        if (dtype, back) not in self._space:
            call = function(dtype, "layers_space", (_P, _I, _I), _L)
            self._space[dtype, back] = call(self.layers, len(self.specs), back)
        return self._space[dtype, back]


class Kept(NamedTuple):
    """What a run keeps for the way back: the data point of every layer, and the weighted sums if they are not too large."""

    points: Tensor
    sums: Tensor | None


_RUN = (_P, _I, _P, _P, _L, _L, _P, _P, _L, _P, _P, _P, _L, _L)
_BACK = (_P, _I, _P, _P, _P, _P, _L, _L, _P, _L, _P, _P, _L, _P, _L, _L)


@functools.cache
def _forward_kernel(dtype: torch.dtype) -> Callable[..., Any]:
    return function(dtype, "layers_run", _RUN)


@functools.cache
def _backward_kernel(dtype: torch.dtype) -> Callable[..., Any]:
    return function(dtype, "layers_back", _BACK)


def run(
    program: Program, x: Tensor, tensors: Sequence[Tensor | None], *, keep: bool
) -> tuple[Tensor, Tensor, Kept | None]:
    """All layers of a program on ``x``.

    Args:
        program: The layers.
        x: ``(batch, features)``, of any strides.
        tensors: Contiguous, of the dtype of ``x``; terms of a context ``(width, batch)``.
        keep: Whether derivatives will be asked for.

    Returns:
        Result ``(batch, features)``, feature-major in memory; log-determinant ``(batch,)``; what was kept.
    """
    n, d, dtype = x.shape[0], program.features, x.dtype
    y, ladj = torch.empty(d, n, dtype=dtype), torch.empty(n, dtype=dtype)
    blocks = -(-n // BLOCK)
    kept, points, sums = None, None, None
    if keep:
        points = torch.empty(blocks, len(program.specs), d * BLOCK, dtype=dtype)
        if blocks * program.sums * BLOCK * dtype.itemsize <= KEEP:
            sums = torch.empty(blocks, program.sums * BLOCK, dtype=dtype)
        kept = Kept(points, sums)
    call, size, pointers = _forward_kernel(dtype), program.space(dtype, back=False), addresses(tensors)
    by_row, by_feature = x.stride()

    def part(first: int, last: int) -> None:
        space = torch.empty(size, dtype=dtype)
        call(
            program.layers, len(program.specs), pointers, x.data_ptr(), by_feature, by_row, y.data_ptr(), ladj.data_ptr(),
            n, address(points), address(sums), space.data_ptr(), first, last,
        )  # fmt: skip

    in_threads(part, blocks, LEAST)
    return y.mT, ladj, kept


def run_back(
    program: Program,
    kept: Kept,
    tensors: Sequence[Tensor | None],
    g_y: Tensor,
    g_ladj: Tensor,
    homes: "Homes | None" = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Cotangents of ``x``, ``(batch, features)``, and of all tensors but orders.

    Args:
        program: The layers.
        kept: By ``run``.
        tensors: As in ``run``.
        g_y: Cotangent of the result.
        g_ladj: Of the log-determinant.
        homes: Of tensors whose cotangents are not returned.
    """
    n, d, dtype = g_y.shape[0], program.features, g_y.dtype
    g_x = torch.empty(d, n, dtype=dtype)
    blocks = -(-n // BLOCK)
    call, size, pointers = _backward_kernel(dtype), program.space(dtype, back=True), addresses(tensors)
    by_row, by_feature = g_y.stride()
    gradients: list[Tensor | None] = [None] * len(tensors)
    for i in program.terms:  # written; gradients of weights are summed, in one piece of memory
        if (term := tensors[i]) is not None:
            gradients[i] = torch.empty_like(term)
    candidates = [(i, tensors[i]) for i in (range(len(tensors)) if homes is None else homes.others)]
    summed = Summed([(i, t) for i, t in candidates if t is not None and gradients[i] is None and t.dtype == dtype])

    def part(first: int, last: int) -> tuple[Tensor, Tensor | None]:
        own = addresses(gradients) if homes is None else homes.addresses(gradients)
        space, apart = torch.empty(size, dtype=dtype), None
        flat = summed.fresh(own, g_y)
        if homes is not None and first > 0:  # threads do not share a place
            apart = homes.summed.fresh(own, g_y)
        call(
            program.layers, len(program.specs), pointers, kept.points.data_ptr(), address(kept.sums), g_y.data_ptr(),
            by_feature, by_row, g_ladj.data_ptr(), g_ladj.stride(0), g_x.data_ptr(), own, n, space.data_ptr(), first, last,
        )  # fmt: skip
        return flat, apart

    pieces = in_threads(part, blocks, LEAST)
    summed.deal([flat for flat, _ in pieces], gradients)
    for _, apart in pieces:
        if homes is not None and apart is not None:
            torch._foreach_add_([place for _, place in homes.summed.members], list(homes.summed.parts(apart)))
    return g_x.mT, gradients


def address(t: Tensor | None) -> int | None:
    """Where a tensor lies; None for none."""
    return None if t is None else t.data_ptr()


def addresses(tensors: Sequence[Tensor | None]) -> Any:
    """Where tensors lie, as an array for the kernels."""
    return (ctypes.c_void_p * len(tensors))(*[None if t is None else t.data_ptr() for t in tensors])


class Summed:
    """Gradients that every thread adds up in one piece of memory of its own.

    Args:
        members: The tensors, with their places among all.
    """

    def __init__(self, members: Sequence[tuple[int, Tensor]]) -> None:
        self.members = members
        self.offsets = list(itertools.accumulate((t.numel() for _, t in members), initial=0))

    def fresh(self, own: Any, like: Tensor) -> Tensor:
        """A thread's piece, zero; its addresses go into ``own``."""
        flat = torch.zeros(self.offsets[-1], dtype=like.dtype, device=like.device)
        start = flat.data_ptr()
        for (i, _), offset in zip(self.members, self.offsets, strict=False):
            own[i] = start + offset * flat.element_size()
        return flat

    def deal(self, pieces: Sequence[Tensor], gradients: list[Tensor | None]) -> None:
        """Add the pieces up, and hand every gradient its part, all in one call: singly each would cost a small product."""
        flat, *others = pieces
        for other in others:
            flat += other
        for (i, _), g in zip(self.members, self.parts(flat), strict=True):
            gradients[i] = g

    def parts(self, flat: Tensor) -> Sequence[Tensor]:
        """The part of every member in a piece."""
        return _unflatten_dense_tensors(flat, [t for _, t in self.members]) if self.members else ()


class Homes:
    """Places for the cotangents of some tensors of a run, which are added to instead of being returned.

    Args:
        places: For every tensor one of its shape, or None; at least one.
    """

    def __init__(self, places: Sequence[Tensor | None]) -> None:
        self.places = places
        self.others = [i for i, place in enumerate(places) if place is None]
        self.summed = Summed([(i, place) for i, place in enumerate(places) if place is not None])
        self._addresses = addresses(places)

    def addresses(self, gradients: Sequence[Tensor | None]) -> Any:
        """Those of the places, and of what other gradients there are."""
        found = type(self._addresses).from_buffer_copy(self._addresses)
        for i in self.others:
            found[i] = address(gradients[i])
        return found


# ---- the same in plain operations: what the kernels are held against, and what is differentiated twice -------------------


def plain(program: Program, x: Tensor, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """What ``run`` computes, ``(batch, features)`` and ``(batch,)``; layers that sweep are not in it."""
    total, left = x.new_zeros(x.shape[0]), list(tensors)
    for spec in program.specs:
        count = 2 * spec.depth + 1
        own, left = left[:count], left[count:]
        if spec.normal:
            total = total - 0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)
            continue
        if spec.ridges or spec.scales:
            x, ladj = (_ridges if spec.ridges else _scalar)(spec, x, own[0])  # type: ignore[arg-type]
            total = total + (ladj if spec.ridges else ladj.sum(-1))
            continue
        if spec.net is None:
            w, b = own[0], own[1]
            x = x[:, w] if spec.permutes else torch.nn.functional.linear(x, w, b)  # type: ignore[arg-type]
            continue
        h = x[:, list(spec.net.inputs)]
        for k in range(spec.depth):
            w, b = own[2 * k], own[2 * k + 1]
            if k == 0 and spec.net.known:
                w = w[:, list(spec.net.inputs)]  # type: ignore[index]
            if spec.net.limits:
                ends = torch.tensor(spec.net.limits[k]).unsqueeze(-1)
                w = w * (torch.arange(w.shape[1]) < ends)  # type: ignore[operator, union-attr]
            h = torch.nn.functional.linear(h, w, b)  # type: ignore[arg-type]
            if k == 0 and own[-1] is not None:
                h = h + own[-1].mT
            if k + 1 < spec.depth:
                h = getattr(torch.nn.functional, spec.net.activation)(h)
        moved = list(spec.moved)
        y, ladj = _scalar(spec, x[:, moved], h.unflatten(-1, (spec.planes, len(moved))).movedim(1, 0))
        place = torch.tensor(moved, dtype=torch.long)
        x, total = x.index_copy(1, place, y), total + ladj.sum(-1)
    return x, total


def _ridges(spec: Spec, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    ridges = planar_ridges(phi)
    return ridge_inverse(x, *ridges, ridges[-1].unsqueeze(1) - 1) if spec.inverse else ridge_forward(x, *ridges)


def _scalar(spec: Spec, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    if spec.grid is not None:
        return (rational_quadratic_inverse if spec.inverse else rational_quadratic)(x, phi, spec.grid)
    s = soft_bound(phi[1], spec.bound)
    return ((x - phi[0]) * (-s).exp(), -s) if spec.inverse else (x * s.exp() + phi[0], s)

"""Regions: runs of layers compiled as one function, once for every run of the same structure.

A whole flow under ``torch.compile`` is unrolled layer by layer, so its compilation takes minutes and grows with depth. Here
a chain is cut into its *period*, the shortest run of layers that repeats (a permutation, a linear layer and a coupling with
either mask, say), and the run is compiled once, for every batch size; the other repetitions pass other weights through the
same code. What is dispatched from Python is then one call a run.

Only what is worth it is compiled: layers say so in ``Transform.regions``. Whatever surrounds the calls (``torch.func``,
forward-mode derivatives, another capture) sees the plain layers. Compiled code cannot be differentiated twice.
"""

import functools
import types
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bijectory.ops.eager import is_direct
from bijectory.transforms.base import Inverse, Transform

Way = Literal["forward", "inverse"]
HEAVY = 1000  # weights of a layer that is worth a run of its own
TOLD: set[str] = set()  # failures of the compiler that were reported: one warning each
LONGEST = 8  # layers of a run: what takes about a minute to compile at worst


class RegionWarning(UserWarning):
    """A region could not be compiled, and runs as it did before.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", RegionWarning)
    """


def run(layers: Sequence[Transform], way: Way, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Apply layers one after the other; their log-determinants are added."""
    total = None
    for layer in layers:
        x, ladj = layer.forward(x, c) if way == "forward" else layer.inverse(x, c)
        total = ladj if total is None else total + ladj
    return x, total  # type: ignore[return-value]  # there is at least one


class Region:
    """A compiled run; the first failure of the compiler gives one warning and the plain layers from then on.

    Args:
        key: What runs of the same structure share: they share the code, too.
        way: The direction.
        backend: Of ``torch.compile``.
    """

    def __init__(self, key: Hashable, way: Way, backend: str) -> None:
        self.key, self.way, self.backend, self.broken = key, way, backend, False
        # A code object of its own, because the compiler's cache and its limit on variants hang on the code object.
        own = types.FunctionType(run.__code__.replace(), run.__globals__, run.__name__)
        self.fast: Callable[..., Any] = torch.compile(own, dynamic=True, backend=backend)

    def __call__(self, layers: Sequence[Transform], x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.broken:
            return run(layers, self.way, x, c)
        try:
            return self.fast(layers, self.way, x, c)
        except Exception as error:  # an error of the layers themselves comes again from the plain call
            result = run(layers, self.way, x, c)
            self.broken = True
            first = str(error).strip().partition("\n")[0] or repr(error)
            if first not in TOLD:
                TOLD.add(first)
                warnings.warn(f"compile failed, going on without: {first}", RegionWarning, stacklevel=5)
            return result

    def __deepcopy__(self, memo: object) -> "Region":
        return self

    def __reduce__(self) -> Any:
        return region, (self.key, self.way, self.backend)


@functools.cache
def region(key: Hashable, way: Way, backend: str) -> Region:
    """The region of a structure, the same for every flow of the process that has it."""
    return Region(key, way, backend)


class Plan:
    """A chain cut into runs, for one direction.

    Args:
        layers: In the order of the direction.
        way: The direction.
        backend: Of ``torch.compile``.

    Attributes:
        parts: Runs with their region, or None for layers that are not compiled.
    """

    def __init__(self, layers: Sequence[Transform], way: Way, backend: str) -> None:
        self.way = way
        self.parts: list[tuple[tuple[Transform, ...], Region | None]] = []
        for part, compiled in cut(layers, way):
            key = tuple(map(signature, part))
            self.parts.append((tuple(part), region(key, way, backend) if compiled else None))

    @property
    def regions(self) -> set[Region]:
        """The different regions: what there is to compile."""
        return {found for _, found in self.parts if found is not None}

    def applies(self, x: Tensor) -> bool:
        """Whether a call may run compiled."""
        return is_direct(x)

    def __call__(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run all parts."""
        total = None
        for layers, compiled in self.parts:
            x, ladj = run(layers, self.way, x, c) if compiled is None else compiled(layers, x, c)
            total = ladj if total is None else total + ladj
        return x, total  # type: ignore[return-value]  # a plan has at least one part

    def without_ladj(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Run all parts for the image alone; layers that are not compiled can save the log-determinant."""
        for layers, compiled in self.parts:
            if compiled is not None:
                x = compiled(layers, x, c)[0]
                continue
            for layer in layers:
                x = layer.encode(x, c) if self.way == "forward" else layer.decode(x, c)
        return x


def cut(layers: Sequence[Transform], way: Way) -> list[tuple[list[Transform], bool]]:
    """Cut layers into runs to compile and layers to leave alone."""
    parts: list[tuple[list[Transform], bool]] = []
    start = 0
    while start < len(layers):
        stop = start
        while stop < len(layers) and compiles(layers[stop], way) == compiles(layers[start], way):
            stop += 1
        stretch, compiled = list(layers[start:stop]), compiles(layers[start], way)
        alone = len(stretch) == 1 and not heavy(stretch[0])  # one light layer between others: a call saves nothing
        parts += [(piece, True) for piece in periods(stretch)] if compiled and not alone else [(stretch, False)]
        start = stop
    return parts


def periods(layers: list[Transform]) -> list[list[Transform]]:
    """Cut into the shortest run that repeats, after one or two layers that do not; else behind each layer with a net."""
    keys = [signature(layer) for layer in layers]
    n = len(layers)
    for head in range(min(3, n)):
        for p in range(1, min(LONGEST, (n - head) // 2) + 1):
            if all(keys[i] == keys[i + p] for i in range(head, n - p)):
                pieces = [layers[i : i + p] for i in range(head, n, p)]
                return [layers[:head], *pieces] if head else pieces
    pieces, current = [], []
    for layer in layers:
        current.append(layer)
        if heavy(layer) or len(current) == LONGEST:
            pieces.append(current)
            current = []
    return [*pieces, current] if current else pieces


def heavy(layer: Transform) -> bool:
    """Whether a layer has a network of its own."""
    return sum(p.numel() for p in layer.parameters()) > HEAVY


def compiles(layer: Transform, way: Way) -> bool:
    """Whether a layer is worth compiling in a direction: root searches and solvers would be unrolled."""
    if isinstance(layer, Inverse):
        return compiles(layer.transform, "inverse" if way == "forward" else "forward")
    closed = getattr(getattr(layer, "bijection", None), "solver", "closed form") == "closed form"
    return closed and way in layer.regions


def signature(layer: Transform) -> Hashable:
    """What two layers have in common if one code can serve both: kinds, sizes and switches, not numbers or orders."""
    tensors = [*layer.named_parameters(), *layer.named_buffers()]
    shapes = tuple((name, tuple(t.shape), t.dtype, t.device.type) for name, t in tensors)
    modules = tuple(type(m).__qualname__ for m in layer.modules())
    plain = {k: v for k, v in vars(layer).items() if isinstance(v, (bool, int, float, str)) and k != "training"}
    return modules, shapes, tuple(sorted(plain.items())), repr(getattr(layer, "bijection", None))

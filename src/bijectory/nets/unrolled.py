"""A masked network unrolled along its levels, while its own outputs determine its inputs.

Hidden units are sorted by level, so the units that a level adds are a slice of rows, and everything below is known once.
"""

import dataclasses
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[int, int, Tensor], Tensor]
"""``step(start, stop, raw)``: values ``(stop - start, N)`` of features from their parameters ``(P, stop - start, N)``."""


@dataclasses.dataclass
class Unrolled:
    """Masked weights in the order of evaluation, and how much of the network is computable at each level.

    Attributes:
        act: Activation.
        known: ``known[k][l]``, how many units of layer ``k`` (0: inputs) are computable once all levels below ``l`` are.
        weights: Of the hidden layers, the first with inputs in topological order.
        offsets: What each hidden layer adds, ``(units, N or 1)``.
        head: ``(features, P, units)``, features in topological order.
        head_offset: ``(features, P, N or 1)``.
        direct: ``(features, P, features)``, a connection past the hidden layers, or None.
        n: Number of batch elements.
    """

    act: Callable[[Tensor], Tensor]
    known: list[list[int]]
    weights: list[Tensor]
    offsets: list[Tensor]
    head: Tensor
    head_offset: Tensor
    direct: Tensor | None
    n: int

    def by_levels(self, step: Step) -> Tensor:
        """One level after another, every unit once: exact."""
        x: Tensor | None = None
        units: list[Tensor | None] = [None] * len(self.weights)
        for level, (start, stop) in enumerate(itertools.pairwise(self.known[0])):
            raw, units = self._evaluate(level, level + 1, x, units)
            x = _append(x, step(start, stop, raw))
        return self.head.new_zeros(0, self.n) if x is None else x

    def by_blocks(
        self, step: Step, guess: Tensor, block: int, tolerance: float, limit: int | None
    ) -> tuple[Tensor, int, bool]:
        """Blocks of levels one after another (Gauss-Seidel), each by Jacobi iteration from the guess."""
        x: Tensor | None = None
        units: list[Tensor | None] = [None] * len(self.weights)
        inputs, iterations, exact = self.known[0], 0, True
        levels = len(inputs) - 1
        for first in range(0, levels, block):
            last = min(first + block, levels)
            start, stop, most = inputs[first], inputs[last], last - first  # after so many a block is exact
            new, settled, known = guess[start:stop], False, units
            for _ in range(most if limit is None else min(most, limit)):
                old = new
                raw, known = self._evaluate(first, last, _append(x, old), units)
                new = step(start, stop, raw)
                iterations += 1
                settled = bool(((new - old).abs() <= tolerance * (1 + new.abs())).all())  # NaN never settles
                if settled:
                    break
            # A number that overflowed on the way is lost: masks multiply, and 0 times infinity is NaN.
            exact = exact and (settled or ((limit is None or limit >= most) and bool(new.isfinite().all())))
            x, units = _append(x, new), known
        return guess if x is None else x, iterations, exact

    def _evaluate(
        self, first: int, last: int, x: Tensor | None, units: list[Tensor | None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Parameters ``(P, n_features, N)`` of levels ``first … last - 1``, and the units known with them."""
        inputs, *counts = self.known
        start, stop = inputs[first], inputs[last]
        h, known = x, []
        for weight, offset, count, unit in zip(self.weights, self.offsets, counts, units, strict=True):
            lo, hi = count[first - 1] if first else 0, count[last - 1]
            h = _append(unit, self.act(_affine(weight[lo:hi], offset[lo:hi], h, self.n))) if lo < hi else unit
            known.append(h)
        raw = _affine(self.head[start:stop].flatten(0, 1), self.head_offset[start:stop].flatten(0, 1), h, self.n)
        if self.direct is not None:
            raw = _affine(self.direct[start:stop].flatten(0, 1), raw, x, self.n)
        return raw.unflatten(0, (stop - start, -1)).transpose(0, 1), known


def _affine(weight: Tensor, offset: Tensor, h: Tensor | None, n: int) -> Tensor:
    """``weight @ h + offset`` on columns ``(i, n)``, with as many rows of ``h`` as are known so far."""
    return offset.expand(-1, n) if h is None else torch.addmm(offset, weight[:, : len(h)], h)


def _append(known: Tensor | None, new: Tensor) -> Tensor:
    return new if known is None else torch.cat((known, new))

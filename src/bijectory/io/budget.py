"""A ceiling on what building a model of unknown origin may allocate."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bijectory.errors import CheckpointError
from bijectory.io.fs import size

SLACK = 32 * 2**20
FACTOR = 16  # temporaries of initialisers and masks, for each byte that the file declares
PER_TENSOR = 4096  # charged at least, so that a million small tensors count too
SMALL = 2**19  # elements
SQUARES = {"eye", "diag", "diag_embed", "block_diag", "combinations", "cdist", "_pdist_forward"}  # n in, n^2 out


class Budget(TorchDispatchMode):
    """Within this context an operation whose result could be large is refused before the memory is asked for.

    A constructor runs as it always does, values included (a permutation may be inverted, a scale checked). Results that
    are surely small are counted afterwards, factories by their size, the rest is tried on the meta device first (rarely
    needed: its kernels take a second to import).

    Args:
        declared: Bytes of the tensors in the weights file.
        tensors: Number of tensors in the weights file.
    """

    def __init__(self, declared: int, tensors: int) -> None:
        super().__init__()
        self.limit = SLACK + FACTOR * declared + 64 * PER_TENSOR * tensors
        self.declared, self.used = declared, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and importing the compiler takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if all(r.alias_info is not None for r in func._schema.returns):  # in place, or a view
            return func(*args, **kwargs)
        bound = _bound(args, kwargs) ** (2 if func._schema.name.removeprefix("aten::") in SQUARES else 1)
        small = bound <= SMALL
        if not small:
            factory = bool(args) and isinstance(args[0], list | tuple) and func._schema.arguments[0].name == "size"
            self._charge(8 * math.prod(args[0]) if factory else _tried_on_meta(func, args, kwargs))
        out = func(*args, **kwargs)
        if small:
            self._charge(_nbytes(out))
        return out

    def _charge(self, nbytes: int) -> None:
        self.used += max(nbytes, PER_TENSOR)
        if self.used > self.limit:
            raise CheckpointError(
                f"the specification builds a model far larger than its weights (more than {size(self.limit)} for a file "
                f"with {size(self.declared)})."
            )


def _bound(args: Any, kwargs: Any) -> int:
    """The product of all sizes and numbers that go in: no result has more elements, ``SQUARES`` apart."""
    bound = 1
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            bound *= max(leaf.numel(), 1)
        elif isinstance(leaf, int | float) and abs(leaf) > 1:
            bound *= min(math.ceil(abs(leaf)), 2**64) if math.isfinite(leaf) else 1
        if bound > SMALL:
            break
    return bound


def _nbytes(out: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(out) if isinstance(t, Tensor))


def _tried_on_meta(func: Any, args: Any, kwargs: Any) -> int:
    def to_meta(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

    args, kwargs = tree_map_only(Tensor, to_meta, (args, kwargs))
    names = {a.name for a in func._schema.arguments}
    kwargs = {**kwargs, **{k: v for k, v in (("device", "meta"), ("generator", None)) if k in names}}
    try:
        return _nbytes(func(*args, **kwargs))
    except Exception:  # depends on values (item, nonzero) or has no meta kernel: the inputs were charged already
        return 0

"""A ceiling on what building a model of unknown origin may allocate."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from bijectory.errors import CheckpointError
from bijectory.io.fs import size

SLACK = 32 * 2**20
FACTOR = 16  # temporaries of initialisers and masks, for each byte that the file declares
PER_TENSOR = 4096  # charged at least, so that a million small tensors count too


class Budget(TorchDispatchMode):
    """Within this context every operation is first tried on the meta device and refused if its result is too large.

    A constructor runs as it always does, values included (a permutation may be inverted, a scale checked), and a
    hyper-parameter such as ``hidden=[10**9]`` stops before the memory is asked for.

    Args:
        declared: Bytes of the tensors in the weights file.
        tensors: Number of tensors in the weights file.
    """

    def __init__(self, declared: int, tensors: int) -> None:
        super().__init__()
        self.limit = SLACK + FACTOR * declared + 64 * PER_TENSOR * tensors
        self.declared, self.used = declared, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(r.alias_info is None for r in func._schema.returns):
            self._charge(func, args, kwargs)
        return func(*args, **kwargs)

    def _charge(self, func: Any, args: Any, kwargs: Any) -> None:
        def to_meta(t: Tensor) -> Tensor:
            return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

        args, kwargs = tree_map_only(Tensor, to_meta, (args, kwargs))
        names = {a.name for a in func._schema.arguments}
        kwargs = {**kwargs, **{k: v for k, v in (("device", "meta"), ("generator", None)) if k in names}}
        try:
            out = func(*args, **kwargs)
        except Exception:
            return  # depends on values (item, nonzero), or has no meta kernel: the inputs were charged already
        bytes_out = [0]
        tree_map_only(Tensor, lambda t: bytes_out.append(t.numel() * t.element_size()), out)
        self.used += max(sum(bytes_out), PER_TENSOR)
        if self.used > self.limit:
            raise CheckpointError(
                f"the specification builds a model far larger than its weights (more than {size(self.limit)} for a file "
                f"with {size(self.declared)})."
            )

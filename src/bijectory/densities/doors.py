"""What enters a density by its public methods is checked there, whoever wrote the density.

Static facts only (type, shape, presence), so that capture stays whole. A flow asks for more: the same dtype and device, and
a context that fits. A density without context ignores one: it may stand in a conditional flow.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bijectory.densities.validate import check_floating, check_shape, check_tensor, shape_message
from bijectory.errors import ContextError, ShapeError

if TYPE_CHECKING:
    from bijectory.densities.base import Density

Method = Callable[..., Any]


def _log_prob(method: Method) -> Method:
    @functools.wraps(method)
    def guarded(self: "Density", x: Tensor, c: Tensor | None = None, *more: Any, **keywords: Any) -> Any:
        check_tensor(x, "x")
        n = len(self.event_shape)
        if x.dim() < n or x.shape[x.dim() - n :] != self.event_shape:
            raise ShapeError(shape_message(x, self.event_shape, "x"))
        check_floating(self, x, "x")
        _context(self, c)
        return method(self, x, c, *more, **keywords)

    return guarded


def _sample(method: Method) -> Method:
    @functools.wraps(method)
    def guarded(
        self: "Density",
        shape: int | tuple[int, ...] = (),
        c: Tensor | None = None,
        *more: Any,
        **keywords: Any,
    ) -> Any:
        shape = check_shape(shape)
        _context(self, c)
        return method(self, shape, c, *more, **keywords)

    return guarded


def _context(density: "Density", c: Tensor | None) -> None:
    if c is None and density.context:
        raise ContextError(
            f"this {type(density).__name__} was built with context={density.context} but got context=None."
        )


DOORS: Mapping[str, Callable[[Method], Method]] = MappingProxyType(
    {"log_prob": _log_prob, "sample": _sample, "rsample": _sample, "rsample_and_log_prob": _sample}
)
"""The methods of a density that check what enters."""

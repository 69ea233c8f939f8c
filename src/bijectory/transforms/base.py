r"""Layers of a flow: invertible maps that own weights.

``forward`` goes data -> latent and returns ``z`` with :math:`\log|\det \partial z/\partial x|`; ``inverse`` goes
latent -> data and returns ``x`` with :math:`\log|\det \partial x/\partial z|`. The log-determinant always belongs to the
map just applied, one number for each batch element, so a chain adds.

Every constructor argument ``n`` of a transform is kept as the attribute ``n``: that is what makes any composition
printable and storable as a JSON specification.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bijectory.errors import ContextError, check_type

DIRECTIONS = ("forward", "inverse", "encode", "decode")


def _with_context(method: Callable[..., Any]) -> Callable[..., Any]:
    """A direction of a layer that refuses to go without the context that the layer reads."""

    @functools.wraps(method)
    def guarded(self: "Transform", x: Tensor, c: Tensor | None = None, *more: Any, **keywords: Any) -> Any:
        if c is None and self.context:
            raise ContextError(
                f"this {type(self).__name__} was built with context={self.context} but got context=None."
            )
        return method(self, x, c, *more, **keywords)

    return guarded


class Transform(nn.Module, abc.ABC):
    """An invertible layer.

    Attributes:
        event_dim: Number of rightmost dimensions that form one event of ``x``.
        latent_event_dim: The same of ``z``; differs only in layers that reshape.
        exact: False where the log-determinant is an unbiased estimate or a bound.
        context: Width of the context that the layer reads, 0 for none.
        solver: How ``inverse`` is computed (with closed-form scalar families, where it takes one).
        ladj_cost: What the log-determinant costs beside the map, in the number of features ``d``.
        regions: The directions that are worth compiling, see ``Flow.compiled``.
    """

    solver: ClassVar[Literal["closed form", "by features", "bracketed root", "fixed point", "integral"]] = "closed form"
    ladj_cost: ClassVar[str] = "O(d)"
    regions: ClassVar[tuple[Literal["forward", "inverse"], ...]] = ()
    event_dim: int = 1
    latent_event_dim: int = 1
    exact: bool = True
    context: int = 0
    _native_run: Any = None  # all of it in native kernels, one call; see `use_native`
    _any_layout: bool = False  # whether it reads a batch in any order of memory as fast as feature by feature

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Guard the directions of every layer, of whatever author: without its context it would be another map."""
        super().__init_subclass__(**keywords)
        for name in DIRECTIONS:
            if name in cls.__dict__:
                setattr(cls, name, _with_context(cls.__dict__[name]))

    @abc.abstractmethod
    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data -> latent.

        Args:
            x: ``(*batch, *event)``.
            c: Context ``(*batch, context)``; broadcasts against the batch of ``x``.

        Returns:
            ``z`` of shape ``(*batch, *event)`` and ``log|det dz/dx|`` of shape ``(*batch,)``.
        """

    @abc.abstractmethod
    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent -> data; returns ``x`` and ``log|det dx/dz|``."""

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Data -> latent without the log-determinant: ``z`` alone, cheaper where the layer can do without."""
        return self.forward(x, c)[0]

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Latent -> data without the log-determinant: what sampling needs."""
        return self.inverse(z, c)[0]

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        """Event shape of ``z`` for an event shape of ``x``; the same unless the layer reshapes."""
        return data_shape

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        """Event shape of ``x`` for an event shape of ``z``; the same unless the layer reshapes."""
        return latent_shape

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        """Set data-dependent parameters from training data ``x``; nothing to do for most layers.

        Called once by ``fit`` (or by hand) before training, never by ``forward`` or ``inverse``.
        """


class Inverse(Transform):
    """The inverse of a transform as a transform: swaps the two directions. An IAF is ``Inverse(Autoregressive(...))``.

    Example:
        >>> from bijectory import Affine, Elementwise
        >>> layer = Elementwise(Affine(), 2)
        >>> x = torch.ones(2)
        >>> bool((Inverse(layer).forward(x)[0] == layer.inverse(x)[0]).all())
        True
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        check_type(transform, Transform, "transform")
        self.transform = transform
        self.event_dim, self.latent_event_dim = transform.latent_event_dim, transform.event_dim
        self.exact, self.context = transform.exact, transform.context

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, c)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.forward(z, c)

    def encode(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        return self.transform.decode(x, c)

    def decode(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return self.transform.encode(z, c)

    def latent_shape(self, data_shape: torch.Size) -> torch.Size:
        return self.transform.data_shape(data_shape)

    def data_shape(self, latent_shape: torch.Size) -> torch.Size:
        return self.transform.latent_shape(latent_shape)

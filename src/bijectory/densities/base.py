r"""Densities: exact log-probabilities and exact samples.

.. math:: \log p_X(x) = \log p_Z(f(x)) + \log|\det \partial f / \partial x|

A base density is a ``Density``; so is a ``Flow`` (a transform over a base), and a flow can be the base of another.
"""

import abc
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bijectory.densities.doors import DOORS
from bijectory.errors import ConfigError, FlowError, check


def as_event_shape(event_shape: int | Sequence[int]) -> torch.Size:
    """A number of features or a shape as ``torch.Size``; every dimension must be a positive int."""
    try:
        sizes = tuple(operator.index(n) for n in (event_shape if isinstance(event_shape, Sequence) else (event_shape,)))
    except TypeError:
        sizes = ()
    ok = bool(sizes) and all(n >= 1 for n in sizes)
    check(ok, ConfigError, f"event_shape must be a positive int or a tuple of them, got {event_shape!r}.")
    return torch.Size(sizes)


def open_unit(u: Tensor) -> Tensor:
    """Points of the closed unit interval in float64, strictly inside it, where every quantile is finite."""
    return u.double().clamp(2**-54, 1 - 2**-53)


def refuse_gradients(density: nn.Module, remedy: str) -> None:
    """Raise ``FlowError`` where draws are asked to carry gradients to weights that they cannot carry them to."""
    asked = torch.is_grad_enabled() and any(p.requires_grad for p in density.parameters())
    message = (
        f"draws of a {type(density).__name__} carry no gradient to its weights, so rsample would be wrong; {remedy}"
    )
    check(not asked, FlowError, message)


class Density(nn.Module, abc.ABC):
    """A probability density on events of shape ``event_shape``.

    Attributes:
        event_shape: Shape of one event, ``torch.Size``.
        context: Width of the context that the density reads, 0 for none.
        exact: False where ``log_prob`` is a bound or an estimate.
        surface: True where the density is with respect to the area of a surface in the event space, e.g. a sphere.
    """

    event_shape: torch.Size
    context: int = 0
    exact: bool = True
    surface: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Every density, of whatever author, checks what enters it: a wrong shape would often broadcast to an answer."""
        super().__init_subclass__(**keywords)
        for name, door in DOORS.items():
            if name in cls.__dict__:
                setattr(cls, name, door(cls.__dict__[name]))

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Same as ``log_prob``: what DDP, compile, export and hooks see."""
        return self.log_prob(x, c)

    @abc.abstractmethod
    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Log-density in nats: ``(*batch, *event) -> (*batch,)``."""

    @abc.abstractmethod
    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws with gradients (reparameterised): ``(*shape, *batch of c, *event)``."""

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws without gradients: ``(*shape, *batch of c, *event)``.

        Args:
            shape: Number of draws for each context, an int or a tuple; ``()`` gives one.
            c: Context ``(*batch, context)``.
            generator: Source of randomness; the global one if None.
        """
        with torch.no_grad():
            return self.rsample(shape, c, generator=generator)

    def rsample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws with gradients and their log-density, in one pass where the density allows it."""
        x = self.rsample(shape, c, generator=generator)
        return x, self.log_prob(x, c)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        """Map the unit cube onto the density: uniform ``u`` gives a draw, ``(*batch, *event) -> (*batch, *event)``.

        Quantiles, feature by feature; a flow maps those of its base on. It serves nested samplers and quasi-Monte Carlo.

        Args:
            u: In ``[0, 1]``, of any floating dtype; the ends are moved inwards by less than 1e-15. float64 reaches far
                into the tails.
            c: Context ``(*batch, context)``.

        Raises:
            FlowError: If the density has no quantile function in closed form.
        """
        raise FlowError(
            f"a {type(self).__name__} has no quantile function in closed form, so it cannot be drawn from the unit cube; "
            "use a flow whose base has one (StandardNormal, DiagonalNormal, BoxUniform, StudentT, TruncatedNormal, or a "
            "Product of these)."
        )

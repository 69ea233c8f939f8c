r"""Scalar monotone families :math:`y = \tau(x; \phi)`.

A bijection is a *formula*: a frozen dataclass of plain hyper-parameters, hashable and printable, that holds no tensor. Its
``n_params`` raw parameters arrive from outside, one plane each: ``phi`` is ``(P, *batch, features)``. One family works at
once in the three wirings ``Elementwise``, ``Coupling`` and ``Autoregressive``, with and without context.

Law: at ``phi = 0`` a family is the identity, or the starting map that its docstring names.
"""

import abc
from typing import ClassVar, Literal

from torch import Tensor


class Bijection(abc.ABC):
    """A monotone scalar map with raw parameters ``phi``; subclasses are frozen dataclasses, one idea a file.

    Attributes:
        solver: How ``inverse`` is computed, in the same time for every element.
        data_dependent: Whether ``initial`` knows better raw parameters than zeros.
    """

    solver: ClassVar[Literal["closed form", "bracketed root"]] = "closed form"
    data_dependent: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def n_params(self) -> int:
        """Number ``P`` of raw parameters for each scalar."""

    @abc.abstractmethod
    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Data -> latent, elementwise.

        Args:
            x: ``(*batch, features)``.
            phi: ``(P, *batch, features)``, broadcastable against ``x``.

        Returns:
            ``y`` and ``log|dy/dx|``, each shaped like the broadcast of ``x`` with one plane.
        """

    @abc.abstractmethod
    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Latent -> data, elementwise; returns ``x`` and ``log|dx/dy|``."""

    def initial(self, x: Tensor) -> Tensor:
        """Raw parameters to start from for training data ``x``: ``(n, features) -> (P, features)``; zeros by default."""
        return x.new_zeros(self.n_params, x.shape[-1])

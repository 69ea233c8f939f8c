"""Layers that can recompute their input and differentiate with one pass through their network instead of two."""

import abc
from typing import Literal

import torch
from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.transforms.base import Transform

Way = Literal["forward", "inverse"]


class Retraceable(Transform, abc.ABC):
    """A layer whose network reads a part of the input that it also copies to the output, so known from either side."""

    @abc.abstractmethod
    def retrace(self, way: Way, z: Tensor, c: Tensor | None = None) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Recompute the input of a run from its result, and run again, recorded for differentiation.

        Args:
            way: The direction of the run.
            z: Its result.
            c: Context of the run.

        Returns:
            The input in two parts, leaves of the recorded graph; ``z`` again, and the log-determinant of the run.
        """

    @abc.abstractmethod
    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Put two parts together: a linear map, so it takes gradients as well."""


def rerun(bijection: Bijection, way: Way, moved: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Undo a scalar family without recording, and apply it again with: the input as a leaf, the result, its ladj."""
    run, back = (bijection.forward, bijection.inverse) if way == "forward" else (bijection.inverse, bijection.forward)
    with torch.no_grad():
        before, _ = back(moved, phi)
    before = before.detach().requires_grad_()
    return before, *run(before, phi)

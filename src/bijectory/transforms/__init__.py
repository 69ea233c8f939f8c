"""Layers with the two directions of the contract."""

from bijectory.transforms.base import Inverse, Transform
from bijectory.transforms.chain import Chain
from bijectory.transforms.coupling import Coupling
from bijectory.transforms.elementwise import Elementwise

__all__ = ["Chain", "Coupling", "Elementwise", "Inverse", "Transform"]

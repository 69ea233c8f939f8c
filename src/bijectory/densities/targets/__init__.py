"""Densities with known answers."""

from bijectory.densities.targets.base import Target
from bijectory.densities.targets.curved import Banana, Funnel
from bijectory.densities.targets.energies import RezendeMohamed
from bijectory.densities.targets.modes import GaussianGrid, GaussianRing
from bijectory.densities.targets.shapes import Checkerboard, Rings, TwoMoons

__all__ = [
    "Banana",
    "Checkerboard",
    "Funnel",
    "GaussianGrid",
    "GaussianRing",
    "RezendeMohamed",
    "Rings",
    "Target",
    "TwoMoons",
]

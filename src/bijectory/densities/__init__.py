"""Densities: bases, targets with known answers, and the flow."""

from bijectory.densities.base import Density
from bijectory.densities.flow import Flow
from bijectory.densities.normal import StandardNormal

__all__ = ["Density", "Flow", "StandardNormal"]

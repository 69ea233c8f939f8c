"""Densities: bases, targets with known answers, and the flow."""

from bijectory.densities.audit import Audit
from bijectory.densities.base import Density
from bijectory.densities.embed import Encode
from bijectory.densities.flow import Flow
from bijectory.densities.normal import StandardNormal

__all__ = ["Audit", "Density", "Flow", "StandardNormal"]
__all__ = ["Density", "Encode", "Flow", "StandardNormal"]

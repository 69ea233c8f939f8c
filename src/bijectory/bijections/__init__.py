"""Scalar monotone families: stateless formulas that every wiring can use."""

from bijectory.bijections.affine import Affine, Shift
from bijectory.bijections.base import Bijection
from bijectory.bijections.rational_quadratic import RationalQuadratic

__all__ = ["Affine", "Bijection", "RationalQuadratic", "Shift"]

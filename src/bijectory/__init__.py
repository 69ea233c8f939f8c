"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions."""

from bijectory.bijections import Affine, Bijection, RationalQuadratic, Shift
from bijectory.densities import Density, Flow, StandardNormal
from bijectory.recipes import real_nvp
from bijectory.transforms import Chain, Coupling, Elementwise, Inverse, Transform

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Bijection",
    "Chain",
    "Coupling",
    "Density",
    "Elementwise",
    "Flow",
    "Inverse",
    "RationalQuadratic",
    "Shift",
    "StandardNormal",
    "Transform",
    "real_nvp",
]

"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions."""

from bijectory.bijections import Affine, Bijection, Shift
from bijectory.densities import Density, Flow, StandardNormal
from bijectory.recipes import real_nvp
from bijectory.transforms import (
    LU,
    ActNorm,
    Chain,
    Coupling,
    Elementwise,
    Inverse,
    Permutation,
    Reshape,
    Standardize,
    Transform,
    random_permutation,
    reversal,
)

__version__ = "0.1.0"

__all__ = [
    "LU",
    "ActNorm",
    "Affine",
    "Bijection",
    "Chain",
    "Coupling",
    "Density",
    "Elementwise",
    "Flow",
    "Inverse",
    "Permutation",
    "Reshape",
    "Shift",
    "StandardNormal",
    "Standardize",
    "Transform",
    "random_permutation",
    "real_nvp",
    "reversal",
]

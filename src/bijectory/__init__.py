"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions."""

from bijectory.bijections import Affine, Bijection, Shift
from bijectory.densities import Density, Flow, StandardNormal
from bijectory.objectives import nll
from bijectory.recipes import real_nvp
from bijectory.training import Batch, Callback, Data, FitConfig, FitResult, fit
from bijectory.transforms import Chain, Coupling, Elementwise, Inverse, Transform

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Batch",
    "Bijection",
    "Callback",
    "Chain",
    "Coupling",
    "Data",
    "Density",
    "Elementwise",
    "FitConfig",
    "FitResult",
    "Flow",
    "Inverse",
    "Shift",
    "StandardNormal",
    "Transform",
    "fit",
    "nll",
    "real_nvp",
]

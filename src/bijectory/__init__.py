"""Bijectory: normalizing flows with exact likelihoods and exact samples, in both directions."""

from bijectory.bijections import (
    Affine,
    Bijection,
    Exp,
    LeakyReLU,
    Log,
    Logit,
    Shift,
    Sigmoid,
    SinhArcsinh,
    Softplus,
    Tanh,
    YeoJohnson,
)
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
    "Exp",
    "Flow",
    "Inverse",
    "LeakyReLU",
    "Log",
    "Logit",
    "Shift",
    "Sigmoid",
    "SinhArcsinh",
    "Softplus",
    "StandardNormal",
    "Tanh",
    "Transform",
    "YeoJohnson",
    "real_nvp",
]

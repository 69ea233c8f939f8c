"""Densities: bases, targets with known answers, and the flow."""

from bijectory.densities.audit import Audit
from bijectory.densities.augmented import Augmented
from bijectory.densities.base import Density
from bijectory.densities.dequantize import Dequantized, bits_per_dim
from bijectory.densities.diffusion import sde_sample
from bijectory.densities.distribution import FlowDistribution
from bijectory.densities.embed import Encode
from bijectory.densities.ensemble import Ensemble
from bijectory.densities.flow import Flow
from bijectory.densities.guidance import denoise, guided_sample
from bijectory.densities.mixture import GaussianMixture
from bijectory.densities.mixture_of import Mixture
from bijectory.densities.normal import DiagonalNormal, StandardNormal
from bijectory.densities.pareto import ParetoTailed
from bijectory.densities.product import Product
from bijectory.densities.resampled import Resampled
from bijectory.densities.sphere import UniformSphere, VonMisesFisher
from bijectory.densities.student import StudentT
from bijectory.densities.surjections import Absolute, MaxPool, Slice
from bijectory.densities.targets import (
    Banana,
    Checkerboard,
    Funnel,
    GaussianGrid,
    GaussianRing,
    RezendeMohamed,
    Rings,
    Target,
    TwoMoons,
)
from bijectory.densities.truncated import TruncatedNormal
from bijectory.densities.uniform import BoxUniform
from bijectory.densities.von_mises import VonMises

__all__ = [
    "Absolute",
    "Audit",
    "Augmented",
    "Banana",
    "BoxUniform",
    "Checkerboard",
    "Density",
    "Dequantized",
    "DiagonalNormal",
    "Encode",
    "Ensemble",
    "Flow",
    "FlowDistribution",
    "Funnel",
    "GaussianGrid",
    "GaussianMixture",
    "GaussianRing",
    "MaxPool",
    "Mixture",
    "ParetoTailed",
    "Product",
    "Resampled",
    "RezendeMohamed",
    "Rings",
    "Slice",
    "StandardNormal",
    "StudentT",
    "Target",
    "TruncatedNormal",
    "TwoMoons",
    "UniformSphere",
    "VonMises",
    "VonMisesFisher",
    "bits_per_dim",
    "denoise",
    "guided_sample",
    "sde_sample",
]

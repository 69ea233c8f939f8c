"""Objectives: plain callables ``(model, batch) -> scalar``, lower is better."""

from bijectory.objectives.alpha import AlphaDivergence
from bijectory.objectives.augment import ContextDropout, NoisyData
from bijectory.objectives.batch import Batch
from bijectory.objectives.couplings import (
    ConditionalOptimalTransport,
    Coupling,
    Independent,
    OptimalTransport,
    Paired,
    Pairs,
    SchrodingerBridge,
)
from bijectory.objectives.dequantization import dequantized_nll
from bijectory.objectives.elbo import BinarizedData, NegativeElbo
from bijectory.objectives.geodesic import Geodesic, natural_path
from bijectory.objectives.likelihood import nll
from bijectory.objectives.matching import FlowMatching
from bijectory.objectives.paths import BrownianBridge, ConstantNoise, Interpolant, Path, PathNoise, SineSquared
from bijectory.objectives.reflow import reflow, straightness
from bijectory.objectives.registry import OBJECTIVES, REGRESSIONS, find_objective
from bijectory.objectives.regularized import RegularizedLikelihood
from bijectory.objectives.reverse_kl import ReverseKL
from bijectory.objectives.score_matching import ScoreMatching
from bijectory.objectives.times import LogitNormalTimes, PowerTimes, Times, UniformTimes
from bijectory.objectives.transport import TransportRegularized, follow

__all__ = [
    "OBJECTIVES",
    "REGRESSIONS",
    "AlphaDivergence",
    "Batch",
    "BinarizedData",
    "BrownianBridge",
    "ConditionalOptimalTransport",
    "ConstantNoise",
    "ContextDropout",
    "Coupling",
    "FlowMatching",
    "Geodesic",
    "Independent",
    "Interpolant",
    "LogitNormalTimes",
    "NegativeElbo",
    "NoisyData",
    "OptimalTransport",
    "Paired",
    "Pairs",
    "Path",
    "PathNoise",
    "PowerTimes",
    "RegularizedLikelihood",
    "ReverseKL",
    "SchrodingerBridge",
    "ScoreMatching",
    "SineSquared",
    "Times",
    "TransportRegularized",
    "UniformTimes",
    "dequantized_nll",
    "find_objective",
    "follow",
    "natural_path",
    "nll",
    "reflow",
    "straightness",
]

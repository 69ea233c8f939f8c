"""Objectives: plain callables ``(model, batch) -> scalar``, lower is better."""

from bijectory.objectives.alpha import AlphaDivergence
from bijectory.objectives.augment import ContextDropout, NoisyData
from bijectory.objectives.batch import Batch
from bijectory.objectives.dequantization import dequantized_nll
from bijectory.objectives.likelihood import nll
from bijectory.objectives.registry import OBJECTIVES, find_objective
from bijectory.objectives.reverse_kl import ReverseKL

__all__ = [
    "OBJECTIVES",
    "AlphaDivergence",
    "Batch",
    "ContextDropout",
    "NoisyData",
    "ReverseKL",
    "dequantized_nll",
    "find_objective",
    "nll",
]

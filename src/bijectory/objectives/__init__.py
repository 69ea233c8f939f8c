"""Objectives: plain callables ``(model, batch) -> scalar``, lower is better."""

from bijectory.objectives.batch import Batch
from bijectory.objectives.likelihood import nll
from bijectory.objectives.reverse_kl import ReverseKL

__all__ = ["Batch", "ReverseKL", "nll"]

"""Networks that know nothing of flows."""

from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.mlp import MLP, Dense

__all__ = ["ACTIVATIONS", "MLP", "Dense"]

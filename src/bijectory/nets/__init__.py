"""Networks that know nothing of flows."""

from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.blocks import BlockDense
from bijectory.nets.freezable import Freezable
from bijectory.nets.masked import MaskedMLP
from bijectory.nets.mlp import MLP, Dense

__all__ = ["ACTIVATIONS", "MLP", "BlockDense", "Dense", "Freezable", "MaskedMLP"]

"""Networks that know nothing of flows."""

from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.context_conv import ContextConv
from bijectory.nets.conv import Conv, ConvNet, ConvResNet
from bijectory.nets.freezable import Freezable
from bijectory.nets.gated import GatedConvNet
from bijectory.nets.masked import MaskedMLP
from bijectory.nets.mlp import MLP, Dense
from bijectory.nets.transformer import Cache, CausalTransformer, ViT

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Cache",
    "CausalTransformer",
    "ContextConv",
    "Conv",
    "ConvNet",
    "ConvResNet",
    "Dense",
    "Freezable",
    "GatedConvNet",
    "MaskedMLP",
    "ViT",
]

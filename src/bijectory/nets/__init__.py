"""Networks that know nothing of flows."""

from bijectory.nets.activations import ACTIVATIONS
from bijectory.nets.autoencoder import DenseDecoder, DenseEncoder, GatedDecoder, GatedEncoder
from bijectory.nets.blocks import BlockDense
from bijectory.nets.context_conv import ContextConv
from bijectory.nets.contraction import Contraction, LipschitzDenseNet, LipschitzNet
from bijectory.nets.conv import Conv, ConvNet, ConvResNet
from bijectory.nets.conv_field import ConvField
from bijectory.nets.embeddings import (
    ImageEmbedding,
    MissingIndicator,
    MissingRestored,
    SeriesEmbedding,
    SetEmbedding,
    VectorEmbedding,
)
from bijectory.nets.field import Field, Prepared, TimeMLP
from bijectory.nets.freezable import Freezable
from bijectory.nets.gated import GatedConvNet
from bijectory.nets.lipschitz import LipschitzConv, LipschitzDense
from bijectory.nets.lipswish import CLipSwish, LipSwish, Pointwise
from bijectory.nets.manifolds import Euclidean, Manifold, ProductManifold, Sphere, Torus
from bijectory.nets.masked import MaskedMLP
from bijectory.nets.mlp import MLP, Dense
from bijectory.nets.periodic import Periodic
from bijectory.nets.potential import Potential
from bijectory.nets.probability_flow import ProbabilityFlow
from bijectory.nets.redrawn import Redrawn
from bijectory.nets.residual_field import ResidualField
from bijectory.nets.schedules import (
    Cosine,
    Schedule,
    Straight,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from bijectory.nets.tangent import Tangent
from bijectory.nets.transformer import Cache, CausalTransformer, ViT
from bijectory.nets.unet import UNetField
from bijectory.nets.volume import VolumePreserving

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "BlockDense",
    "CLipSwish",
    "Cache",
    "CausalTransformer",
    "ContextConv",
    "Contraction",
    "Conv",
    "ConvField",
    "ConvNet",
    "ConvResNet",
    "Cosine",
    "Dense",
    "DenseDecoder",
    "DenseEncoder",
    "Euclidean",
    "Field",
    "Freezable",
    "GatedConvNet",
    "GatedDecoder",
    "GatedEncoder",
    "ImageEmbedding",
    "LipSwish",
    "LipschitzConv",
    "LipschitzDense",
    "LipschitzDenseNet",
    "LipschitzNet",
    "Manifold",
    "MaskedMLP",
    "MissingIndicator",
    "MissingRestored",
    "Periodic",
    "Pointwise",
    "Potential",
    "Prepared",
    "ProbabilityFlow",
    "ProductManifold",
    "Redrawn",
    "ResidualField",
    "Schedule",
    "SeriesEmbedding",
    "SetEmbedding",
    "Sphere",
    "Straight",
    "SubVariancePreserving",
    "Tangent",
    "TimeMLP",
    "Torus",
    "UNetField",
    "VarianceExploding",
    "VariancePreserving",
    "VectorEmbedding",
    "ViT",
    "VolumePreserving",
]

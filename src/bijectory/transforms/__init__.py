"""Layers with the two directions of the contract."""

from bijectory.transforms.autoregressive import Autoregressive
from bijectory.transforms.base import Inverse, Transform
from bijectory.transforms.block_autoregressive import BlockAutoregressive
from bijectory.transforms.chain import Chain
from bijectory.transforms.coupling import Coupling
from bijectory.transforms.elementwise import Elementwise
from bijectory.transforms.lu import LU
from bijectory.transforms.normalize import ActNorm, Standardize
from bijectory.transforms.partition import Partition
from bijectory.transforms.permutation import Permutation, random_permutation, reversal
from bijectory.transforms.planar import Planar
from bijectory.transforms.radial import Radial
from bijectory.transforms.reshape import Reshape
from bijectory.transforms.sylvester import Sylvester

__all__ = [
    "LU",
    "ActNorm",
    "Autoregressive",
    "BlockAutoregressive",
    "Chain",
    "Coupling",
    "Elementwise",
    "Inverse",
    "Partition",
    "Permutation",
    "Planar",
    "Radial",
    "Reshape",
    "Standardize",
    "Sylvester",
    "Transform",
    "random_permutation",
    "reversal",
]

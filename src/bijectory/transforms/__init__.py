"""Layers with the two directions of the contract."""

from bijectory.transforms.autoregressive import Autoregressive
from bijectory.transforms.base import Inverse, Transform
from bijectory.transforms.block_autoregressive import BlockAutoregressive
from bijectory.transforms.causal import Causal, Jacobi
from bijectory.transforms.chain import Chain
from bijectory.transforms.confined import Confined
from bijectory.transforms.continuous import Continuous
from bijectory.transforms.conv1x1 import Conv1x1
from bijectory.transforms.costs import forward_with_costs
from bijectory.transforms.coupling import Coupling
from bijectory.transforms.elementwise import Elementwise
from bijectory.transforms.image_coupling import ImageCoupling
from bijectory.transforms.lu import LU, QR
from bijectory.transforms.matrix_exp import MatrixExp
from bijectory.transforms.monotone_integral import MonotoneIntegral
from bijectory.transforms.multiscale import Multiscale
from bijectory.transforms.normalize import ActNorm, Standardize
from bijectory.transforms.ordered import Ordered
from bijectory.transforms.orthogonal import Householder, Rotation
from bijectory.transforms.partition import Partition
from bijectory.transforms.patchify import Patchify
from bijectory.transforms.permutation import Permutation, random_permutation, reversal
from bijectory.transforms.phase_shift import PhaseShift
from bijectory.transforms.planar import Planar
from bijectory.transforms.radial import Radial
from bijectory.transforms.regression import Regression
from bijectory.transforms.reshape import Reshape
from bijectory.transforms.residual import Residual
from bijectory.transforms.reversible import Reversible
from bijectory.transforms.squeeze import Haar, Squeeze
from bijectory.transforms.stochastic import Stochastic, estimate_with_error
from bijectory.transforms.sylvester import Sylvester
from bijectory.transforms.whiten import Whiten

__all__ = [
    "LU",
    "QR",
    "ActNorm",
    "Autoregressive",
    "BlockAutoregressive",
    "Causal",
    "Chain",
    "Confined",
    "Continuous",
    "Conv1x1",
    "Coupling",
    "Elementwise",
    "Haar",
    "Householder",
    "ImageCoupling",
    "Inverse",
    "Jacobi",
    "MatrixExp",
    "MonotoneIntegral",
    "Multiscale",
    "Ordered",
    "Partition",
    "Patchify",
    "Permutation",
    "PhaseShift",
    "Planar",
    "Radial",
    "Regression",
    "Reshape",
    "Residual",
    "Reversible",
    "Rotation",
    "Squeeze",
    "Standardize",
    "Stochastic",
    "Sylvester",
    "Transform",
    "Whiten",
    "estimate_with_error",
    "forward_with_costs",
    "random_permutation",
    "reversal",
]

"""Scalar monotone families: stateless formulas that every wiring can use."""

from bijectory.bijections.affine import Affine, Shift
from bijectory.bijections.arcsinh import Arcsinh
from bijectory.bijections.base import Bijection
from bijectory.bijections.exponential import Exp, Log, Softplus
from bijectory.bijections.inverted import Inverted
from bijectory.bijections.leaky_relu import LeakyReLU
from bijectory.bijections.logistic import Logit, Sigmoid, Tanh
from bijectory.bijections.rational_quadratic import RationalQuadratic
from bijectory.bijections.sinh_arcsinh import SinhArcsinh
from bijectory.bijections.yeo_johnson import YeoJohnson

__all__ = [
    "Affine",
    "Arcsinh",
    "Bijection",
    "Exp",
    "Inverted",
    "LeakyReLU",
    "Log",
    "Logit",
    "RationalQuadratic",
    "Shift",
    "Sigmoid",
    "SinhArcsinh",
    "Softplus",
    "Tanh",
    "YeoJohnson",
]

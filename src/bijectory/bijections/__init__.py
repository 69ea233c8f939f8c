"""Scalar monotone families: stateless formulas that every wiring can use."""

from bijectory.bijections.affine import Affine, Shift
from bijectory.bijections.arcsinh import Arcsinh
from bijectory.bijections.base import Bijection
from bijectory.bijections.bernstein import Bernstein
from bijectory.bijections.cubic_spline import CubicSpline
from bijectory.bijections.exponential import Exp, Log, Softplus
from bijectory.bijections.gaussianization import Gaussianization
from bijectory.bijections.inverted import Inverted
from bijectory.bijections.leaky_relu import LeakyReLU
from bijectory.bijections.linear_rational import LinearRational
from bijectory.bijections.linear_spline import LinearSpline
from bijectory.bijections.logistic import Logit, Sigmoid, Tanh
from bijectory.bijections.mixture_cdf import MixtureCdf
from bijectory.bijections.power import Power
from bijectory.bijections.power_tails import PowerTails
from bijectory.bijections.quadratic_spline import QuadraticSpline
from bijectory.bijections.rational_quadratic import RationalQuadratic
from bijectory.bijections.sigmoidal import Sigmoidal
from bijectory.bijections.sinh_arcsinh import SinhArcsinh
from bijectory.bijections.soft_clip import SoftClip
from bijectory.bijections.sum_of_squares import SumOfSquares
from bijectory.bijections.yeo_johnson import YeoJohnson

__all__ = [
    "Affine",
    "Arcsinh",
    "Bernstein",
    "Bijection",
    "CubicSpline",
    "Exp",
    "Gaussianization",
    "Inverted",
    "LeakyReLU",
    "LinearRational",
    "LinearSpline",
    "Log",
    "Logit",
    "MixtureCdf",
    "Power",
    "PowerTails",
    "QuadraticSpline",
    "RationalQuadratic",
    "Shift",
    "Sigmoid",
    "Sigmoidal",
    "SinhArcsinh",
    "SoftClip",
    "Softplus",
    "SumOfSquares",
    "Tanh",
    "YeoJohnson",
]

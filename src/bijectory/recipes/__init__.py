"""Named architectures."""

from bijectory.recipes.autoregressive import iaf, maf, nsf_ar
from bijectory.recipes.circular import ncsf
from bijectory.recipes.classics import bnaf, planar, radial, sylvester
from bijectory.recipes.continuous import cnf, ffjord
from bijectory.recipes.coupling import gin, nice, nsf, real_nvp
from bijectory.recipes.images import flowpp_image, glow, real_nvp_image
from bijectory.recipes.monotone import bernstein, flowpp, gaussianization, naf, sos, umnn
from bijectory.recipes.noise import pixel_noise
from bijectory.recipes.registry import RECIPES, Recipe, find_recipe, recipe
from bijectory.recipes.residual_flows import idensenet, residual, residual_image
from bijectory.recipes.score import score_sde
from bijectory.recipes.tails import ttf
from bijectory.recipes.transformer import jet, tarflow, tarflow_image

__all__ = [
    "RECIPES",
    "Recipe",
    "bernstein",
    "bnaf",
    "cnf",
    "ffjord",
    "find_recipe",
    "flowpp",
    "flowpp_image",
    "gaussianization",
    "gin",
    "glow",
    "iaf",
    "idensenet",
    "jet",
    "maf",
    "naf",
    "ncsf",
    "nice",
    "nsf",
    "nsf_ar",
    "pixel_noise",
    "planar",
    "radial",
    "real_nvp",
    "real_nvp_image",
    "recipe",
    "residual",
    "residual_image",
    "score_sde",
    "sos",
    "sylvester",
    "tarflow",
    "tarflow_image",
    "ttf",
    "umnn",
]

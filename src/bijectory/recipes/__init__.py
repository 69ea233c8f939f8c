"""Named architectures."""

from bijectory.recipes.autoregressive import iaf, maf, nsf_ar
from bijectory.recipes.coupling import nice, nsf, real_nvp
from bijectory.recipes.images import flowpp_image, glow, real_nvp_image
from bijectory.recipes.noise import pixel_noise
from bijectory.recipes.registry import RECIPES, Recipe, find_recipe, recipe
from bijectory.recipes.tails import ttf
from bijectory.recipes.transformer import jet, tarflow, tarflow_image

__all__ = [
    "RECIPES",
    "Recipe",
    "find_recipe",
    "flowpp_image",
    "glow",
    "iaf",
    "jet",
    "maf",
    "nice",
    "nsf",
    "nsf_ar",
    "pixel_noise",
    "real_nvp",
    "real_nvp_image",
    "recipe",
    "tarflow",
    "tarflow_image",
    "ttf",
]

"""Named architectures."""

from bijectory.recipes.autoregressive import iaf, maf, nsf_ar
from bijectory.recipes.coupling import gin, nice, nsf, real_nvp
from bijectory.recipes.images import glow
from bijectory.recipes.noise import pixel_noise
from bijectory.recipes.registry import RECIPES, Recipe, find_recipe, recipe
from bijectory.recipes.tails import ttf
from bijectory.recipes.transformer import jet, tarflow, tarflow_image

__all__ = [
    "RECIPES",
    "Recipe",
    "find_recipe",
    "glow",
    "iaf",
    "jet",
    "gin",
    "glow",
    "iaf",
    "maf",
    "nice",
    "nsf",
    "nsf_ar",
    "pixel_noise",
    "real_nvp",
    "recipe",
    "tarflow",
    "tarflow_image",
    "ttf",
    "real_nvp",
    "recipe",
]

"""Named architectures."""

from bijectory.recipes.autoregressive import iaf, maf, nsf_ar
from bijectory.recipes.classics import bnaf, planar, radial, sylvester
from bijectory.recipes.coupling import nice, nsf, real_nvp
from bijectory.recipes.registry import RECIPES, Recipe, find_recipe, recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "bnaf",
    "find_recipe",
    "iaf",
    "maf",
    "nice",
    "nsf",
    "nsf_ar",
    "planar",
    "radial",
    "real_nvp",
    "recipe",
    "sylvester",
]

"""Named architectures."""

from bijectory.recipes.coupling import real_nvp
from bijectory.recipes.registry import RECIPES, Recipe, find_recipe, recipe

__all__ = ["RECIPES", "Recipe", "find_recipe", "real_nvp", "recipe"]

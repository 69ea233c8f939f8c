"""The family of errors, and the registry's help for a misspelt name."""

import pytest

from bijectory import errors
from bijectory.errors import ConfigError, FlowError, check
from bijectory.recipes import RECIPES, Recipe, find_recipe

NAMES = [
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "ConvergenceError",
    "DataError",
    "DomainError",
    "DtypeError",
    "NonFiniteError",
    "ShapeError",
]


@pytest.mark.parametrize("name", NAMES)
def test_one_family(name):
    assert issubclass(getattr(errors, name), FlowError)
    assert issubclass(getattr(errors, name), ValueError)


def test_check_raises_the_named_error_only_when_the_condition_fails():
    check(True, ConfigError, "never")
    with pytest.raises(ConfigError, match="the remedy"):
        check(False, ConfigError, "the remedy")


def test_a_recipe_is_found_and_a_misspelt_one_gets_the_nearest_names():
    assert isinstance(find_recipe("real_nvp"), Recipe)
    assert find_recipe("real_nvp") is RECIPES["real_nvp"]
    with pytest.raises(ConfigError, match="did you mean real_nvp"):
        find_recipe("realnvp")
    with pytest.raises(ConfigError, match=r"known recipes: .*real_nvp"):
        find_recipe("zzzz")

"""Wrong arguments are refused where they enter, by a message that names argument, value and expectation."""

import inspect

import pytest

from bijectory.errors import ConfigError
from bijectory.recipes import RECIPES
from bijectory.recipes.registry import recipe

NAMES = sorted(  # the arguments tried below are those of most recipes
    name
    for name, entry in RECIPES.items()
    if {"features", "layers", "hidden"} <= inspect.signature(entry.build).parameters.keys()
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"features": 0}, "features must be an integer of at least 1, got 0"),
        ({"features": -1}, "got -1"),
        ({"features": 2.5}, "got 2.5"),
        ({"features": "4"}, "got '4'"),
        ({"features": True}, "got True"),
        ({"features": None}, "got None"),
        ({"features": 4, "context": -1}, "context must be an integer of at least 0, got -1"),
        ({"features": 4, "context": 1.5}, "got 1.5"),
        ({"features": 4, "layers": 0}, "layers must be an integer of at least 1, got 0"),
        ({"features": 4, "layers": 2.0}, "got 2.0"),
        ({"features": 4, "hidden": 16}, "hidden must be a list of integers of at least 1, got 16"),
        ({"features": 4, "hidden": (0,)}, "got (0,)"),
        ({"features": 4, "hidden": "16"}, "got '16'"),
        ({"features": 4, "hidden": (2.5,)}, "got (2.5,)"),
        ({"features": 4, "hiden": (8,)}, "has no argument 'hiden'; did you mean 'hidden'?"),
        ({"features": 4, "zzzz": 1}, "has no argument 'zzzz'; it takes features, context, "),
        ({}, "missing a required argument: 'features'"),
    ],
    ids=repr,
)
def test_recipes_refuse(name, arguments, words):
    with pytest.raises(ConfigError) as info:
        RECIPES[name].build(**arguments)
    assert words in str(info.value)
    assert name in str(info.value)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("nsf")])
@pytest.mark.parametrize("bound", ["5", None, float("inf"), float("nan"), -1.0])
def test_splines_refuse_a_bound(name, bound):
    with pytest.raises(ConfigError, match="bound"):
        RECIPES[name].build(4, bound=bound)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_accept_integers_of_numpy_and_lists(name):
    np = pytest.importorskip("numpy")
    flow = RECIPES[name].build(np.int64(3), layers=2, hidden=[np.int32(4), 4])
    assert flow.sample(2).shape == (2, 3)


def test_a_recipe_keeps_its_name_and_signature(monkeypatch):
    monkeypatch.setattr("bijectory.recipes.registry.RECIPES", {})

    def mine(features: int, context: int = 0, *, learn: bool = True, anything: object = None) -> None:
        """Mine."""

    made = recipe(paper="P", year=2000)(mine)
    assert made.__name__ == "mine"
    assert inspect.signature(made) == inspect.signature(mine)
    made(2, learn=False, anything=object())
    with pytest.raises(ConfigError, match="learn must be True or False, got 1"):
        made(2, learn=1)
    with pytest.raises(ConfigError, match="too many positional"):
        made(2, 0, 1)

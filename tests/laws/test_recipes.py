"""A recipe is a flow: the laws of densities hold for it, and those of transforms for its transform."""

import dataclasses

import pytest

from bijectory.testing import COSTLY_DENSITY_LAWS, COSTLY_TRANSFORM_LAWS, DENSITY_LAWS, TRANSFORM_LAWS
from laws.cases import RECIPES
from laws.matrix import matrix

# Every run exports the recipes and captures their layers; tests/test_recipes.py captures the stacks of seven whole.
# To capture all the others whole is left to the slow tests.
FLOWS = [dataclasses.replace(case, slow=(*case.slow, "captures", "density_captures")) for case in RECIPES]


@pytest.mark.parametrize(("case", "context", "dtype", "law"), matrix(FLOWS, DENSITY_LAWS, COSTLY_DENSITY_LAWS))
def test_law_of_density(case, context, dtype, law):
    law(case.subject(context, dtype))


@pytest.mark.parametrize(("case", "context", "dtype", "law"), matrix(FLOWS, TRANSFORM_LAWS, COSTLY_TRANSFORM_LAWS))
def test_law_of_transform(case, context, dtype, law):
    s = case.subject(context, dtype)
    law(dataclasses.replace(s, build=lambda: s.build().transform))

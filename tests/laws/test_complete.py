"""Every public bijection, transform, density and recipe stands under the laws."""

import inspect

import bijectory as bj
from laws.cases import BIJECTIONS, DENSITIES, RECIPES, TRANSFORMS


def covered(cases):
    return {case.name.partition("-")[0] for case in cases}


def public(base):
    named = {name: getattr(bj, name) for name in bj.__all__}
    return {n for n, o in named.items() if inspect.isclass(o) and issubclass(o, base) and not inspect.isabstract(o)}


def test_every_bijection_has_a_case():
    assert public(bj.Bijection) == covered(BIJECTIONS)


def test_every_transform_has_a_case():
    assert public(bj.Transform) <= covered(TRANSFORMS)


def test_every_density_has_a_case():
    assert public(bj.Density) <= covered(DENSITIES)


def test_every_recipe_has_a_case():
    from bijectory.recipes import RECIPES as registry

    assert set(registry) == covered(RECIPES)


def test_names_do_not_repeat():
    names = [case.name for case in (*BIJECTIONS, *TRANSFORMS, *DENSITIES, *RECIPES)]
    assert len(names) == len(set(names))

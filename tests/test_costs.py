"""The table of costs is true: network passes and root searches are counted, not believed."""

import collections

import pytest
import torch

import bijectory as bj
from bijectory.ops import monotone, ridge
from laws.cases import BIJECTIONS, RECIPES

PLAIN = [case for case in RECIPES if case.name in bj.recipes.RECIPES]


@pytest.fixture
def searches(monkeypatch):
    """Counts bracketed root searches while a test runs."""
    count = collections.Counter()
    for module in (monotone, ridge):

        def counted(*args, solve=module._solve):
            count["root"] += 1
            return solve(*args)

        monkeypatch.setattr(module, "_solve", counted)
    return count


def passes(flow, call):
    """The most often that any conditioner (a module called ``net``) ran during a call; 0 where it went by features."""
    count = collections.Counter({name: 0 for name, m in flow.named_modules() if name.endswith("net")})
    hooks = [
        m.register_forward_hook(lambda *_, name=name: count.update([name]))
        for name, m in flow.named_modules()
        if name in count
    ]
    call()
    for hook in hooks:
        hook.remove()
    return count


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_recipes_cost_what_the_registry_says(case, searches):
    entry = bj.recipes.find_recipe(case.name)
    flow = case.build(0)
    assert flow.transform.exact == entry.exact
    with torch.no_grad():
        x = flow.sample(3)
        for cost, call in ((entry.density, lambda: flow.log_prob(x)), (entry.sampling, lambda: flow.sample(3))):
            searches.clear()
            count = passes(flow, call)
            assert bool(searches["root"]) == ("root" in cost), f"{cost}: {searches['root']} root searches"
            if cost in ("one pass", "root"):
                assert all(n == 1 for n in count.values()), count
            elif cost == "by features":
                assert count, "a flow by features has networks"
                assert not any(count.values()), f"an incremental inverse never runs a whole network: {count}"
            elif cost == "fixed point":
                assert max(count.values()) > 1, count


@pytest.mark.parametrize("case", BIJECTIONS, ids=str)
def test_families_solve_as_their_table_says(case, searches):
    family = case.build(0)
    phi = torch.zeros(family.n_params, 3, 2)
    y, _ = family.forward(case.domain(torch.randn(3, 2)), phi)
    family.inverse(y, phi)
    assert bool(searches["root"]) == (family.solver == "bracketed root")

"""Putting the flow of a table together from its preparation and its trained core, and taking it apart again."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Encode, Flow
from bijectory.errors import ConfigError, check
from bijectory.io import load_metadata
from bijectory.objectives import find_objective, nll
from bijectory.objectives.batch import Objective
from bijectory.recipes import find_recipe
from bijectory.tables import Schema, preprocess
from bijectory.transforms import Chain


def build(recipe: str | Callable[..., Flow], schema: Schema, args: Mapping[str, Any] | None, seed: int) -> Flow:
    """The core for standardised rows, with the initial weights of a seed."""
    make = recipe
    if isinstance(recipe, str):
        found = find_recipe(recipe)
        tabular = found.event == "features"
        check(tabular, ConfigError, f"recipe {recipe!r} models images; use fit_images, or a recipe for tables: nsf.")
        make = found.build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return make(len(schema.targets), len(schema.givens), **(args or {}))  # type: ignore[operator]
        except TypeError as error:
            raise ConfigError(f"recipe {recipe!r}: {error}; see its keywords with help().") from None


def objective_of(objective: str | Objective | None, recipe: str | Callable[..., Flow]) -> Objective:
    """What to train with: as asked, or as the recipe names it."""
    if objective is None:
        objective = find_recipe(recipe).objective if isinstance(recipe, str) else nll
    return find_objective(objective) if isinstance(objective, str) else objective


def join(prep: Chain, core: Flow, embed: nn.Module | None) -> Flow:
    """One float64 flow of the raw columns."""
    layers = core.transform if isinstance(core.transform, Chain) else [core.transform]
    door = embed if core.embed is None or embed is None else nn.Sequential(embed, core.embed)
    return Flow(Chain(*prep, *layers), core.base, door).cpu().double().eval()


def core_of(model: TableFlow, schema: Schema | None = None) -> Flow:
    """The trained core of a table's flow, which works on standardised rows: ``join`` undone.

    Args:
        model: What ``fit_table`` fitted.
        schema: Another table's; the core is refused if it was trained on rows that are standardised otherwise.

    Raises:
        ConfigError: If the two tables differ in columns or standardisation.
    """
    if schema is not None:
        same = (model.schema.targets, model.schema.givens) == (schema.targets, schema.givens)
        ours, theirs = ([c.name for c in (*s.targets, *s.givens)] for s in (schema, model.schema))
        differ = f"columns {theirs}, not {ours}" if ours != theirs else "rows that were scaled in another way"
        check(same, ConfigError, f"start was fitted to {differ}; pass the same table with the same options and seed.")
    layers = model.flow.transform[len(preprocess(model.schema.targets)) :]  # type: ignore[index]
    embed = model.flow.embed
    if isinstance(embed, Encode):
        embed = None
    elif isinstance(embed, nn.Sequential):
        embed = embed[1]
    return copy.deepcopy(Flow(layers, model.flow.base, embed))


def recipe_of(start: TableFlow | str | Path) -> str:
    """Name of the recipe of an earlier fit, as its run folder has it."""
    return "(of the start)" if isinstance(start, TableFlow) else load_metadata(start).get("recipe", "(of the start)")

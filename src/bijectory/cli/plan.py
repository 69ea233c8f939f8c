"""What ``fit`` was asked for: the words of the command line over those of a ``--config`` file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bijectory.cli import options
from bijectory.errors import ConfigError, check

TABLE = ("recipe", "recipe_args", "given", "bounded", "positive", "dequantize", "missing", "weight", "test_fraction")
LISTS = ("given", "positive", "dequantize", "drop")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Keywords, by the public function that takes them.

    Attributes:
        table: For ``fit_table``.
        training: For ``table_config``: settings of ``FitConfig``.
        drop: Columns to leave out.
    """

    table: dict[str, Any]
    training: dict[str, Any]
    drop: list[str]


def plan(config: Path | None, words: Mapping[str, Any]) -> Plan:
    """Sort options by their taker; an option that was not given leaves the default of its taker.

    Raises:
        ConfigError: If the file or a word cannot be read. Unknown settings are refused by ``FitConfig``, by name.
    """
    merged = _from_file(config) | {k: v for k, v in words.items() if v not in (None, [], {})}
    for name in LISTS:
        if name in merged:
            merged[name] = options.names([merged[name]] if isinstance(merged[name], str) else merged[name])
    if isinstance(merged.get("time_budget"), str):
        merged["time_budget"] = options.seconds(merged["time_budget"])
    table = {k: merged.pop(k) for k in TABLE if k in merged}
    drop = merged.pop("drop", [])
    return Plan(table, merged, drop)


def _from_file(path: Path | None) -> dict[str, Any]:
    table = options.read_config(path)
    if "set" in table:
        table["recipe_args"] = table.pop("set")
    for name in ("recipe_args", "bounded"):
        check(isinstance(table.get(name, {}), dict), ConfigError, f"--config {path}: {name!r} must be a table.")
    for name, ends in table.get("bounded", {}).items():
        ok = isinstance(ends, list) and len(ends) == 2 and all(isinstance(v, (int, float)) for v in ends)
        check(ok, ConfigError, f"--config {path}: bounded.{name} must be [low, high], got {ends!r}.")
        table["bounded"][name] = tuple(ends)
    return table

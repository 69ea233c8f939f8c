"""What ``fit`` was asked for: the words of the command line over those of a ``--config`` file."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from bijectory.cli import options
from bijectory.errors import ConfigError, check

BOTH = ("recipe", "recipe_args", "given", "test_fraction")
TABLE = ("bounded", "positive", "dequantize", "missing", "weight", "drop", "objective", "start")
IMAGES = ("levels", "noise", "layout")
LISTS = ("given", "positive", "dequantize", "drop")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Keywords, by the public function that takes them.

    Attributes:
        model: For ``fit_table`` and ``fit_images``.
        table: For tables only: more of ``fit_table``, and ``drop``.
        images: More of ``fit_images``.
        training: For ``table_config`` and ``image_config``: settings of ``FitConfig``.
    """

    model: dict[str, Any]
    table: dict[str, Any]
    images: dict[str, Any]
    training: dict[str, Any]

    def refuse(self, name: Literal["table", "images"], data: Path) -> None:
        """Refuse options that are not for data of this kind."""
        given = ", ".join(f"--{option}" for option in getattr(self, name))
        kinds = {"table": "tables", "images": "images"}
        check(not given, ConfigError, f"{given}: only for {kinds[name]}, and {data} is none; leave it out.")


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
    model, table, images = ({k: merged.pop(k) for k in names if k in merged} for names in (BOTH, TABLE, IMAGES))
    return Plan(model, table, images, merged)


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

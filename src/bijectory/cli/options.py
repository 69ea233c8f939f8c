"""Words of the command line as values; what cannot be read is refused with an example of what can."""

import csv
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bijectory.errors import ConfigError, check

RUN_FILES = (
    *("config.json", "schema.json", "model.safetensors", "model.next.safetensors", "metrics.jsonl"),
    *("splits.safetensors", "audit.json", "report.html", "README.md"),
    *("draws.safetensors", "draws.csv", "draws.parquet", "table.csv", "summary.txt"),
)
STUDY_REQUEST = "request.json"  # what a run of `bijectory sbi` begins with
STUDY_FILES = (STUDY_REQUEST, "study.json", "posterior.csv", "simulations.safetensors", "checks.safetensors")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def names(words: Iterable[str] | None) -> list[str]:
    """``["a,b", "c", '"d, e"'] -> ["a", "b", "c", "d, e"]``: a name with a comma goes in quotes."""
    cells = (cell for word in words or () for row in csv.reader([word], skipinitialspace=True) for cell in row)
    return [cell.strip() for cell in cells if cell.strip()]


def assignments(words: Iterable[str] | None) -> list[str]:
    """``["a=1,b, c=2"] -> ["a=1", "b, c=2"]``: what holds no ``=`` belongs to the name after it."""
    found: list[str] = []
    for word in words or ():
        open_ = False
        for part in word.split(","):
            found[-1:] = [f"{found[-1]},{part}"] if open_ else [*found[-1:], part]
            open_ = "=" not in part
    return [part.strip() for part in found if part.strip(" ,")]


def pair(word: str, option: str, example: str) -> tuple[str, str]:
    """``"a=0:1" -> ("a", "0:1")``; the last ``=`` divides, so that names may contain one."""
    name, equals, value = word.rpartition("=")
    check(
        bool(name and equals and value),
        ConfigError,
        f"{option} {word!r} cannot be read; write it as {option} {example}.",
    )
    return name, value


def number(word: str, option: str, example: str) -> float:
    """A float, or an error that shows how the option is written."""
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"{option}: {word!r} is not a number; write it as {option} {example}.") from None


def bounds(words: Iterable[str] | None) -> dict[str, tuple[float, float]]:
    """``["a=0:1"] -> {"a": (0.0, 1.0)}``."""
    option, example = "--bounded", "COLUMN=LOW:HIGH"
    found = {}
    for word in words or ():
        name, value = pair(word, option, example)
        low, colon, high = value.partition(":")
        check(bool(colon), ConfigError, f"{option} {word!r} has no upper bound; write it as {option} {example}.")
        found[name] = (number(low, option, example), number(high, option, example))
        check(
            found[name][0] < found[name][1],
            ConfigError,
            f"{option} {word!r}: the lower bound must be below the upper one.",
        )
    return found


def values(words: Iterable[str] | None, option: str = "--given", example: str = "COLUMN=VALUE") -> dict[str, float]:
    """``["a=1.5"] -> {"a": 1.5}``."""
    pairs = (pair(word, option, example) for word in words or ())
    return {name: number(value, option, example) for name, value in pairs}


def settings(words: Iterable[str] | None) -> dict[str, Any]:
    """``["layers=8", "hidden=64,64"] -> {"layers": 8, "hidden": [64, 64]}``: JSON, a list of JSON, or text."""
    return {name: _literal(value) for name, value in (pair(word, "--set", "NAME=VALUE") for word in words or ())}


def widths(word: str | None) -> dict[str, tuple[int, ...]]:
    """``"300,300"`` as the keyword ``hidden``; nothing if the option is absent."""
    if word is None:
        return {}
    try:
        found = tuple(int(part) for part in word.split(","))
    except ValueError:
        found = ()
    ok = bool(found) and min(found) >= 1
    check(ok, ConfigError, f"--hidden {word!r} cannot be read; write it as --hidden 300,300.")
    return {"hidden": found}


def _literal(text: str) -> Any:
    for candidate in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(candidate)
        except json.JSONDecodeError:
            continue
    return text


def seconds(word: str | None) -> float | None:
    """``"90" | "90s" | "10m" | "1.5h"`` in seconds."""
    if word is None:
        return None
    match = re.fullmatch(r"([0-9.]+)\s*([smh]?)", word.strip())
    check(match is not None, ConfigError, f"--time-budget {word!r} cannot be read; write it as 90s, 10m or 1.5h.")
    return number(match[1], "--time-budget", "10m") * UNITS[match[2] or "s"]  # type: ignore[index]


def read_config(path: Path | None) -> dict[str, Any]:
    """Options from a TOML or JSON file: the long names of ``fit``, with ``_`` or ``-``."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {(error.strerror or str(error)).lower()}.") from None
    except ValueError as error:  # both parsers, and a wrong encoding
        raise ConfigError(f"--config {path} is not valid {path.suffix.lstrip('.') or 'toml'}: {error}.") from None
    check(isinstance(table, dict), ConfigError, f"--config {path} must hold a table of options.")
    return {key.replace("-", "_"): value for key, value in table.items()}


def claim(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that a run may be written to ``out``."""
    check(not (resume and overwrite), ConfigError, "--resume and --overwrite exclude each other; choose one.")
    check(not out.exists() or out.is_dir(), ConfigError, f"--out {out} is a file; name a folder.")
    empty = not out.exists() or not any(out.iterdir())
    check(
        empty or resume or overwrite,
        ConfigError,
        f"--out {out} is not empty; go on with --resume, replace the run with --overwrite, or name another folder.",
    )
    ours = empty or not overwrite or (out / "schema.json").exists()
    check(ours, ConfigError, f"--overwrite: {out} is not empty and not a run folder; name another folder.")


def claim_study(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make sure that a study may be written to ``out``."""
    check(not (resume and overwrite), ConfigError, "--resume and --overwrite exclude each other; choose one.")
    check(not out.exists() or out.is_dir(), ConfigError, f"--out {out} is a file; name a folder.")
    empty = not out.exists() or {p.name for p in out.iterdir()} <= {STUDY_REQUEST}  # it failed before it had anything
    ours = (out / STUDY_REQUEST).exists()
    check(ours or not resume, ConfigError, f"--resume: {out} holds no run of `bijectory sbi`; leave --resume out.")
    check(
        empty or resume or overwrite,
        ConfigError,
        f"--out {out} is not empty; go on with --resume, replace the run with --overwrite, or name another folder.",
    )
    check(empty or ours, ConfigError, f"--overwrite: {out} holds no run of `bijectory sbi`; name another folder.")


def claim_results(out: Path, verb: str, *, overwrite: bool) -> None:
    """Make sure that the results of ``verb``, with ``<verb>.json`` among them, may be written to ``out``."""
    check(not out.exists() or out.is_dir(), ConfigError, f"--out {out} is a file; name a folder.")
    empty = not out.exists() or not any(out.iterdir())
    remedy = "replace the run with --overwrite, or name another folder."
    check(empty or overwrite, ConfigError, f"--out {out} is not empty; {remedy}")
    ours = empty or (out / f"{verb}.json").exists()
    check(ours, ConfigError, f"--overwrite: {out} holds no run of `bijectory {verb}`; name another folder.")


def claim_demo(out: Path) -> None:
    """Make sure that ``out`` is empty or holds an earlier demonstration, which is replaced."""
    ours = not out.exists() or (out.is_dir() and (not any(out.iterdir()) or (out / "picture.png").exists()))
    check(ours, ConfigError, f"--out {out} is not empty and not a demonstration; name another folder.")


def remove_run(out: Path) -> None:
    """Remove the files that a run writes, and nothing else."""
    for name in RUN_FILES:
        (out / name).unlink(missing_ok=True)
    for path in (out / "checkpoint").glob("*"):
        path.unlink()


def remove_study(out: Path) -> None:
    """Remove the files that a study writes."""
    remove_run(out)
    for name in STUDY_FILES:
        (out / name).unlink(missing_ok=True)

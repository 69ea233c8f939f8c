"""The long part of ``fit``, behind the parsing: torch is imported from here on."""

from pathlib import Path
from typing import Any

import typer

from bijectory.apps import TableFit, TableFlow, fit_images, fit_table, image_config, read_images, table_config
from bijectory.apps.images import ImageFit, holds_images
from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.cli.plan import Plan
from bijectory.errors import ConfigError, ConvergenceError, DataError, check
from bijectory.recipes import find_recipe
from bijectory.report import write_report
from bijectory.tables import check_columns, read_table


def run_fit(data: Path, wanted: Plan, out: Path, *, resume: bool, report: bool, json: bool, quiet: bool) -> None:
    """Read, fit, and say how it went.

    Raises:
        ConfigError: If the recipe or an option is not for data of this kind.
        ConvergenceError: If training met values that are not finite and could not go on.
        typer.Exit: With 128 + n after signal n, when the run was saved.
    """
    images = holds_images(data)
    if "recipe" in wanted.model and data.exists():
        event, one = find_recipe(wanted.model["recipe"]).event, "images" if images else "a table"
        other = (
            f"recipe {wanted.model['recipe']!r} models {'images' if event == 'image' else 'tables'}, {data} holds {one}"
        )
        check(
            images == (event == "image"),
            ConfigError,
            f"{other}; choose a recipe from `bijectory list`, or leave it out.",
        )
    do = _fit_images if images else _fit_table
    fitted = do(data, wanted, out, resume=resume, quiet=quiet)
    result = fitted.result
    check(result.stop_reason != "non_finite", ConvergenceError, f"training stopped: {result.report}")
    summary = {
        "run": str(out),
        "stop_reason": result.stop_reason,
        "steps": result.steps,
        "best_epoch": result.best_epoch,
    }
    summary |= {"seconds": round(result.seconds, 3), "scores": fitted.scores, "notes": list(fitted.model.schema.notes)}
    if json:
        write_json(summary)
    else:
        for line in describe(fitted.scores):
            print(line)
    if result.signal:
        raise typer.Exit(128 + result.signal)
    if report:
        say(f"report: {write_report(out)}", quiet=quiet)
    draw = "-n 64 -o samples.png" if images else "-n 1000"
    say(f"next: bijectory score {out} {data} · bijectory sample {out} {draw} · bijectory show {out}", quiet=quiet)


def _fit_table(data: Path, wanted: Plan, out: Path, *, resume: bool, quiet: bool) -> TableFit:
    frame = read_table(data)
    wanted.refuse("images", data)
    table = dict(wanted.table)
    drop = table.pop("drop", [])
    check_columns(frame, drop, "--drop")
    frame = frame.drop(columns=drop)
    config = table_config(len(frame), **{"progress": not quiet, **wanted.training})
    start = wanted.table.get("start")
    if start is not None:
        check(start.resolve() != out.resolve(), ConfigError, f"--start {start} is --out itself; choose another folder.")
        TableFlow.load(start)  # a start that cannot be read removes nothing
    if not resume:
        options.remove_run(out)
    return fit_table(frame, **wanted.model, **table, config=config, out=out, resume=resume)


def _fit_images(data: Path, wanted: Plan, out: Path, *, resume: bool, quiet: bool) -> ImageFit:
    found = read_images(data)
    wanted.refuse("table", data)
    model = dict(wanted.model)
    given = model.pop("given", [])
    check(
        given in ([], ["label"]),
        ConfigError,
        f"--given {','.join(given)}: images are conditioned on --given label only.",
    )
    missing = (
        f"--given label: {data} has no labels; store them beside the images, in an npz file or as names of folders."
    )
    check(not given or found.labels is not None, DataError, missing)
    config = image_config(len(found.images), **{"progress": not quiet, **wanted.training})
    if not resume:
        options.remove_run(out)
    labels = found.labels if given else None
    return fit_images(found.images, labels, **model, **wanted.images, config=config, out=out, resume=resume)


def describe(scores: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each part of the data."""
    names = {"train": "training", "validation": "validation", "test": "held-out"}
    return [f"{names[part]:>10}: {_score(s)}" for part, s in scores.items()]


def _score(s: dict[str, Any]) -> str:
    if "bits_per_dim" in s:
        return f"{s['bits_per_dim']:.4f} ± {s['standard_error']:.4f} bits per dimension ({s['images']} images)"
    return f"{s['log_likelihood']:.4f} ± {s['standard_error']:.4f} nats a row ({s['rows']} rows)"

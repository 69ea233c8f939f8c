"""The long part of ``fit``, behind the parsing: torch is imported from here on."""

from pathlib import Path
from typing import Any

import typer

from bijectory.apps import TableFit, fit_table, table_config
from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.cli.plan import Plan
from bijectory.errors import ConvergenceError, check
from bijectory.report import write_report
from bijectory.tables import check_columns, read_table


def run_fit(data: Path, wanted: Plan, out: Path, *, resume: bool, report: bool, json: bool, quiet: bool) -> TableFit:
    """Read, fit, and say how it went.

    Raises:
        ConvergenceError: If training met values that are not finite and could not go on.
        typer.Exit: With 128 + n after signal n, when the run was saved.
    """
    frame = read_table(data)
    check_columns(frame, wanted.drop, "--drop")
    frame = frame.drop(columns=wanted.drop)
    config = table_config(len(frame), **{"progress": not quiet, **wanted.training})
    if not resume:
        options.remove_run(out)
    fitted = fit_table(frame, **wanted.table, config=config, out=out, resume=resume)
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
    say(f"next: bijectory score {out} {data} · bijectory sample {out} -n 1000 · bijectory show {out}", quiet=quiet)
    return fitted


def describe(scores: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each part of the rows."""
    names = {"train": "training", "validation": "validation", "test": "held-out"}
    return [
        f"{names[part]:>10}: {s['log_likelihood']:.4f} ± {s['standard_error']:.4f} nats a row ({s['rows']} rows)"
        for part, s in scores.items()
    ]

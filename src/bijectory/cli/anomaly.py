"""``bijectory anomaly``: which rows or images do not belong, how sure that is, and because of what."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.words import Json, Quiet, Run
from bijectory.errors import ConfigError, check

METHODS = (
    "log-likelihood, typicality, likelihood-ratio, radius, score-norm, density-of-states, input-complexity or combined"
)


def anomaly(
    run: Run,
    data: Annotated[Path, Argument(help="Rows or images to judge.")],
    *,
    fpr: Annotated[float, Option(help="Share of false alarms that is allowed.")] = 0.01,
    method: Annotated[
        str | None,
        Option(help=f"{METHODS}. By default log-likelihood for tables, combined for images."),
    ] = None,
    control: Annotated[
        str, Option(metavar="level|discoveries", help="False alarms among ordinary rows, or among flagged rows.")
    ] = "level",
    background: Annotated[Path | None, Option(metavar="RUN", help="Background flow of the likelihood ratio.")] = None,
    held_out: Annotated[Path | None, Option(help="Rows not trained on; else the test rows of the run.")] = None,
    labels: Annotated[
        str | None, Option(metavar="COLUMN", help="Column with 1 for anomalies, 0 for others: how well they are found.")
    ] = None,
    explain: Annotated[
        bool, Option("--explain", help="Say which columns (of images: which patches) are to blame.")
    ] = False,
    heat: Annotated[Path | None, Option(metavar="PNG", help="Images: a picture of the patches to blame.")] = None,
    report: Annotated[Path | None, Option(metavar="FOLDER", help="Write report.html and its figures there.")] = None,
    every: Annotated[bool, Option("--all", help="Write all rows, not only those that are flagged.")] = False,
    nonfinite: Annotated[
        str, Option(metavar="raise|propagate", help="Rows with NaN: refuse, or leave alone.")
    ] = "raise",
    out: Annotated[Path | None, Option("--out", "-o", help="File for the rows; else stdout.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Flag the rows or images that do not come from where the training rows come from, with calibrated p-values."""
    check(nonfinite in ("raise", "propagate"), ConfigError, f"--nonfinite {nonfinite}; use raise or propagate.")
    from bijectory.apps import Detector
    from bijectory.cli.judging import Case, tell

    case = Case.read(run, data, held_out, labels, nonfinite)
    check(heat is None or case.image, ConfigError, "--heat is for images; for tables use --explain.")
    detector = Detector(run, case.held_out, method=method, background=background)  # type: ignore[arg-type]  # checked there
    found = detector.judge(case.values, fpr, control=control, nonfinite=nonfinite)  # type: ignore[arg-type]
    tell(case, detector, found, explain=explain, every=every, heat=heat, report=report, out=out, json=json, quiet=quiet)

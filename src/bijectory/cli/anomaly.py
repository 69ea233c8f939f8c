"""``bijectory anomaly``: which rows do not belong, how sure that is, and because of which columns."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bijectory.cli.output import say, write_frame, write_json
from bijectory.cli.words import Json, Quiet, Run
from bijectory.errors import ConfigError, check


def anomaly(
    run: Run,
    data: Annotated[Path, Argument(help="Rows to judge.")],
    *,
    fpr: Annotated[float, Option(help="Share of false alarms that is allowed.")] = 0.01,
    method: Annotated[
        str,
        Option(help="log-likelihood, typicality, likelihood-ratio, radius, score-norm or density-of-states."),
    ] = "log-likelihood",
    control: Annotated[
        str, Option(metavar="level|discoveries", help="False alarms among ordinary rows, or among flagged rows.")
    ] = "level",
    background: Annotated[Path | None, Option(metavar="RUN", help="Background flow of the likelihood ratio.")] = None,
    held_out: Annotated[Path | None, Option(help="Rows not trained on; else the test rows of the run.")] = None,
    explain: Annotated[
        bool, Option("--explain", help="Say which columns are to blame, and what was expected.")
    ] = False,
    every: Annotated[bool, Option("--all", help="Write all rows, not only those that are flagged.")] = False,
    nonfinite: Annotated[
        str, Option(metavar="raise|propagate", help="Rows with NaN: refuse, or leave alone.")
    ] = "raise",
    out: Annotated[Path | None, Option("--out", "-o", help="File for the rows; else stdout.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Flag the rows that do not come from where the training rows come from, with calibrated p-values."""
    check(nonfinite in ("raise", "propagate"), ConfigError, f"--nonfinite {nonfinite}; use raise or propagate.")
    from bijectory.apps import Detector, run_kind
    from bijectory.tables import read_table

    kinds = {run_kind(folder) for folder in (run, background) if folder is not None}
    check("posterior" not in kinds, ConfigError, "a posterior has no rows to judge; anomaly is for runs of tables.")
    check("image" not in kinds, ConfigError, "the run of images is judged in Python: bijectory.Detector.")
    rows = None if held_out is None else read_table(held_out)
    detector = Detector(run, rows, method=method, background=background)  # type: ignore[arg-type]  # checked there
    frame = read_table(data)
    score = detector.score(frame, nonfinite=nonfinite)  # type: ignore[arg-type]
    p = detector.p_values_of(score)
    flagged = detector.decide(p, fpr, control=control)  # type: ignore[arg-type]
    frame = frame.assign(row=range(len(frame)), score=score, p_value=p, flagged=flagged)
    frame = frame if every else frame[flagged]
    if explain:
        frame = frame.assign(because=detector.explain(frame).text())
    if out is not None or not json:
        write_frame(frame, out)
    count = int(flagged.sum())
    if json:
        chosen = [int(i) for i in flagged.nonzero()[0]]
        write_json({"rows": len(p), "flagged": count, "fpr": fpr, "flagged_rows": chosen, "method": method})
    expected = (
        f"about {fpr * len(p):.1f} expected among ordinary rows" if control == "level" else f"{fpr:g} of them false"
    )
    say(f"{count} of {len(p)} rows flagged ({expected})", quiet=quiet or json)

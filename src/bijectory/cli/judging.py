"""What ``anomaly`` reads and tells: the same for rows of a table and for images."""

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from bijectory.apps import Detector, TableFlow, read_images, run_kind
from bijectory.apps.anomaly import Findings, PatchExplanation, read_labels
from bijectory.apps.images import write_grid
from bijectory.cli.output import say, write_frame, write_json
from bijectory.errors import CheckpointError, ConfigError, DataError, check
from bijectory.report import write_anomaly_report
from bijectory.tables import read_table

EXPLAINED = 32  # images whose patches are tried; each costs some hundred scores
OWN = ("row", "score", "p_value", "flagged", "because")


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows or images to judge.

    Attributes:
        image: Whether they are images.
        values: The frame, or the array of images.
        names: File names of images that are files of their own.
        held_out: Rows that training did not see, if they were given.
        labels: Which are known to be anomalies.
    """

    image: bool
    values: Any
    names: tuple[str, ...] | None
    held_out: Any
    labels: np.ndarray | None

    @classmethod
    def read(cls, run: Path, data: Path, held_out: Path | None, labels: str | None, nonfinite: str) -> Self:
        """Read what the run can judge.

        Raises:
            DataError: If a file cannot be read, or has no such labels.
        """
        kind = run_kind(run)
        check(
            kind in ("table", "image"), ConfigError, f"{run} holds a {kind}; anomaly is for runs of tables and images."
        )
        check(run.is_dir() or not run.exists(), CheckpointError, f"{run} is a file, not a run folder; mind the order.")
        if kind == "table":
            frame, known = read_table(data), None
            if labels is not None:
                have = ", ".join(map(str, frame.columns))
                check(labels in frame, DataError, f"--labels {labels}: {data} has no such column, it has {have}.")
                known = read_labels(frame[labels], len(frame))
            kept = None if held_out is None else read_table(held_out)
            return cls(image=False, values=frame, names=None, held_out=kept, labels=known)
        check(nonfinite == "raise", ConfigError, "--nonfinite is for tables; leave it out.")
        found, known = read_images(data), None
        if labels is not None:
            missing = f"--labels {labels}: {data} holds no labels; store them in an .npz, as images and labels."
            check(found.labels is not None, DataError, missing)
            known = read_labels(found.labels, len(found.images))
        kept = None if held_out is None else read_images(held_out).images
        return cls(image=True, values=found.images, names=found.names, held_out=kept, labels=known)

    def table(self, detector: Detector, found: Findings) -> pd.DataFrame:
        """Scores, p-values and decisions, for tables behind the columns of each row."""
        own = found.table()
        if self.image:
            own.insert(0, "image", self.names or np.arange(len(found)))
            return own.drop(columns="row")
        model = detector.model
        taken = {c.name for c in model.schema.columns} if isinstance(model, TableFlow) else set()
        own = own.rename(columns={name: f"anomaly_{name}" for name in OWN if name in taken})
        return self.values.reset_index(drop=True).assign(**{name: own[name] for name in own})


def tell(
    case: Case,
    detector: Detector,
    found: Findings,
    *,
    explain: bool,
    every: bool,
    heat: Path | None,
    report: Path | None,
    out: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Write the table, the pictures, the report, and say how it went."""
    rated = None if case.labels is None else found.evaluate(case.labels)
    page = None if report is None else write_anomaly_report(report, detector, case.values, found, labels=case.labels)
    table, kind = case.table(detector, found), "images" if case.image else "rows"
    shown = np.arange(len(found)) if every else np.flatnonzero(found.flagged)
    table = table.iloc[shown]
    if explain or heat is not None:
        because, explained = _reasons(case, detector, found, shown)
        table = table.assign(because=because) if explain else table
        if heat is not None and isinstance(explained, PatchExplanation) and len(explained.images):
            write_grid(heat, explained.picture(_levels(detector)), 256)
    if out is not None or not json:
        write_frame(table, out)
    if json:
        chosen = [int(i) for i in np.flatnonzero(found.flagged)]
        facts = {"rows": len(found), "flagged": len(chosen), "fpr": found.fpr, "flagged_rows": chosen}
        facts |= {"method": found.method, "control": found.control, "held_out_rows": len(found.held_out)}
        facts |= {"caution": found.caution(), "evaluation": None if rated is None else rated.to_dict()}
        write_json(facts | ({} if page is None else {"report": page}))
    silent = quiet or json
    say(found.summary(kind), quiet=silent)
    if rated is not None:
        area = f"AUROC {rated.auroc:.4f} ± {rated.auroc_error:.4f}"
        rates = f"{rated.recall:.1%} of the anomalies found, {rated.false_alarms:.2%} of the others flagged"
        say(f"{area}; {rates}", quiet=silent)
    if (caution := found.caution()) is not None:
        say(f"note: {caution}", quiet=silent)
    if page is not None:
        say(f"report: {page}", quiet=silent)


def _reasons(case: Case, detector: Detector, found: Findings, shown: np.ndarray) -> tuple[list[str], Any]:
    """Text for each row that is shown, and the explanation behind it; of images only the most abnormal are explained."""
    if not case.image:
        explained = detector.explain(case.values.iloc[shown])
        return explained.text(), explained
    order = [int(i) for i in found.worst(len(found)) if i in set(shown.tolist())][:EXPLAINED]
    patches = detector.explain(case.values[order])
    words = dict(zip(order, patches.text(), strict=True))
    return [words.get(int(i), "") for i in shown], patches


def _levels(detector: Detector) -> int:
    return int(getattr(detector.model.schema, "levels", 256))

"""From a run folder to what its report says."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bijectory.apps import TableFlow, load_rows, run_kind
from bijectory.apps.baselines import Baseline, fit_baselines
from bijectory.apps.solvers import SolverCheck
from bijectory.apps.tabular import KEPT_ROWS
from bijectory.errors import DataError
from bijectory.io import load_metadata
from bijectory.report.content import Content
from bijectory.report.html import render
from bijectory.report.image_content import ImageContent
from bijectory.report.image_run import write_image_report
from bijectory.report.posterior_run import write_posterior_report
from bijectory.report.records import audit_rows, history
from bijectory.report.vae_run import write_vae_report
from bijectory.tables import preprocess

Array = NDArray[np.float64]
MIN_DRAWS, MAX_DRAWS = 1_000, 10_000


def read_run(folder: str | Path, *, seed: int = 0) -> Content:
    """Collect the content of a report: score the kept rows, draw samples, fit the classical densities.

    Args:
        folder: A run folder with a model, its schema and the rows it keeps.
        seed: Of the draws and of the baselines.

    Raises:
        CheckpointError: If the model cannot be read or a record of the run is damaged.
        DataError: If the folder keeps no rows.
    """
    folder = Path(folder)
    model = TableFlow.load(folder)
    rows = load_rows(folder)
    part = next((name for name in ("test", "validation", "train") if len(rows[name]) > 1), None)
    if part is None:
        raise DataError(f"{folder} keeps fewer than two rows; fit to a longer table.")
    heldout, train = rows[part], rows["train"]
    targets, givens = model.schema.targets, model.schema.givens
    names, given = [c.name for c in targets], [c.name for c in givens]
    samples = _draw(model, heldout, given, seed)
    metadata = load_metadata(folder)
    remark = [] if part == "test" else [f"no test rows were held out: the figures are those of the {part} rows."]
    return Content(
        title=metadata.get("name") or folder.resolve().name,
        columns=names,
        given=given,
        heldout=heldout[names].to_numpy(float),
        samples=samples[names].to_numpy(float),
        log_prob=model.score_samples(heldout),
        train_log_prob=model.score_samples(train),
        sample_log_prob=model.score_samples(samples),
        latents=model.transform(heldout).to_numpy(),
        baselines=_baselines(model, train, heldout, seed),
        history=history(folder / "metrics.jsonl"),
        audit=audit_rows(folder / "audit.json"),
        facts=_facts(model, metadata, {name: len(frame) for name, frame in rows.items()}),
        notes=[*remark, *model.schema.notes],
        solver=SolverCheck(**metadata["solver"]) if "solver" in metadata else None,
        objective=str(metadata.get("objective", "nll")),
    )


def write_report(folder: str | Path, content: Content | ImageContent | None = None, *, seed: int = 0) -> Path:
    """Write ``report.html`` and ``figures/`` into a run folder.

    Args:
        folder: A run folder, of a table, of images, of a posterior, or of a VAE.
        content: What ``read_run`` or ``read_image_run`` gave; read anew if None.
        seed: As in ``read_run``.

    Returns:
        Path of the HTML file: self-contained, no network.
    """
    if content is None and run_kind(folder) == "posterior":
        return write_posterior_report(folder, seed=seed)
    if content is None and run_kind(folder) == "vae":
        return write_vae_report(folder, seed=seed)
    if isinstance(content, ImageContent) or (content is None and run_kind(folder) == "image"):
        return write_image_report(folder, content, seed=seed)
    return render(read_run(folder, seed=seed) if content is None else content, Path(folder))


def _draw(model: TableFlow, heldout: pd.DataFrame, given: list[str], seed: int) -> pd.DataFrame:
    """Draws of the model; with given columns, one for each held-out row."""
    if given:
        return model.sample(1, given=heldout[[c.name for c in model.schema.columns if c.role == "given"]], seed=seed)
    return model.sample(int(np.clip(len(heldout), MIN_DRAWS, MAX_DRAWS)), seed=seed)


def _baselines(model: TableFlow, train: pd.DataFrame, heldout: pd.DataFrame, seed: int) -> list[Baseline]:
    """Classical densities of the standardised columns, in the units of the data.

    With given columns they are fitted to the residuals of a linear regression on these: a conditional density too.
    """
    if len(train) < 2:
        return []
    (z, _, c), (z_held, ladj, c_held) = (_standardised(model, rows, seed) for rows in (train, heldout))
    if c is not None and c_held is not None:
        slopes, *_ = np.linalg.lstsq(_with_one(c), z, rcond=None)
        z, z_held = z - _with_one(c) @ slopes, z_held - _with_one(c_held) @ slopes
    remarks = ["of the residuals of a linear regression"] if c is not None else []
    if len(train) == KEPT_ROWS:  # the flow may have seen more
        remarks.append(f"from the {KEPT_ROWS:,} training rows that the run keeps")
    return [
        Baseline(b.name, b.log_prob + ladj, "; ".join(filter(None, (b.note, *remarks))))
        for b in fit_baselines(z, z_held, seed=seed)
    ]


def _standardised(model: TableFlow, frame: pd.DataFrame, seed: int) -> tuple[Array, Array, Array | None]:
    schema = model.schema
    rows = schema.encode(frame)
    u = np.random.default_rng(seed).random(rows.x.shape)
    with torch.inference_mode():
        z, ladj = preprocess(schema.targets)(torch.from_numpy(schema.place(rows.x, u)))
        c = None if rows.c is None else preprocess(schema.givens)(torch.from_numpy(rows.c))[0].numpy()
    return z.numpy(), ladj.numpy(), c


def _with_one(c: Array) -> Array:
    return np.column_stack((np.ones(len(c)), c))


def _facts(model: TableFlow, metadata: dict[str, Any], kept: dict[str, int]) -> dict[str, str]:
    """What else to know about the run, as text."""
    facts = {k.replace("_", " "): str(v) for k, v in metadata.items() if isinstance(v, (str, int, float))}
    facts["parameters"] = f"{sum(p.numel() for p in model.flow.parameters()):,}"
    facts["rows of the table"] = f"{model.schema.rows:,}"
    facts["rows kept for this report"] = ", ".join(f"{name} {n:,}" for name, n in kept.items())
    constants = ", ".join(f"{c.name} = {c.value:g}" for c in model.schema.constants)
    return {**facts, "constant columns": constants} if constants else facts

"""The solver of a run folder: measured on the rows that the folder keeps, and replaced on demand."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from bijectory.apps.solvers import ACCURATE, SolverCheck, check_solver, tune_solver
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import load_rows
from bijectory.errors import DataError, check
from bijectory.io import load_metadata


def tune_run(
    run: str | Path, *, tolerance: float = ACCURATE, rows: int = 256, save: bool = False
) -> tuple[SolverCheck, pd.DataFrame]:
    """Find the cheapest solver that is accurate enough on held-out rows of a run.

    Args:
        run: Run folder of a table.
        tolerance: Largest mean absolute error of a row's log-likelihood, nats.
        rows: Number of rows to measure on.
        save: Give the run this solver.

    Returns:
        The check of the chosen solver, and the trade-off, see ``tune_solver``.

    Raises:
        ConfigError: If the flow has no solver, or none is accurate enough.
        CheckpointError, DataError: If the folder is not a whole run.

    Example:
        >>> import tempfile
        >>> from bijectory import FitConfig, fit_table
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> with tempfile.TemporaryDirectory() as run:
        ...     _ = fit_table(x, recipe="cnf", config=FitConfig(epochs=1, progress=False), out=run, audit=False)
        ...     found, table = tune_run(run, tolerance=0.001)
        >>> found.error <= 0.001, found.evaluations <= 48
        (True, True)
    """
    model, kept = TableFlow.load(run), load_rows(run)
    held_out = next((kept[k] for k in ("test", "validation", "train") if len(kept[k]) > 1), None)
    check(held_out is not None, DataError, f"{run} keeps fewer than two rows; fit to a longer table.")
    chosen = np.linspace(0, len(held_out) - 1, min(len(held_out), rows)).round().astype(int)  # type: ignore[arg-type]
    x, c = model.tensors(held_out.iloc[chosen])  # type: ignore[union-attr]
    flow, table = tune_solver(model.flow, x, c, tolerance=tolerance)
    found = check_solver(flow, x, c)
    if save:
        facts = {**load_metadata(run), "solver": dataclasses.asdict(found)}
        TableFlow(flow, model.schema).save(run, metadata=facts)
    return found, table

"""A model as a Python file: ``log_density`` and ``parameters``, or a ``Joint``; and the run folder of its posterior."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

from bijectory.apps.variational.density import LogDensity
from bijectory.apps.variational.fit import fit_posterior
from bijectory.apps.variational.joint import Joint
from bijectory.apps.variational.posterior import VariationalPosterior
from bijectory.errors import DataError, FlowError, check
from bijectory.io.fs import atomic_write

EXAMPLE = (
    'parameters = {"mu": "real", "tau": "positive"} and def log_density(x): ..., rows (n, 2) to (n,); or log_density = '
    "Joint(...) alone"
)


def read_model(path: str | Path) -> tuple[LogDensity, Any]:
    """``log_density`` and ``parameters`` of a Python file, which is executed.

    Args:
        path: The file.

    Returns:
        The callable, and the declaration (None of a ``Joint``).

    Raises:
        DataError: If the file is missing, cannot be executed, or defines neither.
    """
    path = Path(path)
    check(path.is_file(), DataError, f"there is no file {path}.")
    check(path.suffix == ".py", DataError, f"{path} is not a Python file; a model defines {EXAMPLE}.")
    spec = importlib.util.spec_from_file_location("bijectory_model", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FlowError:
        raise
    except Exception as error:  # whatever the file of the user does
        raise DataError(f"{path} cannot be executed: {type(error).__name__}: {error}") from error
    density, parameters = getattr(module, "log_density", None), getattr(module, "parameters", None)
    check(callable(density), DataError, f"{path} defines no log_density; a model defines {EXAMPLE}.")
    known = isinstance(density, Joint) or parameters is not None
    check(known, DataError, f"{path} defines no parameters; a model defines {EXAMPLE}.")
    return density, None if isinstance(density, Joint) else parameters  # type: ignore[return-value]  # checked


def infer(
    path: str | Path,
    *,
    polish: Literal["auto", "always", "never"] = "auto",
    seed: int = 0,
    **settings: Any,
) -> VariationalPosterior:
    """Fit the posterior of a model file; polish it where its weights cannot be trusted.

    Args:
        path: The file.
        polish: Markov chains "always", "never", or where they are needed.
        seed: Of everything random.
        **settings: Of ``fit_posterior``.

    Raises:
        DataError: If the file is no model.
        FlowError: If its density cannot be used, see ``fit_posterior``.
    """
    density, parameters = read_model(path)
    posterior = fit_posterior(density, parameters, seed=seed, warn=False, **settings)
    needed = posterior.diagnostics.verdict != "good"
    return posterior.polish(seed=seed) if polish == "always" or (polish == "auto" and needed) else posterior


def write_run(posterior: VariationalPosterior, folder: str | Path, *, draws: int = 4000, parquet: bool = False) -> None:
    """Write a run folder: the posterior, corrected draws as CSV or Parquet, the table and the summary.

    Args:
        posterior: What ``infer`` gave.
        folder: Made if it does not exist.
        draws: Rows of draws.
        parquet: Write ``draws.parquet`` and not ``draws.csv``.
    """
    folder = Path(folder)
    posterior.save(folder)
    frame = posterior.sample(draws, corrected=True, seed=posterior.training["seed"])
    if parquet:
        frame.to_parquet(folder / "draws.parquet", index=False)
    else:
        frame.to_csv(folder / "draws.csv", index=False)
    posterior.table().to_csv(folder / "table.csv", index_label="parameter")
    atomic_write(folder / "summary.txt", [(posterior.summary() + "\n").encode()])

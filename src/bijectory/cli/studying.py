"""The long part of ``sbi``, behind the parsing: torch is imported from here on."""

import hashlib
import importlib.util
import json as json_
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from bijectory.apps.posterior import NeuralPosterior, as_prior, study
from bijectory.cli import options
from bijectory.cli.output import say, write_json
from bijectory.errors import CheckpointError, ConfigError, DataError, check
from bijectory.io.fs import atomic_write
from bijectory.report import write_sbi_report
from bijectory.tables import read_table, to_matrix

STUDY = "study.json"


def run_study(file: Path, observation: Path, out: Path, *, resume: bool, json: bool, quiet: bool, **words: Any) -> None:
    """Load the simulator, study it, write the run folder, and say how it went.

    Raises:
        ConfigError: If the file does not define what is needed.
        CheckpointError: If a run that is to go on was begun with another file.
    """
    module = load_simulator(file)
    prior, x = as_prior(module.prior), read_observation(observation)
    claim(out, {"simulator": hashlib.sha256(file.read_bytes()).hexdigest()}, resume=resume)
    found = study(prior, module.simulator, x, embed=getattr(module, "embed", None), out=out, resume=resume, **words)
    pd.DataFrame(found.draws.numpy(), columns=prior.names).to_csv(out / "posterior.csv", index=False)
    if isinstance(found.posterior, NeuralPosterior):
        found.posterior.save(out, metadata={"simulator": file.name, **found.facts})
    checks = {"as fitted": found.before, "recalibrated": found.after}
    summary: dict[str, Any] = {
        "run": str(out),
        "calibrated": found.ok,
        "checks": {
            when: {c.name: {"p": c.p, "ok": c.ok, "lean": c.lean} for c in cs} for when, cs in checks.items() if cs
        },
        "local": None if found.local is None else {"p": found.local.p, "ok": found.local.ok},
        "posterior": {
            name: {"mean": float(column.mean()), "sd": float(column.std())}
            for name, column in zip(prior.names, found.draws.mT, strict=True)
        },
        "facts": found.facts,
        "notes": list(found.notes),
    }
    atomic_write(out / STUDY, [json_.dumps(summary, indent=2).encode()])
    page = write_sbi_report(out, found)
    if json:
        write_json(summary)
    else:
        for name, v in summary["posterior"].items():
            print(f"{name:>12}: {v['mean']:.4g} ± {v['sd']:.2g}")
        for when, cs in checks.items():
            for c in cs:
                print(f"{when:>12}: {c!r}")
    if found.local is not None and not json:
        print(f"{'there':>12}: {found.local!r}")
    for note in found.notes:
        say(f"note: {note}", quiet=quiet)
    say(f"report: {page}", quiet=quiet)


def claim(out: Path, request: dict[str, str], *, resume: bool) -> None:
    """Begin a run in a folder, or make sure that the one that goes on was begun with the same request."""
    if resume:
        same = json_.loads((out / options.STUDY_REQUEST).read_text()) == request
        check(same, CheckpointError, f"{out} was begun with another simulator file; use that one, or --overwrite.")
        return
    out.mkdir(parents=True, exist_ok=True)
    options.remove_study(out)
    atomic_write(out / options.STUDY_REQUEST, [json_.dumps(request).encode()])


def load_simulator(file: Path) -> ModuleType:
    """The module in a Python file, which must define ``prior`` and ``simulator``."""
    check(file.is_file(), ConfigError, f"{file} is no file; name a Python file that defines `prior` and `simulator`.")
    spec = importlib.util.spec_from_file_location("simulator_file", file)
    check(
        spec is not None and spec.loader is not None, ConfigError, f"{file} is not a Python file; it must end in .py."
    )
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.path.insert(0, str(file.resolve().parent))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:
        raise ConfigError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    for name, what in (("prior", "a Prior or a torch distribution"), ("simulator", "a function theta -> x")):
        check(hasattr(module, name), ConfigError, f"{file} does not define `{name}`, {what}.")
    check(callable(module.simulator), ConfigError, f"{file}: `simulator` is a {type(module.simulator).__name__}.")
    return module


def read_observation(file: Path) -> np.ndarray:
    """The numbers of a file: one row is a vector, several are ``(rows, columns)``; ``.npy`` has its own shape."""
    if file.suffix == ".npy":
        try:
            return np.asarray(np.load(file, allow_pickle=False), dtype=np.float64)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}.") from None
    table = read_table(file)
    words = [str(name) for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    check(not words, DataError, f"{file}: column {', '.join(words)} is not numbers; an observation holds numbers only.")
    values = to_matrix(table)
    return values[0] if len(values) == 1 else values

"""Model files to evidences, and the run folder of a comparison."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bijectory.apps.model_evidence.evidence import evidence
from bijectory.apps.model_evidence.models import ModelComparison, compare_models
from bijectory.apps.model_evidence.verdict import Evidence
from bijectory.apps.variational import read_model
from bijectory.errors import ConfigError, ConvergenceError, check
from bijectory.io.fs import atomic_write

RECORD = "evidence.json"


@dataclasses.dataclass(frozen=True)
class EvidenceStudy:
    """Evidences of one or several model files.

    Attributes:
        evidences: One for each file.
        comparison: Of several models; None of one.

    Example:
        >>> from bijectory.apps.model_evidence import EvidenceEstimate
        >>> EvidenceStudy((Evidence((EvidenceEstimate("bridge", -1.0, 0.1, {}, ()),)),), None).verdict
        'trusted: log Z = -1.0000 ± 0.1 nats (bridge); no second estimate to compare'
    """

    evidences: tuple[Evidence, ...]
    comparison: ModelComparison | None

    @property
    def verdict(self) -> str:
        """One sentence: of the comparison, or of the only model."""
        return self.evidences[0].verdict if self.comparison is None else self.comparison.verdict

    def require_trusted(self) -> None:
        """Refuse to go on with numbers that are not to be trusted.

        Raises:
            ConvergenceError: With the verdicts of the models concerned.
        """
        bad = [e for e in self.evidences if e.state != "trusted"]
        words = "; ".join(f"evidence of {e.name} is {e.verdict}" for e in bad)
        check(not bad, ConvergenceError, f"{words}.")

    def table(self) -> pd.DataFrame:
        """All estimates, model by model."""
        frames = [e.table().reset_index().assign(model=e.name) for e in self.evidences]
        return pd.concat(frames, ignore_index=True).set_index(["model", "estimator"])

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        comparison = None if self.comparison is None else self.comparison.to_dict()
        return {"evidences": [e.to_dict() for e in self.evidences], "comparison": comparison}

    def __str__(self) -> str:
        parts = [str(e) for e in self.evidences]
        return "\n".join(parts if self.comparison is None else [*parts, str(self.comparison)])


def study_evidence(
    models: Sequence[str | Path],
    *,
    odds: Mapping[str, float] | None = None,
    samples: Any = None,
    seed: int = 0,
    fitting: Mapping[str, Any] | None = None,
    **words: Any,
) -> EvidenceStudy:
    """Evidences of model files, and their comparison; nothing warns, for the states are in what is returned.

    Args:
        models: Python files as for ``infer``: ``log_density`` and ``parameters``, or a ``Joint``. Each is named by its stem.
        odds: Prior odds by name.
        samples: Draws of the posterior, of a single model.
        seed: Of everything random.
        fitting: Of ``fit_posterior``.
        **words: Of ``evidence``.

    Raises:
        ConfigError: If names repeat or draws come with several models.
        DataError: If a file is no model.
        FlowError: If a density cannot be used.
    """
    names = [Path(m).stem for m in models]
    check(len(names) > 0, ConfigError, "name at least one model file.")
    check(len(set(names)) == len(names), ConfigError, f"model files {names} repeat a name; rename one.")
    strange = sorted(set(odds or ()) - set(names))
    check(not strange, ConfigError, f"odds are given for {strange}; the models are {names}.")
    message = "draws of the posterior belong to one model; give one model file with them."
    check(samples is None or len(names) == 1, ConfigError, message)
    read = [read_model(m) for m in models]  # all of them, before the first takes its time
    found = []
    for name, (density, parameters) in zip(names, read, strict=True):
        settings = {**words, **(fitting or {})}
        found.append(evidence(density, parameters, samples=samples, name=name, seed=seed, warn=False, **settings))
    return EvidenceStudy(tuple(found), compare_models(found, odds=odds, warn=False) if len(found) > 1 else None)


def write_evidence(study: EvidenceStudy, folder: str | Path) -> None:
    """Write ``evidence.json``, ``estimates.csv`` and ``summary.txt`` into a folder.

    Args:
        study: What ``study_evidence`` gave.
        folder: Made if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / RECORD, [json.dumps(_plain(study.to_dict()), indent=1, allow_nan=False).encode()])
    study.table().to_csv(folder / "estimates.csv")
    atomic_write(folder / "summary.txt", [(str(study) + "\n").encode()])


def _plain(value: Any) -> Any:
    """Numbers that are not finite as null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Simulations on disk: what a run that was stopped need not pay for again."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump

from bijectory.apps.posterior.prior import Prior
from bijectory.apps.posterior.simulations import Simulations
from bijectory.errors import CheckpointError, check
from bijectory.io.fs import atomic_write


def save_simulations(pairs: Simulations, file: str | Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write pairs as safetensors.

    Args:
        pairs: The simulations.
        file: Where to.
        facts: What they are of, JSON-able; read again by ``load_simulations``.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "pairs.safetensors"
        >>> save_simulations(Simulations.of([0.0, 1.0, 2.0], [1.0, float("nan"), 3.0]), file, facts={"seed": 0})
        >>> pairs, facts = load_simulations(file)
        >>> len(pairs), pairs.failed, facts
        (2, 1, {'seed': 0})
    """
    words = {"notes": json.dumps(pairs.notes), "failed": str(pairs.failed), "facts": json.dumps(dict(facts or {}))}
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, [dump({"theta": pairs.theta.contiguous(), "x": pairs.x.contiguous()}, metadata=words)])


def load_simulations(file: str | Path) -> tuple[Simulations, dict[str, Any]]:
    """Read what ``save_simulations`` wrote.

    Returns:
        The pairs and the facts.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    try:
        with safe_open(str(file), framework="pt") as found:
            words, theta, x = found.metadata(), found.get_tensor("theta"), found.get_tensor("x")
        notes, facts = tuple(json.loads(words["notes"])), json.loads(words["facts"])
        return Simulations(theta, x, notes, int(words["failed"])), facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} holds no simulations ({error}); start again without resume.") from None


def kept(
    file: Path | None, make: Callable[[], Simulations], prior: Prior, facts: Mapping[str, Any], *, resume: bool
) -> Simulations:
    """The simulations in ``file`` if a run goes on, else new ones, which are stored there; without a file just new ones.

    Raises:
        CheckpointError: If the stored ones are of another prior or were asked for in another way.
    """
    own = {**facts, "names": list(prior.names), "bounds": [[repr(a), repr(b)] for a, b in prior.bounds]}
    if file is not None and resume and file.exists():
        pairs, theirs = load_simulations(file)
        differ = [f"{k} was {theirs.get(k)}, is now {v}" for k, v in own.items() if theirs.get(k) != v]
        remedy = "use the settings of the first part, or start again without resume"
        check(not differ, CheckpointError, f"{file.name}: {'; '.join(differ)}; {remedy}.")
        return pairs
    pairs = make()
    if file is not None:
        save_simulations(pairs, file, facts=own)
    return pairs

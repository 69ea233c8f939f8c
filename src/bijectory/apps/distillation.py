r"""From a slow density to a fast one: a student learns from draws of a teacher.

.. math:: \mathrm{KL}(p_T \,\|\, p_S) = E_{x \sim p_T}\bigl[\log p_T(x) - \log p_S(x)\bigr]

Its gradient needs draws of the teacher only, of which there are as many as one likes: the student is trained by maximum
likelihood on them. Because the teacher's density is known, the divergence itself is known too, with a standard error, on
draws that the student has not seen. A continuous flow, whose every draw and every density is an integral, becomes a coupling
flow of one pass in both directions.

References:
    Parallel WaveNet: Fast High-Fidelity Speech Synthesis, van den Oord+ 2017, arXiv:1711.10433 (density distillation).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bijectory.apps.assemble import build, core_of, join
from bijectory.apps.table_flow import TableFlow
from bijectory.apps.tabular import keep_rows, load_rows, mean_score, table_config
from bijectory.densities import Density, Encode, Flow
from bijectory.errors import ConfigError, ContextError, check
from bijectory.tables import preprocess
from bijectory.training import Callback, Data, FitConfig, FitResult, fit

CHUNK = 4096  # draws of the teacher at a time
TIMED_ROWS, REPEATS = 4096, 5


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What came out of ``distill``.

    Attributes:
        student: The fast density.
        result: What the training loop says.
        divergence: KL(teacher || student) on fresh draws, nats per event (averaged over contexts).
        standard_error: Of the divergence.
        sampling_speedup: Time of drawing 4096 events, teacher over student, medians of 5 on this machine.
        density_speedup: The same of scoring 4096 events.

    Example:
        >>> from bijectory import StandardNormal, real_nvp
        >>> config = FitConfig(epochs=1, progress=False)
        >>> found = distill(StandardNormal(2), real_nvp(2), draws=200, fresh=100, config=config)
        >>> abs(found.divergence) < 0.5
        True
    """

    student: Flow
    result: FitResult
    divergence: float
    standard_error: float
    sampling_speedup: float
    density_speedup: float

    def __str__(self) -> str:
        return (
            f"KL(teacher || student) = {self.divergence:.4f} ± {self.standard_error:.4f} nats; "
            f"draws {self.sampling_speedup:.2g} x, scores {self.density_speedup:.2g} x as fast as the teacher"
        )


def distill(
    teacher: Density,
    student: Flow,
    contexts: Tensor | None = None,
    *,
    draws: int = 50_000,
    fresh: int = 10_000,
    config: FitConfig | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> Distillation:
    """Train a flow on draws of another density, in place, and measure how far apart they are.

    Args:
        teacher: Any density, e.g. a continuous flow.
        student: A flow for the same events and context.
        contexts: ``(m, context)``, at which the teacher is asked in turn; None without context.
        draws: Number of draws to train on.
        fresh: Number of further draws for the divergence.
        config: Settings of training; None for ``table_config``. Its seed is that of the draws, too.
        callbacks: Watchers of the training loop.

    Raises:
        ConfigError: If the two densities are not for the same events, or a number is out of range.
        ContextError: If a conditional teacher is given no contexts.

    Example:
        >>> from bijectory import cnf, real_nvp
        >>> config = FitConfig(epochs=2, progress=False)
        >>> found = distill(cnf(2), real_nvp(2), draws=500, fresh=100, config=config)
        >>> found.student.sample(3).shape, found.standard_error > 0
        (torch.Size([3, 2]), True)
    """
    same = (teacher.event_shape, teacher.context) == (student.event_shape, student.context)
    kinds = [f"events {tuple(d.event_shape)} and context {d.context}" for d in (teacher, student)]
    check(same, ConfigError, f"the teacher has {kinds[0]}, the student {kinds[1]}; they must be the same.")
    for name, number in (("draws", draws), ("fresh", fresh)):
        check(number >= 2, ConfigError, f"{name} must be at least 2, got {number}.")
    needs = teacher.context == 0 or contexts is not None
    check(needs, ContextError, f"the teacher reads a context of {teacher.context}; pass contexts to ask it at.")
    settings = config or table_config(draws)
    teacher = teacher.eval()
    like = next(student.parameters())
    generator = torch.Generator().manual_seed(settings.seed)
    x, c = draw(teacher, draws + fresh, contexts, generator)
    seen = x[:draws].to(like), None if c is None else c[:draws].to(like)
    result = fit(student, Data(*seen), config=settings, callbacks=callbacks)
    new, c = x[draws:], None if c is None else c[draws:]
    gap = score(teacher, new, c).double() - score(student, new, c).double()
    few = new[:TIMED_ROWS], None if c is None else c[:TIMED_ROWS]
    sampling = speedup(lambda density: draw(density, len(few[0]), few[1], generator), teacher, student)
    density = speedup(lambda density: score(density, *few), teacher, student)
    error = float(gap.std() / len(gap) ** 0.5)
    return Distillation(student, result, float(gap.mean()), error, sampling, density)


def draw(density: Density, n: int, contexts: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """``n`` draws in chunks, at the contexts in turn."""
    c = None if contexts is None else contexts[torch.arange(n) % len(contexts)]
    like = next((p for p in density.parameters()), torch.zeros(()))
    parts = []
    for i in range(0, n, CHUNK):
        size = min(CHUNK, n - i)
        if c is None:
            parts.append(density.sample(size, generator=generator))
        else:
            parts.append(density.sample((), c[i : i + size].to(like), generator=generator))
    return torch.cat(parts), c


def score(density: Density, x: Tensor, c: Tensor | None) -> Tensor:
    """Log-density without gradients, in chunks, in the precision of the density."""
    like = next((p for p in density.parameters()), x)
    with torch.no_grad():
        parts = [
            density.log_prob(x[i : i + CHUNK].to(like), None if c is None else c[i : i + CHUNK].to(like))
            for i in range(0, len(x), CHUNK)
        ]
    return torch.cat(parts)


def speedup(do: Callable[[Density], Any], slow: Density, fast: Density) -> float:
    """Ratio of the median times of two densities, measured in turns."""
    seconds: dict[Density, list[float]] = {slow: [], fast: []}
    for _ in range(REPEATS + 1):
        for density, times in seconds.items():
            began = time.perf_counter()
            do(density)
            times.append(time.perf_counter() - began)
    return statistics.median(seconds[slow][1:]) / statistics.median(seconds[fast][1:])  # the first ones warm up


def distill_table(
    teacher: str | Path,
    *,
    out: str | Path,
    recipe: str = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    draws: int = 50_000,
    config: FitConfig | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> tuple[TableFlow, Distillation]:
    """Distil the flow of a run folder into another recipe, and write a run folder that every verb can read.

    The student keeps the columns and their preparation. With given columns the teacher is asked at those of the training
    rows that its folder keeps.

    Args:
        teacher: Run folder of a table.
        out: Run folder to write.
        recipe: Name of the student's recipe.
        recipe_args: Its keywords.
        draws: Number of draws to train on.
        config: Settings of training; None for ``table_config``.
        callbacks: Watchers of the training loop.

    Raises:
        CheckpointError: If the teacher cannot be read.
        ConfigError: As ``distill``, and for an unknown recipe.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from bijectory import fit_table
        >>> config = FitConfig(epochs=1, progress=False)
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     slow = fit_table(x, recipe="cnf", config=config, out=folder + "/slow", audit=False)
        ...     fast, found = distill_table(folder + "/slow", out=folder + "/fast", draws=500, config=config)
        >>> fast
        TableFlow(x0, x1)
    """
    folder, out = Path(teacher), Path(out)
    model, rows = TableFlow.load(folder), load_rows(folder)
    schema = model.schema
    settings = (config or table_config(draws)).replace(out=out)
    student = build(recipe, schema, recipe_args, settings.seed)
    contexts, embed = None, None
    if schema.givens:
        embed = Encode(preprocess(schema.givens))
        contexts = embed(torch.from_numpy(schema.encode_given(rows["train"]))).float()
    found = distill(core_of(model).float(), student, contexts, draws=draws, config=settings, callbacks=callbacks)
    fast = TableFlow(join(preprocess(schema.targets), found.student, embed), schema)
    parts = {name: fast.score_samples(frame) for name, frame in rows.items() if len(frame) > 1}
    facts = {
        "recipe": recipe,
        "teacher": folder.name,
        "divergence": found.divergence,
        "divergence_error": found.standard_error,
        "sampling_speedup": found.sampling_speedup,
        "density_speedup": found.density_speedup,
        "stop_reason": found.result.stop_reason,
        "best_epoch": found.result.best_epoch,
        "steps": found.result.steps,
        "seconds": round(found.result.seconds, 3),
        "scores": {name: mean_score(s) for name, s in parts.items()},
    }
    fast.save(out, metadata=facts)
    keep_rows(out, rows)
    return fast, found

"""From a table to a density: look, split, standardise, train, put together."""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save
from torch import Tensor, nn

from bijectory.apps.assemble import build, core_of, join, objective_of, recipe_of
from bijectory.apps.kind import SCHEMA
from bijectory.apps.solvers import SolverCheck, settle_solver
from bijectory.apps.table_flow import TableFlow
from bijectory.densities import Audit, Encode, Flow
from bijectory.errors import CheckpointError, ConfigError, DataError, check
from bijectory.io.fs import atomic_write
from bijectory.objectives import REGRESSIONS, Batch, nll
from bijectory.objectives.batch import Objective
from bijectory.tables import DataWarning, Schema, Split, infer_schema, preprocess, split_rows, to_frame, to_matrix
from bijectory.tables.frame import check_columns
from bijectory.tables.prepare import noise_rows
from bijectory.training import Callback, Data, FitConfig, FitResult, fit

PARTS = ("train", "validation", "test")
SPLITS, AUDIT = "splits.safetensors", "audit.json"
SMALL = 1000  # training rows up to which float64 costs nothing
TINY_EPOCHS = 100  # full-batch steps when there are too few rows to hold any out
SOLVED_ROWS = 512  # rows that the solver of a continuous flow is checked on
KEPT_ROWS = 20_000  # rows of each part that a run folder keeps for its report


@dataclasses.dataclass(frozen=True)
class TableFit:
    """What came out of ``fit_table``.

    Attributes:
        model: The density.
        result: What the training loop says; its losses are those of the objective; of the likelihood, in nats per row in
            data units.
        split: Row numbers of the three parts (of the rows that were used, see ``rows``).
        rows: The rows that were used (after rows with NaN or weight 0 were left out), all columns.
        scores: For each part its number of rows, mean log-likelihood in nats, and standard error.
        audit: Checks of the fitted flow on held-out rows (on training rows if nothing was held out), or None.
        solver: For a continuous flow, how accurate its solver is on some of these rows. Where the steps of training were too
            coarse (by more than 0.01 nats a row) the fitted flow takes more.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> fitted = fit_table(x, recipe="real_nvp", config=FitConfig(epochs=2, progress=False))
        >>> fitted.test.shape, sorted(fitted.scores), fitted.audit.ok
        ((30, 2), ['test', 'train', 'validation'], True)
    """

    model: TableFlow
    result: FitResult
    split: Split
    rows: pd.DataFrame
    scores: dict[str, dict[str, float]]
    audit: Audit | None
    solver: SolverCheck | None = None

    @property
    def train(self) -> pd.DataFrame:
        """Rows that were trained on."""
        return self.rows.iloc[self.split.train]

    @property
    def validation(self) -> pd.DataFrame:
        """Rows used for early stopping."""
        return self.rows.iloc[self.split.validation]

    @property
    def test(self) -> pd.DataFrame:
        """Rows that training never saw."""
        return self.rows.iloc[self.split.test]


@dataclasses.dataclass(frozen=True)
class DataUnits:
    """Maximum likelihood on standardised rows, reported in the units of the data.

    The log-determinant of the way to standardised units does not depend on the model, so its mean is a constant: it moves
    the curves, not the gradient.

    Attributes:
        train: Mean log-determinant of the training rows.
        validation: Of the validation rows.
    """

    train: float
    validation: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted mean negative log-likelihood per unit of the data."""
        return nll(model, batch) - (self.train if model.training else self.validation)


def table_config(rows: int, *, objective: str = "nll", **changes: Any) -> FitConfig:
    """Settings of training that suit a number of training rows, and an objective (by name).

    Small tables are trained in batches of 256, larger ones in batches of up to 1024, of which 60 to 100 epochs are enough;
    with many rows noise is no danger and the peak learning rate can be higher. Objectives that regress on noise, as flow
    matching does, take an average of the weights, for their gradients vary more, and a higher learning rate.
    """
    batch = 256 if rows < 20_000 else 512 if rows < 100_000 else 1024
    large = rows >= 20_000
    defaults: dict[str, Any] = {"batch_size": batch, "patience": 15 if large else 30, "lr": 3e-3 if large else 1e-3}
    if rows >= 50_000 and changes.get("time_budget") is None:
        defaults["epochs"] = 60
    if objective in REGRESSIONS:
        defaults |= {"ema_decay": 0.999, "lr": 1e-2}
    return FitConfig(**{**defaults, **changes})


def fit_table(
    data: Any,
    *,
    recipe: str | Callable[..., Flow] = "nsf",
    recipe_args: Mapping[str, Any] | None = None,
    given: Iterable[str] = (),
    bounded: Mapping[str, tuple[float, float]] | None = None,
    positive: Iterable[str] = (),
    heavy: Iterable[str] | Literal["auto"] = "auto",
    dequantize: Iterable[str] | Mapping[str, float | None] = (),
    missing: Literal["raise", "drop"] = "raise",
    constant: Literal["drop", "raise"] = "drop",
    weight: str | np.ndarray | None = None,
    test_fraction: float = 0.1,
    objective: str | Objective | None = None,
    start: TableFlow | str | Path | None = None,
    config: FitConfig | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    audit: bool = True,
) -> TableFit:
    """Fit a normalizing flow to the rows of a table.

    Rows are split by content into training, validation (``config.validation_fraction``) and test parts. Columns are
    standardised in float64 (see ``bijectory.tables.preprocess``), the flow is trained on standardised rows, and both are put
    together into one float64 flow of the raw columns.

    Args:
        data: A data frame, a 2-D array, or a mapping of columns.
        recipe: Name of a recipe, or a function ``(features, context, **recipe_args) -> Flow``.
        recipe_args: Keywords of the recipe.
        given: Columns to condition on.
        bounded: ``name -> (low, high)``.
        positive: Columns with values above 0.
        heavy: Columns with heavy tails; "auto" finds them.
        dequantize: Discrete columns to which noise of one lattice step is added; names, or ``name -> step``.
        missing: "raise" refuses NaN, "drop" leaves such rows out.
        constant: "drop" leaves constant columns outside the flow, "raise" refuses them.
        weight: Name of a column, or ``(n,)`` non-negative weights; a row of weight 2 counts as two rows.
        test_fraction: Part of the rows that training never sees.
        objective: What to train with: a name in ``objectives.OBJECTIVES``, or a callable on standardised rows; None for the
            recipe's own, which is the likelihood for most.
        start: An earlier fit of the same table, or its run folder: training goes on from its weights, its architecture
            takes the place of ``recipe``, and the objective is the likelihood unless asked otherwise.
        config: Settings of training; None for ``table_config``.
        dtype: Precision of training; None takes float64 up to 1000 rows (not with the precision "bf16"), else float32.
        device: Where to train.
        out: Run folder for model, schema, metrics and checkpoints; None writes nothing.
        resume: Go on from the last checkpoint in ``out``.
        callbacks: Watchers of the training loop.
        audit: Check the fitted flow (a second or so).

    Raises:
        DataError, NonFiniteError, DomainError: If the table cannot be used; column, row and remedy are named.
        ConfigError: On contradictory arguments or an unknown recipe.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 2)) * [1.0, 100.0]
        >>> fitted = fit_table(x, recipe="real_nvp", config=FitConfig(epochs=2, progress=False))
        >>> fitted.model
        TableFlow(x0, x1)
        >>> len(fitted.train), len(fitted.test)
        (240, 30)
    """
    check(missing in ("raise", "drop"), ConfigError, f"missing={missing!r}; use 'raise' or 'drop'.")
    check(0 <= test_fraction < 1, ConfigError, f"test_fraction={test_fraction} must be in [0, 1).")
    notes: list[str] = []
    frame, values, w, absent = _read(data, weight, missing, notes)
    check(
        len(frame) >= 2,
        DataError,
        f"Found array with {len(frame)} sample(s) (shape={values.shape}) while a minimum of 2 is required.",
    )
    if start is not None:
        check(not recipe_args, ConfigError, "start brings its architecture; leave recipe_args out.")
        recipe = recipe_of(start)
        start = start if isinstance(start, TableFlow) else TableFlow.load(start)
        objective = objective or nll
    loss, trained_by = objective_of(objective, recipe)
    settings = config or table_config(len(frame), objective=trained_by)
    settings = settings.replace(out=out if out is not None else settings.out, resume=resume or settings.resume)
    split = split_rows(values, validation=settings.validation_fraction, test=test_fraction, seed=settings.seed)
    schema = infer_schema(
        list(frame.columns),
        values,
        given=given,
        bounded=bounded,
        positive=positive,
        heavy=heavy,
        dequantize=dequantize,
        constant=constant,
        train=split.train,
        weight=w,
        missing=absent,
    )
    core = core_of(start, schema) if start is not None else build(recipe, schema, recipe_args, settings.seed)
    if len(frame) < 10 * len(schema.targets):
        size = sum(p.numel() for p in core.parameters())
        notes.append(f"n={len(frame)} rows for {size:,} parameters: expect an overconfident density; use more rows.")
    schema = schema.model_copy(update={"notes": (*notes, *schema.notes)})
    for message in schema.notes:
        warnings.warn(message, DataWarning, stacklevel=2)
    if not len(split.validation):
        settings = settings.replace(validation_fraction=0.0, epochs=min(settings.epochs or TINY_EPOCHS, TINY_EPOCHS))
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        schema.save(settings.out / SCHEMA)
        keep_rows(settings.out, {name: frame.iloc[getattr(split, name)] for name in PARTS})

    small = len(split.train) <= SMALL and settings.precision == "full"
    dtype = dtype or (torch.float64 if small else torch.float32)
    prep = preprocess(schema.targets)
    embed = Encode(preprocess(schema.givens)) if schema.givens else None
    parts, offsets = {}, {}
    for name, index in (("train", split.train), ("validation", split.validation)):
        parts[name], offsets[name] = _standardise(schema, prep, embed, values[index], index, w, settings.seed, dtype)
    held = parts["validation"] if len(split.validation) else ()
    result = fit(
        core.to(device=device, dtype=dtype),
        Data(*parts["train"], *held),
        objective=DataUnits(offsets["train"], offsets["validation"]) if loss is nll else loss,
        config=settings,
        callbacks=callbacks,
    )
    held_out = next(rows for rows in (split.test, split.validation, split.train) if len(rows) > 1)
    model = TableFlow(join(prep, core, embed), schema)
    model.flow, solver = settle_solver(model.flow, *model.tensors(frame.iloc[_thin(held_out, SOLVED_ROWS)]))
    scores = _scores(model, frame, w, split)
    found = model.audit(frame.iloc[_thin(held_out)], seed=settings.seed) if audit else None
    if settings.out is not None:
        facts = {
            "recipe": recipe if isinstance(recipe, str) else recipe.__name__,
            "objective": trained_by,
            "stop_reason": result.stop_reason,
            "best_epoch": result.best_epoch,
            "steps": result.steps,
            "seconds": round(result.seconds, 3),
            "compilation": result.compilation,
            "scores": scores,
            **({"solver": dataclasses.asdict(solver)} if solver else {}),
        }
        model.save(settings.out, metadata=facts)
        if found is not None:
            atomic_write(settings.out / AUDIT, [json.dumps(found.to_dict(), indent=2, allow_nan=False).encode()])
    return TableFit(model, result, split, frame, scores, found, solver)


def load_rows(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The rows that a run folder keeps (at most 20,000 of each part): "train", "validation", "test".

    Raises:
        DataError, CheckpointError: If the folder keeps none, or the file is damaged.
    """
    path = Path(folder) / SPLITS
    check(path.exists(), DataError, f"{folder} has no {SPLITS}; fit again with out={str(folder)!r}.")
    names = Schema.load(Path(folder) / SCHEMA).names
    try:
        return {part: pd.DataFrame(rows, columns=names) for part, rows in load_file(path).items()}
    except Exception as error:  # safetensors has its own family of errors
        raise CheckpointError(f"{path} is damaged ({error}); fit again, or restore the file.") from None


def _read(
    data: Any, weight: str | np.ndarray | None, missing: str, notes: list[str]
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray | None, np.ndarray]:
    """Frame, numbers and weights of the rows that are used, and the number of NaN in each column."""
    frame = to_frame(data)
    w = None
    if isinstance(weight, str):
        check_columns(frame, [weight], "weight")
        w = to_matrix(frame, [weight])[:, 0]
        frame = frame.drop(columns=weight)
    elif weight is not None:
        w = np.asarray(weight, dtype=np.float64)
    if w is not None:
        check(w.shape == (len(frame),), DataError, f"weight has shape {w.shape}, expected ({len(frame)},).")
        good = np.isfinite(w) & (w >= 0)
        check(
            bool(good.all()),
            DataError,
            f"weight is {w[~good][:1]} in row {np.flatnonzero(~good)[:1]}; it must be >= 0.",
        )
        check(bool((w > 0).any()), DataError, "all weights are zero; at least one row must count.")
    values = to_matrix(frame)
    unknown = np.isnan(values)
    keep = np.ones(len(frame), dtype=bool) if w is None else w > 0
    if missing == "drop" and unknown.any():
        dropped = unknown.any(axis=1)
        names = ", ".join(map(repr, frame.columns[unknown.any(axis=0)]))
        notes.append(f"{int(dropped.sum())} of {len(frame)} rows with missing values ({names}) are left out.")
        keep &= ~dropped
    if not keep.all():
        frame, values, w = frame[keep], values[keep], None if w is None else w[keep]
    return frame.reset_index(drop=True), values, w, unknown.sum(axis=0)


def _standardise(
    schema: Schema,
    prep: nn.Module,
    embed: nn.Module | None,
    values: np.ndarray,
    index: np.ndarray,
    w: np.ndarray | None,
    seed: int,
    dtype: torch.dtype,
) -> tuple[Batch, float]:
    """Standardised rows for training, and the mean log-determinant of the way to them."""
    order = [schema.names.index(c.name) for c in schema.targets]
    u = noise_rows(schema.targets, int(index.max(initial=-1)) + 1, seed)[index]
    z, ladj = prep(torch.from_numpy(schema.place(values[:, order], u)))
    c = None
    if embed is not None:
        c = embed(torch.from_numpy(schema.encode_given(pd.DataFrame(values, columns=schema.names)))).to(dtype)
    weight = None if w is None else torch.from_numpy(w[index])
    total = weight if weight is not None else torch.ones(len(index), dtype=torch.float64)
    offset = float((ladj * total).sum() / total.sum()) if len(index) else 0.0
    return Batch(z.to(dtype), c, None if weight is None else weight.to(dtype)), offset


def _scores(model: TableFlow, frame: pd.DataFrame, w: np.ndarray | None, split: Split) -> dict[str, dict[str, float]]:
    out = {}
    for part in PARTS:
        index = _thin(getattr(split, part))
        if len(index) > 1:
            s = model.score_samples(frame.iloc[index])
            share = None if w is None else w[index] / w[index].sum()
            out[part] = mean_score(s, share)
    return out


def mean_score(s: np.ndarray, share: np.ndarray | None = None) -> dict[str, float]:
    """Number of rows, mean log-likelihood and its standard error; ``share`` is the weight of each row, of sum 1."""
    share = np.full(len(s), 1 / len(s)) if share is None else share
    mean = float(share @ s)
    error = float(np.sqrt((share**2) @ (s - mean) ** 2 * len(s) / (len(s) - 1)))
    return {"rows": len(s), "log_likelihood": mean, "standard_error": error}


def _thin(index: np.ndarray, most: int = KEPT_ROWS) -> np.ndarray:
    """Evenly spaced members of a long part."""
    return index[np.linspace(0, len(index) - 1, min(len(index), most)).round().astype(int)]


def keep_rows(out: Path, parts: Mapping[str, pd.DataFrame]) -> None:
    """Write the rows that a run folder keeps for its report."""
    values = {
        name: np.ascontiguousarray(to_matrix(rows.iloc[_thin(np.arange(len(rows)))])) for name, rows in parts.items()
    }
    atomic_write(out / SPLITS, [save(values)])

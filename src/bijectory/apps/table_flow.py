"""A fitted density of a table: rows in, numbers out; columns by name, log-likelihoods in the units of the data."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bijectory.apps.kind import SCHEMA, run_kind
from bijectory.densities import Audit, Flow
from bijectory.errors import CheckpointError, ConfigError, ContextError, DataError, ShapeError, check
from bijectory.io import load, load_metadata, save
from bijectory.io.card import model_card
from bijectory.io.fs import atomic_write
from bijectory.tables import Column, Schema, to_frame
from bijectory.tables.schema import NonFinite, Rows
from bijectory.tables.stream import PART_BYTES
from bijectory.transforms.chain import use_native

CHUNK_BYTES = 1 << 26  # memory of one chunk in scoring and sampling, whatever the number of rows
COMPILE_WORK = 1 << 34  # rows times weights that take longer in plain layers than compiling the kernels does: seconds
CELL_POINTS = 16  # places in a cell of dequantized columns at which the density is averaged


class TableFlow:
    r"""A flow with the schema of its table.

    The flow is float64 and takes raw columns; a row's answer does not depend on the other rows (where they are so many that
    compiling the flow is worth it, see ``Flow.compiled``, it may differ in the last digits). Log-likelihoods are per
    unit of the data. For *dequantized* columns the density is averaged over the cell of the lattice,
    :math:`\log \frac1K \sum_k p(x + u_k s)` at 16 fixed points :math:`u_k`: the log-probability of the cell divided by its
    volume (training maximises the lower bound :math:`E_u \log p(x + u s)`). *Constant* columns are outside the flow: a
    row with another value has density 0.

    Args:
        flow: From raw columns to the latent, float64.
        schema: Its columns.

    Attributes:
        flow: The flow.
        schema: The columns.

    Example:
        >>> from bijectory import Standardize, StandardNormal
        >>> flow = Flow(Standardize(1, [3.0], [2.0]), StandardNormal(1)).double()
        >>> table = TableFlow(flow, Schema(columns=(Column(name="a", loc=3.0, scale=2.0),), rows=10))
        >>> table.score_samples({"a": [3.0]}).round(4)
        array([-1.6121])
        >>> table.sample(2, seed=0).shape
        (2, 1)
    """

    def __init__(self, flow: Flow, schema: Schema) -> None:
        expected = (len(schema.targets),)
        check(
            tuple(flow.event_shape) == expected,
            ShapeError,
            f"the flow has events {tuple(flow.event_shape)}, the schema {expected[0]} target columns.",
        )
        self.flow, self.schema = flow.eval(), schema

    def __repr__(self) -> str:
        given = f", given {', '.join(c.name for c in self.schema.givens)}" if self.schema.givens else ""
        return f"TableFlow({', '.join(c.name for c in self.schema.targets)}{given})"

    @property
    def latent_names(self) -> list[str]:
        """Names of the latent columns: ``z0, z1, ...``."""
        return [f"z{i}" for i in range(len(self.schema.targets))]

    def score_samples(self, data: Any, *, nonfinite: NonFinite = "raise") -> np.ndarray:
        """Log-likelihood of each row in nats, ``(n,)``.

        Args:
            data: A data frame (columns by name, in any order, others ignored) or an array (columns in order).
            nonfinite: "raise", or "propagate": NaN gives NaN, infinity and values outside the bounds give ``-inf``.

        Raises:
            NonFiniteError, DomainError, DataError: With row, column and value.
        """
        frame = self.schema.frame(data)
        out, flow = np.empty(len(frame)), self._engine(len(frame))
        for part, rows in self._read(frame, nonfinite):
            out[part] = self._score(flow, rows)
        return out

    def score_parts(self, parts: Iterable[Any], *, nonfinite: NonFinite = "raise") -> Iterator[pd.DataFrame]:
        """Score a table that comes in parts (see ``read_parts``), in memory bounded by the largest part.

        Equal to ``score_samples`` up to rounding: one copy of the flow, made for parts as large as the first, scores all. A
        row that is refused is refused when its part is reached.

        Args:
            parts: Frames or arrays with consecutive rows.
            nonfinite: As in ``score_samples``.

        Yields:
            Each part as a frame with one column more, ``log_prob``.

        Example:
            >>> from bijectory import Standardize, StandardNormal
            >>> flow = Flow(Standardize(1, [3.0], [2.0]), StandardNormal(1)).double()
            >>> table = TableFlow(flow, Schema(columns=(Column(name="a"),), rows=10))
            >>> [list(part.columns) for part in table.score_parts([np.zeros((5, 1)), np.ones((2, 1))])]
            [['a', 'log_prob'], ['a', 'log_prob']]
        """
        flow, first = None, 0
        for data in parts:
            frame = self.schema.frame(data)
            flow, out = flow or self._engine(len(frame)), np.empty(len(frame))
            for part in self._chunks(len(frame)):
                rows = self.schema.encode(frame.iloc[part], nonfinite, first=first + part.start)
                out[part] = self._score(flow, rows)
            first += len(frame)
            yield frame.assign(log_prob=out)

    def _score(self, flow: Flow, rows: Rows) -> np.ndarray:
        """Log-likelihoods of encoded rows; dequantized columns are averaged over the places in their cells."""
        u = _cell_points(self.schema.targets)
        with torch.inference_mode():
            c = self._context(rows.c)
            scores = [flow.log_prob(self._tensor(self.schema.place(rows.x, v)), c) for v in u]
            found = (torch.stack(scores).logsumexp(0) - np.log(len(u))).cpu().numpy()
        return np.where(rows.known == 0, found, rows.known)

    def score(self, data: Any) -> float:
        """Mean log-likelihood of the rows in nats (a mean, not a sum)."""
        return float(self.score_samples(data).mean())

    def sample(self, n: int, *, given: Any = None, seed: int | None = None) -> pd.DataFrame:
        """Draw rows.

        Args:
            n: Number of rows; with given columns, number of rows for each row of ``given``.
            given: Frame or mapping with the given columns.
            seed: Seed; None takes the global generator of torch.

        Returns:
            All columns in the order of the table: ``n`` rows for the first row of ``given``, then for the second, ...
        """
        c = self._wanted(n, given)
        total = int(n) if c is None else int(n) * len(c)
        out = np.empty((total, len(self.schema.targets)))
        for part, x in self._draws(int(n), c, total, seed):
            out[part] = x
        frame = None if given is None or c is None else to_frame(given).iloc[np.repeat(np.arange(len(c)), n)]
        return self._frame(out, self.schema.names, frame)

    def sample_parts(
        self, n: int, *, given: Any = None, seed: int | None = None, part_bytes: int = PART_BYTES
    ) -> Iterator[pd.DataFrame]:
        """Draw rows part by part: those of ``sample`` with the same seed, in memory bounded by ``part_bytes``.

        Args:
            n: As in ``sample``.
            given: As in ``sample``.
            seed: As in ``sample``.
            part_bytes: About the bytes of a part.

        Yields:
            Frames with consecutive rows, at least one (which has no rows if ``n`` is 0).

        Example:
            >>> from bijectory import StandardNormal, reversal
            >>> table = TableFlow(Flow(reversal(1), StandardNormal(1)).double(), Schema(columns=(Column(name="a"),), rows=9))
            >>> sum(len(part) for part in table.sample_parts(10**5, seed=0, part_bytes=2**18))
            100000
        """
        c = self._wanted(n, given)
        total = int(n) if c is None else int(n) * len(c)
        frame = None if given is None or c is None else to_frame(given)
        rows = max(1, part_bytes // (8 * max(len(self.schema.columns), 1)))
        held: list[np.ndarray] = []
        start = 0
        for part, x in self._draws(int(n), c, total, seed):
            held.append(x)
            if part.stop - start < rows and part.stop < total:
                continue
            each = None if frame is None else frame.iloc[np.arange(start, part.stop) // n]
            yield self._frame(np.concatenate(held), self.schema.names, each)
            held, start = [], part.stop
        if total == 0:
            empty = None if frame is None else frame.iloc[:0]
            yield self._frame(np.empty((0, len(self.schema.targets))), self.schema.names, empty)

    def _wanted(self, n: int, given: Any) -> np.ndarray | None:
        """Check what is asked for; the given columns as numbers."""
        whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 0
        check(whole, ConfigError, f"n must be a non-negative int, got {n!r}.")
        return self._given(given)

    def _draws(self, n: int, c: np.ndarray | None, total: int, seed: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        """Targets chunk by chunk: ``n`` for the first row of ``c``, then for the second, ..."""
        device = self._device()
        generator, flow = None if seed is None else torch.Generator(device).manual_seed(seed), self._engine(total)
        for part in self._chunks(total):
            if c is None:
                x = flow.sample(part.stop - part.start, generator=generator)
            else:
                which = np.arange(part.start, part.stop) // n
                x = flow.sample((), self._tensor(c[which]), generator=generator)
            yield part, x.cpu().numpy()

    def transform(self, data: Any, *, nonfinite: NonFinite = "raise") -> pd.DataFrame:
        """Data -> latent: columns ``z0, z1, ...``, standard normal (or as the base) where the model is right.

        Dequantized columns enter at the middle of their cell; rows that are not finite or out of bounds give NaN (with
        ``nonfinite="propagate"``).
        """
        frame = self.schema.frame(data)
        out = np.empty((len(frame), len(self.schema.targets)))
        with torch.inference_mode():
            for part, rows in self._read(frame, nonfinite):
                z, _ = self.flow.to_latent(self._tensor(self.schema.place(rows.x)), self._context(rows.c))
                out[part] = np.where(rows.valid[:, None], z.cpu().numpy(), np.nan)
        index = data.index if isinstance(data, pd.DataFrame) else None
        return pd.DataFrame(out, columns=self.latent_names, index=index)

    def inverse_transform(self, z: Any, *, given: Any = None) -> pd.DataFrame:
        """Latent -> data: the target columns, for one row of ``given`` each, or for one row in all."""
        index = z.index if isinstance(z, pd.DataFrame) else None
        latent = np.asarray(z, dtype=np.float64)
        width = len(self.schema.targets)
        check(
            latent.ndim == 2 and latent.shape[1] == width,
            ShapeError,
            f"z has shape {latent.shape}, expected (rows, {width}).",
        )
        c = self._given(given)
        if c is not None and len(c) != len(latent):
            check(len(c) == 1, ContextError, f"given has {len(c)} rows, z has {len(latent)}; use 1 or {len(latent)}.")
            c = np.repeat(c, len(latent), axis=0)
        out = np.empty(latent.shape)
        with torch.inference_mode():
            for part in self._chunks(len(out)):
                out[part] = (
                    self.flow.to_data(self._tensor(latent[part]), self._context(None if c is None else c[part]))[0]
                    .cpu()
                    .numpy()
                )
        names = [column.name for column in self.schema.columns if column.role == "target"]
        frame = self._frame(out, names, None)
        return frame if index is None else frame.set_axis(index, axis=0)

    def audit(self, data: Any, *, seed: int = 0) -> Audit:
        """Audit the flow on rows (best held-out ones): round trips, log-determinant, mass, latents; see ``Flow.check``."""
        return self.flow.check(*self.tensors(data, seed=seed), seed=seed)

    def tensors(self, data: Any, *, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """Rows and their contexts as the flow takes them; dequantized columns fill their cells, as in training."""
        rows = self.schema.encode(data)
        u = np.random.default_rng(seed).random(rows.x.shape)
        return self._tensor(self.schema.place(rows.x, u)), self._context(rows.c)

    def save(self, folder: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
        """Write the run folder: ``schema.json``, ``config.json``, ``model.safetensors``, ``README.md`` (the model card)."""
        folder = Path(folder)
        save(self.flow, folder, metadata=metadata)
        self.schema.save(folder / SCHEMA)
        card = model_card(self.flow, {**readable(metadata or {}), **self._facts()}, name=folder.name)
        atomic_write(folder / "README.md", [card.encode()])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder.

        Raises:
            CheckpointError: If a file is missing, altered, or does not belong to the others.
        """
        for record, what in (
            ("ratio.json", "a comparison of two tables"),
            ("study.json", "the posterior of a simulator (`bijectory sbi`)"),
        ):
            foreign = (Path(folder) / record).exists() and not (Path(folder) / SCHEMA).exists()
            check(
                not foreign,
                CheckpointError,
                f"{folder} holds {what}, not the density of a table; open its report.html.",
            )
        flow, kind = load(folder), run_kind(folder)
        image = f"{folder} is the run of images, not of a table; `bijectory sample`, `score` and `show` know images."
        check(kind != "image", CheckpointError, f"{image} In Python use ImageFlow.load.")
        posterior = f"{folder} holds a posterior, not a table; use `bijectory sample`, or VariationalPosterior.load."
        check(kind != "posterior", CheckpointError, posterior)
        vae = f"{folder} holds an autoencoder, not a flow; use `bijectory score` and `sample`, or VaeModel.load."
        check(kind != "vae", CheckpointError, vae)
        simulator = f"{folder} holds the posterior of a simulator; read posterior.csv, or use NeuralPosterior.load."
        check(load_metadata(folder).get("kind") != "posterior", CheckpointError, simulator)
        schema = Schema.load(Path(folder) / SCHEMA)
        check(isinstance(flow, Flow), DataError, f"{folder} holds a {type(flow).__name__}, not a flow.")
        return cls(flow, schema)

    def _facts(self) -> dict[str, Any]:
        groups = {"columns": self.schema.targets, "given": self.schema.givens, "constant": self.schema.constants}
        facts: dict[str, Any] = {k: ", ".join(c.name for c in v) for k, v in groups.items() if v}
        return {**facts, "rows": self.schema.rows, "notes": dict(enumerate(self.schema.notes, 1))}

    def _given(self, given: Any) -> np.ndarray | None:
        names = [c.name for c in self.schema.givens]
        if not names:
            known = {c.name for c in self.schema.columns if c.role == "given"}
            check(given is None or bool(known), ContextError, "this density has no given columns; leave given out.")
            return None
        wanted = f"{', '.join(names)} (--given {names[0]}=VALUE)"
        check(given is not None, ContextError, f"this density is conditional: pass given with {wanted}.")
        return self.schema.encode_given(given)

    def _frame(self, x: np.ndarray, names: list[str], given: pd.DataFrame | None) -> pd.DataFrame:
        """Columns in order, from draws of the targets, constants, and given rows."""
        place = {c.name: k for k, c in enumerate(self.schema.targets)}
        columns: dict[str, Any] = {}
        for column in self.schema.columns:
            if column.name not in names:
                continue
            if column.name in place:
                columns[column.name] = column.settle(x[:, place[column.name]])
            elif given is not None and column.name in given.columns:
                columns[column.name] = given[column.name].to_numpy()
            else:
                columns[column.name] = np.full(len(x), column.value)
        return pd.DataFrame(columns)

    def _device(self) -> torch.device:
        return next((t.device for t in [*self.flow.parameters(), *self.flow.buffers()]), torch.device("cpu"))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(self._device())

    def _context(self, c: np.ndarray | None) -> Tensor | None:
        return None if c is None else self._tensor(c)

    def _read(self, frame: pd.DataFrame, nonfinite: NonFinite) -> Iterator[tuple[slice, Rows]]:
        """Encode a frame chunk by chunk; a bad row is refused before the first chunk is handed out."""
        chunks = list(self._chunks(len(frame)))
        for part in chunks if nonfinite == "raise" else ():
            self.schema.encode(frame.iloc[part], nonfinite, first=part.start)
        for part in chunks:
            yield part, self.schema.encode(frame.iloc[part], nonfinite, first=part.start)

    def _engine(self, rows: int) -> Flow:
        """The flow, or where so many rows are worth it a frozen copy in native kernels, if there is a compiler."""
        if rows * sum(p.numel() for p in self.flow.parameters()) < COMPILE_WORK:
            return self.flow
        flow = self.flow.frozen()
        with contextlib.suppress(OSError):
            use_native(flow)
        return flow

    def _chunks(self, n: int) -> Iterator[slice]:
        """Slices of rows whose widest activations (weights' rows times a handful of copies) fit ``CHUNK_BYTES``."""
        widest = max([len(self.schema.targets), *(p.shape[0] for p in self.flow.parameters() if p.dim() == 2)])
        rows = max(1, CHUNK_BYTES // (8 * 8 * widest))
        for start in range(0, n, rows):
            yield slice(start, min(start + rows, n))


def readable(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata with tables of at most two levels: the third becomes text."""

    def text(value: Any) -> Any:
        return ", ".join(f"{k} {v:.6g}" for k, v in value.items()) if isinstance(value, dict) else value

    return {k: {a: text(b) for a, b in v.items()} if isinstance(v, dict) else v for k, v in metadata.items()}


def _cell_points(columns: list[Column]) -> np.ndarray:
    """``(K, columns)`` points of a Kronecker sequence in the unit cube; one point if no column is dequantized."""
    if all(c.step is None for c in columns):
        return np.full((1, len(columns)), 0.5)
    # Generalised golden ratio: the root of g^(d+1) = g + 1 gives the additive recurrence of lowest known discrepancy.
    d = sum(c.step is not None for c in columns)
    g = 2.0
    for _ in range(64):
        g = (1 + g) ** (1 / (d + 1))
    moving = (0.5 + np.outer(np.arange(CELL_POINTS), g ** -np.arange(1, d + 1))) % 1
    out = np.full((CELL_POINTS, len(columns)), 0.5)
    out[:, [c.step is not None for c in columns]] = moving
    return out

"""In-memory training data: checked once, split once, gathered by index."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from bijectory.errors import DataError, DtypeError, NonFiniteError, ShapeError, check
from bijectory.objectives import Batch
from bijectory.training.config import FitConfig

CHUNK = 4096  # rows per validation chunk: memory stays bounded whatever the size of the held-out part
CHUNK_VALUES = 1 << 18  # and values, for events as large as images
GATHERED = 1 << 18  # values gathered at once in the order of an epoch


@dataclasses.dataclass(frozen=True)
class Data:
    """Training data with an optional explicit validation part.

    Attributes:
        x: ``(n, *event)``.
        c: Context ``(n, *context)`` or None.
        weight: Non-negative sample weights ``(n,)`` or None.
        x_val: Validation rows; None leaves the split to ``FitConfig.validation_fraction``.
        c_val: Context of the validation rows.
        weight_val: Weights of the validation rows.

    Example:
        >>> data = Data(torch.zeros(8, 2), x_val=torch.ones(3, 2))
        >>> len(data.x), len(data.x_val)
        (8, 3)
    """

    x: Tensor
    c: Tensor | None = None
    weight: Tensor | None = None
    x_val: Tensor | None = None
    c_val: Tensor | None = None
    weight_val: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """A set of rows that can be gathered."""

    x: Tensor
    c: Tensor | None
    weight: Tensor | None
    mean_weight: float

    @classmethod
    def make(cls, x: Tensor, c: Tensor | None, weight: Tensor | None, suffix: str = "") -> Self:
        """Check everything once (``suffix`` completes the names in messages)."""
        _check_tensor(f"x{suffix}", x)
        check(x.dim() >= 1, ShapeError, f"x{suffix} is a scalar; expected rows (n, *event).")
        for name, value in ((f"c{suffix}", c), (f"weight{suffix}", weight)):
            if value is None:
                continue
            _check_tensor(name, value)
            check(
                value.dim() >= 1 and len(value) == len(x),
                ShapeError,
                f"{name} has {len(value) if value.dim() else 'no'} rows, x{suffix} has {len(x)}; they must match.",
            )
        mean = 1.0
        if weight is not None:
            check(
                weight.dim() == 1, ShapeError, f"weight{suffix} has shape {tuple(weight.shape)}; expected ({len(x)},)."
            )
            if len(weight) and bool((weight < 0).any()):
                row = int((weight < 0).nonzero()[0])
                raise DataError(
                    f"weight{suffix} is negative in row {row} ({weight[row].item()}); weights must be >= 0."
                )
            mean = float(weight.double().mean()) if len(weight) else 1.0
            check(mean > 0, DataError, f"all weights of weight{suffix} are 0; at least one row must count.")
        return cls(x, c, weight, mean)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Batch:
        """Gather rows by index."""
        pick = lambda t: None if t is None else t.index_select(0, rows)  # noqa: E731
        return Batch(self.x.index_select(0, rows), pick(self.c), pick(self.weight))

    def all(self) -> Batch:
        """Every row, without a copy."""
        return Batch(self.x, self.c, self.weight)

    def within(self, rows: int, values: int) -> int:
        """Number of rows, at least one and at most ``rows``, that hold at most so many values."""
        return max(1, min(rows, values // max(1, self.x[:1].numel())))

    def chunks(self, size: int) -> Iterator[Batch]:
        """Consecutive slices, without a copy."""
        for i in range(0, len(self), size):
            j = i + size
            yield Batch(
                self.x[i:j],
                None if self.c is None else self.c[i:j],
                None if self.weight is None else self.weight[i:j],
            )

    def batches(self, order: Tensor, size: int, start: int) -> Iterator[Batch]:
        """Batches in an order of rows, from batch ``start`` on.

        Several batches are gathered at once: one by one, between steps that fill the caches with other things, costs ten
        times more. Where a batch lies in memory does not depend on ``start``, as rounding in a product may hang on it.
        """
        many = max(1, self.within(len(order), GATHERED) // size)
        for k, rows in enumerate(order.split(many * size)):
            if (k + 1) * many > start:
                columns = [itertools.repeat(None) if t is None else t.split(size) for t in self.take(rows)]
                yield from itertools.islice(map(Batch, *columns), max(0, start - k * many), None)

    def weigh(self, batch: Batch) -> Tensor | float:
        """Rows that a batch counts for: its size, or the sum of its weights divided by the mean weight."""
        return batch.x.shape[0] if batch.weight is None else batch.weight.sum(dtype=torch.float64) / self.mean_weight

    def subset(self, rows: Tensor, suffix: str = "") -> "Rows":
        """The rows of one side of a split."""
        part = self.take(rows)
        mean = 1.0 if part.weight is None else float(part.weight.double().mean())
        check(mean > 0, DataError, f"all weights of the {suffix} part are 0; pass explicit validation rows in Data.")
        return Rows(part.x, part.c, part.weight, mean)


def prepare(
    data: Tensor | tuple[Tensor | None, ...] | Data, config: FitConfig, device: torch.device
) -> tuple[Rows, Rows | None]:
    """Check, split and move data.

    Returns:
        Training rows, and validation rows or None.

    Raises:
        NonFiniteError: If a value is NaN or infinite; row and column are named.
        DataError: With fewer than two rows, or nothing left for one side of the split.
        ShapeError: If lengths differ.
        DtypeError: If something is not a floating-point tensor.
    """
    data = as_data(data)
    rows = Rows.make(data.x, data.c, data.weight)
    shape = tuple(data.x.shape)
    n = len(rows)
    check(n >= 2, DataError, f"Found array with {n} sample(s) (shape={shape}) while a minimum of 2 is required.")
    if data.x_val is not None:
        held = Rows.make(data.x_val, data.c_val, data.weight_val, "_val")
        check(len(held) > 0, DataError, "x_val has 0 rows; leave it out or pass at least one.")
        check(
            data.x_val.shape[1:] == data.x.shape[1:],
            ShapeError,
            f"x_val has events of shape {tuple(data.x_val.shape[1:])}, x of {shape[1:]}.",
        )
        check((data.c is None) == (data.c_val is None), ShapeError, "pass c and c_val together, or neither.")
        return _move(rows, device), _move(held, device)
    if config.validation_fraction == 0:
        return _move(rows, device), None
    n_val = min(max(1, round(n * config.validation_fraction)), n - 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(config.seed)).to(data.x.device)
    # Sorted: both sides keep the order of the table, so the copy is sequential.
    held_rows, train_rows = order[:n_val].sort().values, order[n_val:].sort().values
    return _move(rows.subset(train_rows, "training"), device), _move(rows.subset(held_rows, "validation"), device)


def as_data(data: Tensor | tuple[Tensor | None, ...] | Data) -> Data:
    """Wrap ``x``, ``(x, c)`` or ``(x, c, weight)``."""
    if isinstance(data, Data):
        return data
    if isinstance(data, tuple):
        check(
            1 <= len(data) <= 3, DataError, f"data is a tuple of {len(data)}; expected (x,), (x, c) or (x, c, weight)."
        )
        return Data(*data)  # type: ignore[arg-type]
    return Data(data)


def digest(data: Data) -> dict[str, str]:
    """SHA-256 of every part, for the comparison on resume."""
    out = {}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        if value is not None:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            h = hashlib.sha256(f"{value.dtype}{tuple(value.shape)}".encode())
            h.update(memoryview(raw.numpy()))
            out[field.name] = h.hexdigest()
    return out


def _move(rows: Rows, device: torch.device) -> Rows:
    move = lambda t: None if t is None else t.detach().to(device)  # noqa: E731
    return Rows(rows.x.detach().to(device), move(rows.c), move(rows.weight), rows.mean_weight)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name} is a {type(value).__module__}.{type(value).__name__}; use torch.as_tensor({name}).")
    check(
        value.is_floating_point(), DtypeError, f"{name} is {value.dtype}; expected floating point, use {name}.float()."
    )
    finite = value.isfinite()
    if bool(finite.all()):
        return
    bad = (~finite).reshape(len(value), -1) if value.dim() else (~finite).reshape(1, 1)
    row_ids = bad.any(1).nonzero().flatten()
    column_ids = bad.any(0).nonzero().flatten()
    what = "NaN" if bool(value.isnan().any()) else "infinity"
    raise NonFiniteError(
        f"Input {name} contains {what}: {len(row_ids)} of {len(bad)} rows (first rows {row_ids[:5].tolist()}), "
        f"columns {column_ids[:10].tolist()}; drop or fill these rows before fit."
    )

"""What is known about the data of an autoencoder's run: one JSON file beside the model."""

import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from bijectory.apps.images import ImageSchema
from bijectory.errors import CheckpointError, DataError, NonFiniteError, check
from bijectory.io.fs import atomic_write
from bijectory.ops.hashing import hashed_uniform

Binarize = Literal["no", "dynamic", "threshold"]


class VaeSchema(BaseModel):
    """Images or rows, and how they become the events of a ``VAE``.

    Attributes:
        version: Version of this format.
        kind: "vae", which tells the run from others.
        images: Facts about images, or None for rows.
        binarize: What becomes of grey pixels: "no", "dynamic" (a draw with the pixel's intensity as its probability,
            fresh in training; elsewhere a function of the image itself) or "threshold" (one from the middle on).
        loc: Of rows: mean of each column; events are standardised.
        scale: Of rows: standard deviation of each column.
        rows: Number of images or rows seen.

    Example:
        >>> schema = VaeSchema(loc=(10.0,), scale=(2.0,))
        >>> schema.events(np.array([[14.0]])).tolist(), schema.log_volume
        ([[2.0]], -0.6931471805599453)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    kind: Literal["vae"] = "vae"
    images: ImageSchema | None = None
    binarize: Binarize = "no"
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    rows: int = 0

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event of the model."""
        return (len(self.loc),) if self.images is None else self.images.shape

    @property
    def levels(self) -> int:
        """Number of levels of an event's values; 0 for real ones."""
        return 0 if self.images is None else 2 if self.binarize != "no" else self.images.levels

    @property
    def log_volume(self) -> float:
        """``log |d event / d data|``: what is added to log-densities of events."""
        return -float(np.log(self.scale).sum()) if self.images is None else 0.0

    def encode(self, data: Any) -> np.ndarray:
        """Images as whole-number pixels ``(n, channels, height, width)``, rows as float64 ``(n, columns)``; checked.

        Raises:
            DataError, DomainError, NonFiniteError: If they have another shape, or values that the model cannot take.
        """
        if self.images is not None:
            return self.images.encode(data)
        return find_rows(data, len(self.loc))

    def intensities(self, data: Any) -> np.ndarray:
        """What training takes: intensities in [0, 1] for dynamic binarization, else events."""
        return self.encode(data) / (self._top) if self.binarize == "dynamic" else self.events(data)

    def events(self, data: Any) -> np.ndarray:
        """Events of the model, the same for the same image whatever stands beside it."""
        x = self.encode(data)
        if self.images is None:
            return (x - np.array(self.loc)) / np.array(self.scale)
        if self.binarize == "threshold":
            return (2 * x > self._top).astype(np.float64)
        if self.binarize == "dynamic":
            import torch

            flat = torch.from_numpy(x.reshape(len(x), -1)).long()
            return (
                (hashed_uniform(flat, 1, 0)[0].numpy() < flat.numpy() / self._top).astype(np.float64).reshape(x.shape)
            )
        return x.astype(np.float64)

    def decode(self, events: np.ndarray) -> np.ndarray:
        """Data in their layout from events or their means; pixels of binarized images are 0 to the highest level."""
        if self.images is None:
            return events * np.array(self.scale) + np.array(self.loc)
        x = events * self._top if self.binarize != "no" else events
        return self.images.decode(np.rint(x).clip(0, self._top).astype(np.int64))

    @property
    def _top(self) -> int:
        return 1 if self.images is None else self.images.levels - 1

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        atomic_write(Path(path), [f"{self.model_dump_json(indent=2)}\n".encode()])

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing, damaged, or belongs to a run of another kind.
        """
        path = Path(path)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            kind = found.get("kind") if isinstance(found, dict) else None
            check(kind == "vae", CheckpointError, f"{path.parent} is not the run of an autoencoder.")
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; is {path.parent} a run folder?") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not a JSON schema ({error}); restore it or fit again.") from None
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise CheckpointError(f"{path} is not a valid schema: {where}: {problem['msg']}.") from None


def find_rows(data: Any, columns: int | None = None) -> np.ndarray:
    """Rows of finite numbers, ``(n, columns)`` float64.

    Raises:
        DataError: If they are none, or there is another number of columns.
        NonFiniteError: On NaN or infinity.
    """
    try:
        rows = np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("rows must hold numbers only; drop or encode the columns with text.") from None
    check(rows.ndim == 2, DataError, f"rows have shape {rows.shape}, expected (n, columns).")
    ok = columns is None or rows.shape[1] == columns
    check(ok, DataError, f"rows have {rows.shape[1]} columns, this model takes {columns}.")
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise NonFiniteError(f"row {int(np.argmax(bad))} holds NaN or infinity; repair or drop it.")
    return rows

"""What is known about the images of a run: one JSON file beside the model, enough to read images again."""

import json
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from bijectory.apps.kind import run_kind
from bijectory.errors import CheckpointError, ConfigError, ContextError, DataError, DomainError, NonFiniteError, check
from bijectory.io.fs import atomic_write

FEW = 64  # up to so many levels the largest pixel of the data tells their number
Layout = Literal["HW", "HWC", "CHW"]


class ImageSchema(BaseModel):
    """Shape, levels, layout and classes of images.

    Attributes:
        version: Version of this format.
        kind: "image", which tells the run from that of a table.
        shape: ``(channels, height, width)`` of one image.
        levels: Number of levels of a pixel.
        layout: Order of the axes of an image in arrays: "HW" (grey), "HWC" or "CHW".
        classes: Labels that the model is conditioned on; empty for none.
        counts: Number of training images of each class.
        images: Number of images seen.
        notes: What was assumed when the images were read.

    Example:
        >>> schema = ImageSchema(shape=(1, 8, 8), levels=17, layout="HW", images=100)
        >>> schema.decode(schema.encode(np.full((2, 8, 8), 16))).shape
        (2, 8, 8)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    kind: Literal["image"] = "image"
    shape: tuple[int, int, int]
    levels: int
    layout: Layout
    classes: tuple[int | str, ...] = ()
    counts: tuple[int, ...] = ()
    images: int = 0
    notes: tuple[str, ...] = ()

    @property
    def dims(self) -> int:
        """Number of values of one image."""
        return int(np.prod(self.shape))

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of one image in arrays."""
        c, h, w = self.shape
        return {"HW": (h, w), "HWC": (h, w, c), "CHW": (c, h, w)}[self.layout]

    def encode(self, images: Any) -> np.ndarray:
        """Levels ``(n, channels, height, width)`` of an array of images in this layout.

        Raises:
            DataError, DomainError, NonFiniteError: If they have another shape, or values that are no levels.
        """
        array = np.asarray(images)
        check(
            array.ndim >= 1 and array.shape[1:] == self.array_shape,
            DataError,
            f"images have shape {array.shape}, this model takes (n, {', '.join(map(str, self.array_shape))}).",
        )
        return channels_first(to_levels(array, self.levels), self.layout)

    def decode(self, levels: np.ndarray) -> np.ndarray:
        """An array of images, as the training images were laid out, from levels ``(n, channels, height, width)``."""
        x = levels.astype(np.uint8 if self.levels <= 256 else np.uint16)
        return x[:, 0] if self.layout == "HW" else np.moveaxis(x, 1, -1) if self.layout == "HWC" else x

    def channels_last(self, images: np.ndarray) -> np.ndarray:
        """Images of this layout as pictures: ``(n, height, width)`` or ``(n, height, width, channels)``."""
        return np.moveaxis(images, 1, -1) if self.layout == "CHW" else images

    def context(self, labels: Any, n: int | None = None) -> np.ndarray | None:
        """One-hot classes ``(n, classes)`` of labels, or None for a model without classes.

        Args:
            labels: One label, or one for each image.
            n: Number of images, to which one label is repeated.

        Raises:
            ContextError: If labels are missing, superfluous, unknown, or of the wrong number.
        """
        if not self.classes:
            check(labels is None, ContextError, "this model has no classes; leave the labels out.")
            return None
        listing = ", ".join(map(str, self.classes[:12])) + (" ..." if len(self.classes) > 12 else "")
        check(labels is not None, ContextError, f"this model is class-conditional; give a label: {listing}.")
        found = [_plain(v) for v in np.atleast_1d(np.asarray(labels)).tolist()]
        place = {label: k for k, label in enumerate(self.classes)} | {str(c): k for k, c in enumerate(self.classes)}
        strange = sorted({str(v) for v in found if v not in place})
        check(not strange, ContextError, f"unknown label {', '.join(strange[:4])}; the model knows {listing}.")
        if n is not None and len(found) != n:
            check(len(found) == 1, ContextError, f"{len(found)} labels for {n} images; give one, or one for each.")
            found = found * n
        return np.eye(len(self.classes))[[place[v] for v in found]]

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        atomic_write(Path(path), [f"{self.model_dump_json(indent=2)}\n".encode()])

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: If the file is missing, damaged, or belongs to a table.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            json.loads(text)
            table = run_kind(path.parent) == "table"
            check(not table, CheckpointError, f"{path.parent} is the run of a table; use TableFlow.load.")
            return cls.model_validate_json(text)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}; is {path.parent} a run folder?") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not a JSON schema ({error}); restore it or fit again.") from None
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise CheckpointError(f"{path} is not a valid schema: {where}: {problem['msg']}.") from None


def find_layout(shape: tuple[int, ...]) -> Layout:
    """Order of the axes of ``(n, ...)`` images.

    Three dimensions are grey images. Of four, the last one holds the channels if its size is 1 to 4 (so if both ends are
    that small); else the second one must be.

    Raises:
        DataError: If neither is.
    """
    if len(shape) == 3:
        return "HW"
    expected = "expected (n, height, width), (n, height, width, channels) or (n, channels, height, width)"
    ok = len(shape) == 4 and (1 <= shape[3] <= 4 or 1 <= shape[1] <= 4)
    check(ok, DataError, f"images have shape {shape}; {expected} with 1 to 4 channels.")
    return "HWC" if 1 <= shape[3] <= 4 else "CHW"


def channels_first(x: np.ndarray, layout: Layout) -> np.ndarray:
    """``(n, channels, height, width)`` from any layout."""
    return x[:, None] if layout == "HW" else np.moveaxis(x, -1, 1) if layout == "HWC" else x


def find_levels(x: np.ndarray) -> int:
    """Number of levels that pixels seem to have: 256, or one more than the largest whole number if that is small."""
    if x.dtype.kind == "f" and not _whole(x):
        return 256
    top = int(x.max(initial=0))
    return max(2, top + 1) if top < FEW else 256


def to_levels(x: np.ndarray, levels: int) -> np.ndarray:
    """Pixels as whole numbers ``0 ... levels - 1``.

    Whole numbers (of any dtype) are levels already; other floats must lie in [0, 1] and are multiplied by ``levels - 1``
    and rounded.

    Raises:
        NonFiniteError: On NaN or infinity.
        DomainError: On values outside the range.
        ConfigError: If ``levels`` is not in 2 ... 65536.
    """
    check(2 <= levels <= 65536, ConfigError, f"levels={levels} must be in 2 ... 65536.")
    check(x.dtype.kind in "uifb", DataError, f"images have dtype {x.dtype}; pass numbers.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise NonFiniteError(f"images {_first(~np.isfinite(x))} hold NaN or infinity; repair or drop them.")
    if x.dtype.kind == "f" and not _whole(x):
        low, high = float(x.min()), float(x.max())
        ok = low >= 0 and high <= 1
        check(ok, DomainError, f"float pixels lie in [{low:g}, {high:g}]; give whole numbers, or floats in [0, 1].")
        return np.round(x * (levels - 1)).astype(np.int32)
    if x.size and (x.min() < 0 or x.max() >= levels):
        bad = (x < 0) | (x >= levels)
        raise DomainError(
            f"pixels are {x.min():g} ... {x.max():g} (first outside: image {_first(bad)}), expected 0 ... {levels - 1}; "
            "pass levels= (--levels) with their number."
        )
    return x.astype(np.int32)


def _whole(x: np.ndarray) -> bool:
    return bool((x == np.floor(x)).all())


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(1)))


def _plain(label: Any) -> int | str:
    return int(label) if isinstance(label, (int, float)) and float(label).is_integer() else str(label)


def find_classes(labels: Any, n: int) -> tuple[np.ndarray | None, tuple[int | str, ...]]:
    """Number of the class of each image, and the classes: whole numbers or names, in order; nothing without labels.

    Raises:
        DataError: If there is not one label for each image, or only one class.
    """
    if labels is None:
        return None, ()
    found = np.asarray(labels)
    check(found.shape == (n,), DataError, f"labels have shape {found.shape}, expected ({n},), one for each image.")
    plain = [_plain(v) for v in found.tolist()]
    numbers = all(isinstance(v, int) for v in plain)
    classes = tuple(sorted(set(plain), key=None if numbers else str))
    check(
        len(classes) >= 2,
        DataError,
        f"all labels are {classes[0]!r}; leave labels out, there is nothing to tell apart.",
    )
    place = {c: k for k, c in enumerate(classes)}
    return np.array([place[v] for v in plain]), classes

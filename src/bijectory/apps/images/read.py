"""Files into arrays of images; every refusal names the file and the remedy."""

import gzip
import itertools
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bijectory.errors import DataError, check
from bijectory.tables.read import read_arrays

PICTURES = (".png", ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LABELS = ("labels", "label", "y", "y_train", "classes")
IMAGES = ("images", "image", "x", "x_train", "X", "arr_0", "samples")


class Images(NamedTuple):
    """Images as they were stored.

    Attributes:
        images: ``(n, height, width)``, ``(n, height, width, channels)`` or ``(n, channels, height, width)``.
        labels: ``(n,)`` numbers or names, or None.
        names: File names where every image was a file of its own, or None.

    Example:
        >>> Images(np.zeros((5, 28, 28), np.uint8)).labels is None
        True
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    names: tuple[str, ...] | None = None


def read_images(path: str | Path) -> Images:
    r"""Read images, and labels where there are any.

    * ``.npy``: one array of images.
    * ``.npz``: an array ``images`` (or the only array with 3 or 4 dimensions) and, if there is one, ``labels``.
    * idx, the format of MNIST, also ``.gz``; the labels come from the file beside it whose name has ``labels-idx1`` for
      ``images-idx3``, if it is there.
    * A folder of PNG or JPEG files of one size, in the order of their names; if it holds folders instead, their names are
      the labels. Grey if all files are, else RGB.

    Args:
        path: The file or folder.

    Raises:
        DataError: If it is missing, empty, damaged, or does not hold images of one size.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "images.npz"
        >>> np.savez(path, images=np.zeros((5, 8, 8), np.uint8), labels=np.arange(5))
        >>> read_images(path).images.shape, read_images(path).labels.tolist()
        ((5, 8, 8), [0, 1, 2, 3, 4])
    """
    path = Path(path)
    check(path.exists(), DataError, f"there is no file or folder {path}; check the path.")
    try:
        found = _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the file and its permissions."
        ) from None
    check(len(found.images) > 0, DataError, f"{path} holds no image; give at least two.")
    if found.labels is not None:
        ok = found.labels.shape == (len(found.images),)
        check(ok, DataError, f"{path}: {len(found.images)} images, but labels of shape {found.labels.shape}.")
    return found


def holds_images(path: str | Path) -> bool:
    """Whether a path looks like images rather than a table: a folder, idx, or an array with 3 or 4 dimensions.

    Only headers are read; what cannot be read is not images.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return True
        if not path.is_file():
            return False
        if path.suffix == ".npy":
            return len(_npy_shape(path)) in (3, 4)
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                shapes = [_npy_header(archive.open(n)) for n in archive.namelist() if n.endswith(".npy")]
            return any(len(shape) in (3, 4) for shape in shapes)
        return _is_idx(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _read_file(path: Path) -> Images:
    if path.suffix in ARRAYS:
        return _read_numpy(path)
    if _is_idx(path):
        images = _read_idx(path)
        ok = images.ndim in (3, 4)
        check(
            ok,
            DataError,
            f"{path} has shape {images.shape}; pass the images-idx3 file, its labels are found beside it.",
        )
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
        return Images(images, _read_idx(beside) if beside != path and beside.exists() else None)
    raise DataError(f"{path} is no file of images; expected .npy, .npz, idx (as of MNIST), or a folder of PNG files.")


def _read_numpy(path: Path) -> Images:
    arrays = read_arrays(path)
    pictures = {k: a for k, a in arrays.items() if a.ndim in (3, 4) and a.dtype.kind in "uifb"}
    named = [k for k in IMAGES if k in pictures] or list(pictures)
    shapes = ", ".join(f"{k}: {a.shape}" for k, a in arrays.items())
    expected = "expected (n, height, width), (n, height, width, channels) or (n, channels, height, width)"
    check(bool(pictures), DataError, f"{path} holds {shapes}; {expected}.")
    sure = named[0] in IMAGES or len(pictures) == 1
    check(sure, DataError, f"{path} holds {shapes}; call the one to use 'images'.")
    images = pictures[named[0]]
    labels = next((arrays[k] for k in LABELS if k in arrays and k != named[0]), None)
    return Images(images, None if labels is None else labels.squeeze())


def _open(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile):
        raise DataError(f"{path} is a damaged gzip file; copy or compress it again.") from None


def _is_idx(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            head = file.read(4)
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in IDX_TYPES and 1 <= head[3] <= 4


def _read_idx(path: Path) -> np.ndarray:
    """Type and number of dimensions, sizes as big-endian 32-bit numbers, then the numbers (Y. LeCun, MNIST)."""
    data = _open(path)
    kind, dims = data[2], data[3]
    begin = 4 + 4 * dims
    check(len(data) >= begin, DataError, f"{path} is truncated: {len(data)} bytes; copy it again.")
    shape = struct.unpack(f">{dims}I", data[4:begin])
    dtype = np.dtype(IDX_TYPES[kind])
    expected = begin + math.prod(shape) * dtype.itemsize
    wrong = f"{path} has {len(data)} bytes where its header announces {expected}; copy it again."
    check(len(data) == expected, DataError, wrong)
    return np.frombuffer(data, dtype, offset=begin).reshape(shape).astype(dtype.newbyteorder("="))


def _npy_shape(path: Path) -> tuple[int, ...]:
    with path.open("rb") as file:
        return _npy_header(file)


def _npy_header(file: object) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)[0]  # type: ignore[arg-type]


def _read_folder(path: Path) -> Images:
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
    labels = None
    if not files:
        groups = [(d, sorted(p for p in d.iterdir() if p.suffix.lower() in PICTURES)) for d in sorted(_folders(path))]
        files = [p for _, group in groups for p in group]
        labels = np.array([d.name for d, group in groups for _ in group])
    if not files:
        others = sorted(p.name for p in path.iterdir())
        hint = f"it holds {', '.join(others[:4])}{' ...' if len(others) > 4 else ''}" if others else "it is empty"
        raise DataError(f"{path} holds no PNG or JPEG file; {hint}. Pass a file in it, or another folder.")
    names = tuple(str(p.relative_to(path)) for p in files)
    return Images(np.stack(list(_decode(files))), labels, names)


def _folders(path: Path) -> Iterator[Path]:
    return (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _decode(files: list[Path]) -> Iterator[np.ndarray]:
    """Pixels of each file; the first one that does not fit is named."""
    from PIL import Image, UnidentifiedImageError

    sizes, modes = [], []
    for file in files:
        try:
            with Image.open(file) as picture:
                sizes.append(picture.size)
                modes.append(picture.mode)
        except UnidentifiedImageError:
            raise DataError(f"{file} is not a picture, whatever its name says; remove it.") from None
    for file, mode in zip(files, modes, strict=True):
        deep = mode.startswith(("I", "F"))
        check(not deep, DataError, f"{file} has more than 8 bits a channel ({mode}); convert it to 8 bits.")
    odd = next((k for k, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None:
        first, other = (f"{files[k].name} is {sizes[k][0]} x {sizes[k][1]}" for k in (0, odd))
        raise DataError(f"pictures differ in size: {first}, {other}; scale or crop all to one size.")
    grey = all(mode in ("1", "L", "LA") for mode in modes)
    for file in files:
        with Image.open(file) as picture:
            try:
                yield np.asarray(picture.convert("L" if grey else "RGB"))
            except OSError as error:
                raise DataError(f"{file} is damaged ({error}); remove or replace it.") from None


def write_grid(path: Path, images: np.ndarray, levels: int = 256, columns: int | None = None) -> None:
    """Write images ``(n, height, width[, channels])`` side by side as one PNG.

    Args:
        path: The PNG file.
        images: Whole-number pixels ``0 ... levels - 1``, channels last.
        levels: Number of levels; they are spread over black to white.
        columns: Images in a row; None for about a square.
    """
    from PIL import Image

    Image.fromarray(grid(images, levels, columns)).save(path, format="PNG")


def grid(images: np.ndarray, levels: int = 256, columns: int | None = None) -> np.ndarray:
    """Images side by side as one ``uint8`` picture with a thin line between; see ``write_grid``."""
    n, height, width, *rest = images.shape
    channels = rest[0] if rest else 1
    columns = columns or max(1, math.ceil(math.sqrt(n)))
    rows = max(1, -(-n // columns))
    picture = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, 3), 160, dtype=np.uint8)
    shades = np.round(images.reshape(n, height, width, channels).astype(np.float64) * (255 / (levels - 1)))
    shades = shades.clip(0, 255).astype(np.uint8)
    if channels not in (1, 3):  # nothing that a picture could show: the mean of the channels
        shades = shades.mean(-1, keepdims=True).astype(np.uint8)
    for image, (i, j) in zip(shades, itertools.product(range(rows), range(columns)), strict=False):
        y, x = i * (height + 1) + 1, j * (width + 1) + 1
        picture[y : y + height, x : x + width] = image
    return picture

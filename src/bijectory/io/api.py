"""Save, load, and what lies between two states of a folder."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from bijectory.errors import CheckpointError, ConfigError, check
from bijectory.io import config as configs
from bijectory.io import fs, state, weights
from bijectory.io.config import Config
from bijectory.spec import from_spec, to_spec

WEIGHTS = "model.safetensors"
NEXT = "model.next.safetensors"


def save(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    metadata: dict[str, Any] | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Store a flow, or any other part with parameters, in a folder; a model that is already there stays until the end.

    Args:
        model: A flow, density, transform or network made of library parts and registered classes.
        folder: The run folder; made if it does not exist.
        metadata: Plain data to keep with the model (held-out figures, a training summary), see ``load_metadata``.
        allow_nonfinite: Store NaN and infinite weights too.

    Raises:
        CheckpointError: If a part cannot be stored, a weight is not finite, or the file system refuses; the previous model
            in the folder is then intact.

    Example:
        >>> import bijectory, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> bijectory.save(bijectory.real_nvp(2, layers=2), folder, metadata={"val_loss": 1.5})
        >>> bijectory.load(folder).event_shape, bijectory.load_metadata(folder)
        (torch.Size([2]), {'val_loss': 1.5})
    """
    check(
        isinstance(model, nn.Module), ConfigError, f"save takes a flow or another module, got {type(model).__name__}."
    )
    folder = Path(folder)
    gathered = state.gather(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not allow_nonfinite:
        for name, tensor in gathered.state.items():
            state.check_finite(name, tensor.detach(), inf_allowed=name not in parameters)
    config = Config(
        model=gathered.model,
        tensors={name: weights.Entry.of(name, tensor) for name, tensor in gathered.state.items()},
        derived=gathered.derived,
        frozen=gathered.frozen,
        default_dtype=str(torch.get_default_dtype()).removeprefix("torch."),
        metadata=to_spec(metadata or {}),
        library_version=importlib.import_module("bijectory").__version__,
    )
    text, digest = config.encode()
    head = weights.header(config.tensors, digest)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _settle(folder)
        fs.atomic_write(folder / NEXT, weights.chunks(gathered.state, head))
        fs.atomic_write(folder / configs.NAME, [text])
        fs.rename(folder / NEXT, folder / WEIGHTS)

    def fate() -> str:
        if _digest(folder) == digest:
            return "the new model can be loaded, save again to tidy the folder"
        _settle(folder)
        return "what was saved there before is intact"

    fs.guarded(write, folder, len(head) + config.nbytes + len(text), fate)


def load(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu", allow_nonfinite: bool = False) -> Any:
    """Load what ``save`` stored, in evaluation mode, every tensor with its dtype.

    Nothing in the folder is executed: classes come from an allow-list, tensors are bytes. Every byte of both files is
    checked, and sizes before memory is asked for.

    Args:
        folder: The run folder.
        device: Where the tensors go.
        allow_nonfinite: Accept NaN and infinite weights.

    Raises:
        CheckpointError: If the model is missing, truncated, altered, foreign, newer than the library, of an unknown class,
            or not finite.

    Example:
        >>> import bijectory, tempfile
        >>> flow, folder = bijectory.real_nvp(2, layers=2).double(), tempfile.mkdtemp()
        >>> bijectory.save(flow, folder)
        >>> x = torch.zeros(5, 2, dtype=torch.float64)
        >>> torch.equal(bijectory.load(folder).log_prob(x), flow.log_prob(x))
        True
    """
    folder = Path(folder)
    config, file = _open(folder)
    with file:
        with _about(file.name):
            _check_file(config, file)
        with _about(folder / configs.NAME):
            model = state.build(config)
        with _about(file.name):
            state.restore(model, config, file, allow_nonfinite=allow_nonfinite)
    return model.eval().to(device)


def load_metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata that ``save`` stored, without building the model.

    Raises:
        CheckpointError: If ``config.json`` is missing, altered or foreign.

    Example:
        >>> import bijectory, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> bijectory.save(bijectory.real_nvp(2), folder, metadata={"rows": 100})
        >>> bijectory.load_metadata(folder)
        {'rows': 100}
    """
    metadata = from_spec(configs.read(Path(folder))[0].metadata)
    check(isinstance(metadata, dict), CheckpointError, f"{Path(folder) / configs.NAME}: the metadata is not a table.")
    return metadata


@contextlib.contextmanager
def _about(path: str | Path) -> Iterator[None]:
    """Name the file in every refusal."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__


def _open(folder: Path) -> tuple[Config, IO[bytes]]:
    """Config and the open weights that belong to it; tried again when a writer replaced the pair in between."""
    for _ in range(3):
        config, digest = configs.read(folder)
        for name in (WEIGHTS, NEXT):
            try:
                file = (folder / name).open("rb")
            except OSError:
                continue
            if weights.paired_with(file) == digest:
                return config, file
            file.close()
    raise CheckpointError(f"{folder / WEIGHTS}: {_unpaired(folder / WEIGHTS, config, digest)}")


def _unpaired(path: Path, config: Config, digest: str) -> str:
    try:
        with path.open("rb") as file:
            got, other = os.fstat(file.fileno()).st_size, weights.paired_with(file)
    except FileNotFoundError:
        return "the file is missing; config.json alone is not a model."
    except OSError as error:
        return f"the file cannot be read: {(error.strerror or str(error)).lower()}."
    expected = len(weights.header(config.tensors, digest)) + config.nbytes
    if other is None and got < expected:
        return _truncated(got, expected)
    if other is None:
        return "the header was altered, or this is not a weights file of Bijectory; use a backup."
    return (
        f"the weights belong to another config.json (sha256 {other[:12]}…, here {digest[:12]}…); restore both files "
        "from the same run."
    )


def _check_file(config: Config, file: IO[bytes]) -> None:
    digest = weights.paired_with(file)
    head = weights.header(config.tensors, digest or "")
    got, expected = os.fstat(file.fileno()).st_size, len(head) + config.nbytes
    check(got >= expected, CheckpointError, _truncated(got, expected))
    check(
        got == expected,
        CheckpointError,
        f"{fs.grouped(got)} bytes instead of {fs.grouped(expected)}: something was appended; use a backup.",
    )
    file.seek(0)
    check(file.read(len(head)) == head, CheckpointError, "the header was altered; use a backup.")


def _truncated(got: int, expected: int) -> str:
    return f"truncated: {fs.grouped(got)} of {fs.grouped(expected)} bytes; use a backup or save the model again."


def _digest(folder: Path) -> str | None:
    """Digest of the config in the folder, None if there is no valid one; a passing failure to read is an ``OSError``."""
    try:
        return configs.read(folder)[1]
    except CheckpointError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        return None


def _settle(folder: Path) -> None:
    """Finish or sweep up what an interrupted ``save`` left behind."""
    for name in (WEIGHTS, NEXT, configs.NAME):
        fs.temporary(folder / name).unlink(missing_ok=True)
    if not (folder / NEXT).exists():
        return
    digest = _digest(folder)
    with (folder / NEXT).open("rb") as file:
        committed = digest is not None and weights.paired_with(file) == digest
    if committed:
        fs.rename(folder / NEXT, folder / WEIGHTS)
    else:
        (folder / NEXT).unlink()

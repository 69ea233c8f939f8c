"""Between a live model and what is stored of it: gather at save, verify by rebuilding, restore at load."""

import contextlib
import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import IO, Any

import torch
from torch import Tensor, nn

from bijectory.errors import CheckpointError, check
from bijectory.io import weights
from bijectory.io.budget import Budget
from bijectory.io.config import Config
from bijectory.io.weights import DTYPES, Entry
from bijectory.nets import Freezable
from bijectory.spec import from_spec, to_spec
from bijectory.spec.registry import is_library

_PLAIN = (bool, int, float, str, type(None), torch.Size, torch.dtype)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What is stored of a model: all of ``Config`` that does not come from the caller, and the tensors themselves."""

    model: Any
    state: dict[str, Tensor]
    derived: dict[str, Entry]
    frozen: list[str]


def gather(model: nn.Module) -> Gathered:
    """Specification and tensors of a live model, verified by building it again.

    Raises:
        CheckpointError: If a part cannot be stored or would not come back as it is.
    """
    if any(isinstance(part, Freezable) and part.is_frozen for part in model.modules()):
        model = copy.deepcopy(model)  # an evaluation copy is stored as the plain model, with the same numbers
        for part in model.modules():
            if isinstance(part, Freezable):
                part.thaw()
    described = to_spec(model)
    with constructing(torch.get_default_dtype()):
        rebuilt = from_spec(json.loads(json.dumps(described)))
    state = _state(model)
    _same_structure(model, rebuilt, state, _state(rebuilt))
    derived, built = _derived(model, state), _derived(rebuilt, state)
    for name, buffer in derived.items():
        if name not in built or buffer.shape != built[name].shape:
            raise CheckpointError(_changed(name, "its shape cannot be restored"))
        if not _equal(built[name].to(buffer.dtype), buffer.cpu()):  # set after construction, or random: keep the value
            state[name] = buffer
    entries = {n: Entry.of(n, b) for n, b in derived.items() if n not in state}
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    return Gathered(described, state, entries, frozen)


def build(config: Config) -> nn.Module:
    """Build the model of a file with fresh weights and compare it with the table of tensors.

    Raises:
        CheckpointError: If the specification is refused, costs too much, or does not fit the table.
    """
    elements = sum(e.nbytes // e.dtype.itemsize for e in config.tensors.values())
    with constructing(DTYPES[config.default_dtype]), Budget(config.nbytes, len(config.tensors)):
        model = from_spec(config.model, max_int=max(2**20, 8 * elements))
    check(isinstance(model, nn.Module), CheckpointError, f"the file describes a {type(model).__name__}, not a model.")
    state = _state(model)
    derived = _derived(model, state)
    expected = {n: tuple(t.shape) for n, t in (*state.items(), *derived.items())}
    for name, entry in config.tensors.items():
        if name not in expected:
            raise CheckpointError(
                f"tensor {name!r} in the weights has no place in the model that config.json describes."
            )
        if entry.shape != expected[name]:
            raise CheckpointError(f"tensor {name!r} has shape {entry.shape}, the model needs {expected[name]}.")
    missing = [n for n in state if n not in config.tensors] + [
        n for n in derived if n not in config.tensors and n not in config.derived
    ]
    check(not missing, CheckpointError, f"tensor {missing[0] if missing else ''!r} of the model is not in the weights.")
    return model


def restore(model: nn.Module, config: Config, file: IO[bytes], *, allow_nonfinite: bool) -> None:
    """Read every tensor into its place, with its dtype, and verify digests on the way."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, entry in config.tensors.items():
        tensor = weights.read(file, entry, name)
        if not allow_nonfinite:
            check_finite(name, tensor, inf_allowed=name not in parameters)
        if name in parameters:
            parameters[name].data = tensor
        else:
            owner, leaf = _owner(model, name)
            owner._buffers[leaf] = tensor
    for name, entry in config.derived.items():
        owner, leaf = _owner(model, name)
        buffer = owner._buffers.get(leaf)
        if buffer is None or buffer.shape != entry.shape:
            raise CheckpointError(f"the model has no buffer {name!r} of shape {entry.shape}.")
        buffer = owner._buffers[leaf] = buffer.to(entry.dtype)
        # Floating values may differ in the last bit on another machine; orders, masks and permutations may not at all.
        if not entry.dtype.is_floating_point and Entry.of(name, buffer) != entry:
            raise CheckpointError(f"{name} comes out differently than at saving; use the library that saved it.")
    for name in config.frozen:
        check(name in parameters, CheckpointError, f"the model has no parameter {name!r}.")
        parameters[name].requires_grad_(False)  # noqa: FBT003


def check_finite(name: str, tensor: Tensor, *, inf_allowed: bool) -> None:
    """Refuse NaN everywhere, and infinity in parameters (a bound kept in a buffer may be infinite)."""
    if not tensor.is_floating_point():
        return
    bad = tensor.isnan() if inf_allowed else ~tensor.isfinite()
    if bad.any():
        raise CheckpointError(
            f"tensor {name!r} has {int(bad.sum())} of {tensor.numel()} values that are NaN or infinite; the model is not "
            "usable (allow_nonfinite=True to inspect it)."
        )


@contextlib.contextmanager
def constructing(dtype: torch.dtype) -> Iterator[None]:
    """Build on the CPU, under a given default dtype and always the same seed; the caller's random state stays as it is.

    The seed makes what ``load`` builds equal to what ``save`` verified, even where a constructor draws random numbers.
    """
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        if dtype != before:
            torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            if dtype != before:
                torch.set_default_dtype(before)


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    for name, value in state.items():
        check(
            isinstance(value, Tensor), CheckpointError, f"{name} is a {type(value).__name__}, only tensors are stored."
        )
    return dict(state)


def _derived(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: b for n, b in model.named_buffers(remove_duplicate=False) if n not in state}


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError:
        raise CheckpointError(f"the model has no part {path!r}.") from None


def _equal(a: Tensor, b: Tensor) -> bool:
    return bytes(weights.raw(a)) == bytes(weights.raw(b))


def _changed(name: str, why: str) -> str:
    return f"{name} was changed after construction and {why}; make the change through constructor arguments, then save."


def _same_structure(live: nn.Module, rebuilt: nn.Module, state: dict[str, Tensor], built: dict[str, Tensor]) -> None:
    for name in state.keys() ^ built.keys():
        raise CheckpointError(_changed(name, "is not what its constructor arguments build"))
    for name in state:
        if state[name].shape != built[name].shape:
            raise CheckpointError(
                _changed(name, f"has shape {tuple(state[name].shape)}, not {tuple(built[name].shape)}")
            )
    if _ties(state) != _ties(built):
        raise CheckpointError("parameters are shared between parts in a way that the constructors do not repeat.")
    for (name, part), (_, other) in zip(live.named_modules(), rebuilt.named_modules(), strict=True):
        if not is_library(type(part)):
            continue
        for key, value in vars(part).items():
            plain = isinstance(value, _PLAIN) or (
                isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value)
            )
            if plain and key != "training" and repr(value) != repr(vars(other).get(key)):
                raise CheckpointError(
                    _changed(f"{name}.{key}".lstrip("."), f"would come back as {vars(other).get(key)!r}, not {value!r}")
                )


def _ties(state: dict[str, Tensor]) -> list[str]:
    first: dict[int, str] = {}
    return [first.setdefault(id(t), n) for n, t in state.items()]
